"""The lifecycle hooks, the reference for everyone who writes one. A hook implementation is a method marked with
`@fwk.hookimpl` on a registered hook class (`@register("hook", NAME)`), or a function so marked in a plugin's module;
it takes any subset of the arguments named here. An implementation with another argument is refused when the plugin is
loaded.

A hook class that takes no part in training (it logs, draws, uploads) says so with the class attribute `listens_only =
True`: a run may then go on with it or without it. Hooks that implement nothing but `fwk_run_begin`, `fwk_logged`,
`fwk_validated`, `fwk_exception` and `fwk_run_end` need not say it.

`run` is the engine's `Run` (`fwk.engine.run`): `run.config`, `run.folder`, `run.module`, `run.optimizer`, `run.task`,
`run.update` (updates done), `run.total_updates`, `run.progress` in [0, 1], `run.rank`, `run.world_size`, `run.device`,
`run.seconds` (training time over all starts of the run).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from torch import Tensor

    from fwk.engine.phases import Phase
    from fwk.engine.run import Run

hookspec = pluggy.HookspecMarker("fwk")
hookimpl = pluggy.HookimplMarker("fwk")


@hookspec
def fwk_run_begin(run: Run, resumed: bool) -> None:
    """Everything is built (and loaded, if `resumed`); no update has run in this process."""


@hookspec(firstresult=True)
def fwk_phase(run: Run) -> Phase | None:
    """Asked before every update, also right after a resume: the phase the run should be in from here on, or None for
    no opinion. Must be a pure function of the run's state. The engine changes phase only when the name differs from
    the current one's, rebuilds the distributed wrapper, and saves the phase."""


@hookspec(firstresult=True)
def fwk_combine_gradients(
    run: Run, gradients: dict[str, list[Tensor | None]]
) -> list[Tensor | None] | None:
    """For combiners that are no weighted sum (GradNorm, PCGrad). If a hook implements this, the engine runs one
    backward pass per loss term and reduces each term's gradients over micro-batches and ranks; `gradients` maps
    'label/term' to a list along `run.trainable` (None: the term does not reach that parameter). Returns the gradients
    to step with. Called on every rank with the same numbers, and must be a pure function of them and the run's state."""


@hookspec
def fwk_update_begin(run: Run) -> None:
    """Before the micro-batches of update `run.update + 1` are read."""


@hookspec
def fwk_update_end(run: Run) -> None:
    """After weights, schedule and averages moved on; `run.update` counts the update that just ended."""


@hookspec
def fwk_logged(run: Run, record: dict[str, Any]) -> None:
    """One object for `metrics.jsonl`: a training line, an evaluation line (it has `metrics`) or an event. Called on
    rank 0 only."""


@hookspec
def fwk_validated(run: Run, split: str, metrics: dict[str, float]) -> None:
    """An evaluation of `split` ended; called on every rank with the same numbers."""


@hookspec
def fwk_checkpoint_save(run: Run) -> dict[str, Any] | None:
    """State to keep in the checkpoint: a JSON-able dict that may hold tensors as values, which are copied. Called on
    rank 0 only. It is stored under the plugin's name; going on without the plugin is refused, unless it only listens."""


@hookspec
def fwk_checkpoint_load(run: Run, state: dict[str, Any]) -> None:
    """What `fwk_checkpoint_save` of the same plugin returned, on every rank, before `fwk_run_begin`."""


@hookspec
def fwk_exception(run: Run, error: BaseException) -> None:
    """The run is about to end with this error (also KeyboardInterrupt)."""


@hookspec
def fwk_run_end(run: Run, status: str) -> None:
    """The run ends: status is "finished", "stopped" (by a signal, resumable) or "failed"."""
