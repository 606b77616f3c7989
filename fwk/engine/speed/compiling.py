"""torch.compile: what is compiled, and a warning where compilation does not come to an end.

Every encoder is one graph per situation (training, evaluation, a teacher's call without gradient; with and without a
mask or an embedding change; one sequence or several). A dimension that varies is made symbolic the first time it does,
so after the warm-up no shape compiles anything again. A run in which that does not hold logs a warning.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fwk.contracts.hooks import hookimpl
from fwk.engine.module import ObjectiveModule
from fwk.engine.run import Run
from fwk.engine.speed.recompute import Recomputed
from fwk.files.private import make_private

BACKEND = "inductor"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# per function; beyond torch's default of 8 a function would silently run uncompiled
MOST_GRAPHS = 64
WARM_UP = 20  # during this many updates after a start or a change of phase, compiling is expected and not reported
MOST_WARNINGS = 5
LONGEST_REASON = 200  # characters of torch's reasons in a warning

logger = logging.getLogger(__name__)


def compile_networks(module: ObjectiveModule, backend: str | None = None) -> None:
    """Compile the encoders, and functions marked with `fwk.nn.compiled`, when they are first called."""
    import torch._dynamo as dynamo
    from torch._functorch import config as functorch

    use_private_cache()
    for name in ("recompile_limit", "cache_size_limit"):  # its names in newer and in older versions
        if hasattr(dynamo.config, name):
            setattr(dynamo.config, name, max(MOST_GRAPHS, getattr(dynamo.config, name)))
    if any(isinstance(part, Recomputed) for part in module.modules()):
        # DDP has graphs cut where its buckets end, which is not possible inside layers that run again
        dynamo.config.optimize_ddp = False
    if hasattr(functorch, "donated_buffer"):
        # donated buffers are reused in the backward pass, and then a second one over the same graph is refused
        # (gradients per term, or an objective's own)
        functorch.donated_buffer = False
    module.encoding.backend = backend or BACKEND
    for network in module.networks.values():
        network.compile(backend=module.encoding.backend)


def use_private_cache() -> None:
    """Let torch keep compiled code where no other user can plant any; TORCHINDUCTOR_CACHE_DIR wins.

    By default it loads libraries from a folder of a predictable name in the folder for temporary files, whoever made
    that folder.
    """
    if os.environ.get(CACHE_VARIABLE):
        return
    folder = Path(tempfile.gettempdir(), f"fwk-compiled-{os.geteuid()}")
    try:
        is_private = make_private(folder)
    except OSError:  # not a folder
        is_private = False
    os.environ[CACHE_VARIABLE] = (
        str(folder) if is_private else tempfile.mkdtemp(prefix="fwk-compiled-")
    )


def count_graphs() -> int:
    """Return the number of graphs that were compiled in this process so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def graph_breaks() -> dict[str, int]:
    """Return the reasons for which a graph was cut in two, and how often each occurred."""
    from torch._dynamo.utils import counters

    return dict(counters["graph_break"])


class CompileCounter:
    """A hook that logs a warning when an update after the warm-up compiled something, and when graphs are cut."""

    def __init__(self) -> None:
        self.graphs_before = 0  # the update under way
        self.updates = 0  # since the start or the last change of phase
        self.warnings = 0
        self.breaks = 0
        self.phase: str | None = None

    @hookimpl
    def fwk_update_begin(self, run: Run) -> None:
        """Note the graphs before the update."""
        self.graphs_before = count_graphs()
        phase = run.phase.name if run.phase else None
        if phase != self.phase:
            self.phase, self.updates = phase, 0

    @hookimpl
    def fwk_update_end(self, run: Run) -> None:
        """Compare the graphs with those before the update."""
        self.updates += 1
        graphs, breaks = count_graphs() - self.graphs_before, graph_breaks()
        if sum(breaks.values()) > self.breaks:
            self.warn(
                run,
                f"cut into {len(breaks) + 1} or more graphs, which costs time: {_join_reasons(breaks)}",
            )
        elif graphs and self.updates > WARM_UP:
            plural = "s" if graphs > 1 else ""
            self.warn(run, f"compiled {graphs} more graph{plural} after warm-up{_last_reason()}")
        self.breaks = sum(breaks.values())

    def warn(self, run: Run, event: str) -> None:
        """Log a warning about this update; after several there are no more."""
        self.warnings += 1
        if self.warnings > MOST_WARNINGS:
            return
        last = "; further warnings are suppressed" if self.warnings == MOST_WARNINGS else ""
        logger.warning(
            "train.compile: update %s on rank %s %s (set TORCH_LOGS=recompiles,graph_breaks for details)%s",
            run.update,
            run.rank,
            event,
            last,
        )


def _join_reasons(reasons: Iterable[str]) -> str:
    return "; ".join(" ".join(reason.split())[:LONGEST_REASON] for reason in reasons)


def _last_reason() -> str:
    """Return ', because ...' for the last graph that was compiled, or '' where torch does not say."""
    from torch._dynamo import utils

    for metrics in reversed(getattr(utils, "get_compilation_metrics", list)()):
        reason = getattr(metrics, "recompile_reason", None)
        if reason:
            return f", because {_join_reasons([reason])}"
    return ""
