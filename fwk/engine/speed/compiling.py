"""torch.compile: what is compiled, and whether it stays so. Every encoder is one graph per situation (training,
evaluation, a teacher's call without gradient; with and without a mask, an embedding change; one sequence or several).
A dimension that varies is made symbolic the first time it does, so after warm-up no shape compiles anything again; a
run in which that does not hold says so."""

from __future__ import annotations

import sys
from typing import Any

from fwk.contracts.hooks import hookimpl
from fwk.engine.module import ObjectiveModule
from fwk.engine.speed.recompute import Recomputed

BACKEND = "inductor"
GRAPHS = 64  # per function; beyond torch's own limit of 8 a function would silently run uncompiled
WARM_UP = 20  # updates after a start or a change of phase in which compiling is nothing to speak of
WARNINGS = 5


def compile_networks(module: ObjectiveModule, backend: str | None = None) -> None:
    """Encoders, and functions marked `fwk.nn.compiled.compiled`, are compiled when they are first called."""
    import torch._dynamo as dynamo

    for name in (
        "recompile_limit",
        "cache_size_limit",
    ):  # by its name in this and in older versions
        if hasattr(dynamo.config, name):
            setattr(dynamo.config, name, max(GRAPHS, getattr(dynamo.config, name)))
    if any(isinstance(part, Recomputed) for part in module.modules()):
        # DDP has a graph cut where its buckets end, and cannot cut one that holds layers to be run again
        dynamo.config.optimize_ddp = False
    from torch._functorch import config as functorch

    if hasattr(functorch, "donated_buffer"):
        # the backward pass may then reuse what was kept for it, and a second one over the same graph (gradients per
        # term, an objective's own) is refused
        functorch.donated_buffer = False
    module.encoding.backend = backend or BACKEND
    for network in module.networks.values():
        network.compile(backend=module.encoding.backend)


def count_graphs() -> int:
    """Graphs compiled so far in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def graph_breaks() -> dict[str, int]:
    """Reasons for which a graph was cut in two, and how often."""
    from torch._dynamo.utils import counters

    return dict(counters["graph_break"])


class CompileCounter:
    """A hook that says on stderr when an update after warm-up compiled something, and when graphs are cut."""

    def __init__(self) -> None:
        self.before = self.updates = self.said = self.cut = 0
        self.phase: str | None = None

    @hookimpl
    def fwk_update_begin(self, run: Any) -> None:
        self.before = count_graphs()
        phase = run.phase.name if run.phase else None
        if phase != self.phase:
            self.phase, self.updates = phase, 0

    @hookimpl
    def fwk_update_end(self, run: Any) -> None:
        self.updates += 1
        new, reasons = count_graphs() - self.before, graph_breaks()
        if sum(reasons.values()) > self.cut:
            self.say(
                run,
                f"cut into {len(reasons) + 1} or more graphs, which costs time: "
                f"{'; '.join(' '.join(reason.split())[:200] for reason in reasons)}",
            )
        elif new and self.updates > WARM_UP:
            self.say(
                run, f"compiled {new} more graph{'s' if new > 1 else ''} after warm-up{_reason()}"
            )
        self.cut = sum(reasons.values())

    def say(self, run: Any, what: str) -> None:
        self.said += 1
        if self.said <= WARNINGS:
            last = "; further ones are not told" if self.said == WARNINGS else ""
            print(
                f"fwk: train.compile: update {run.update} on rank {run.rank} {what} (TORCH_LOGS=recompiles,graph_breaks "
                f"tells more){last}",
                file=sys.stderr,
            )


def _reason() -> str:
    """Why the last graph was compiled, as far as this version of torch tells."""
    from torch._dynamo import utils

    for metrics in reversed(getattr(utils, "get_compilation_metrics", list)()):
        if reason := getattr(metrics, "recompile_reason", None):
            return f", because {' '.join(reason.split())[:200]}"
    return ""
