"""The lifecycle hooks, the reference for everyone who writes one. A hook implementation is a method marked with
`@fwk.hookimpl` on a registered hook class (`@register("hook", NAME)`), or a function so marked in a plugin's module;
it takes any subset of the arguments named here. An implementation with another argument is refused when the plugin is
loaded.

A hook class that takes no part in training (it logs, draws, uploads) says so with the class attribute `listens_only =
True`: a run may then go on with it or without it. Hooks that implement nothing but `fwk_run_begin`, `fwk_logged`,
`fwk_validated`, `fwk_exception` and `fwk_run_end` need not say it.

`run` is a `RunView`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:  # plugins are discovered, and their names checked, without torch
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from fwk.contracts.phase import Phase
    from fwk.contracts.task import Task


hookspec = pluggy.HookspecMarker("fwk")
hookimpl = pluggy.HookimplMarker("fwk")


class RunView(Protocol):
    """What a hook may rely on. The engine's `Run` has more; only these attributes stay."""

    @property
    def config(self) -> Any: ...  # the RunConfig, which is defined above the contracts

    @property
    def folder(self) -> Path: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def optimizer(self) -> torch.optim.Optimizer: ...

    @property
    def task(self) -> Task: ...

    @property
    def update(self) -> int:
        """The number of updates done."""

    @property
    def total_updates(self) -> int | None:
        """The number of updates of the whole run, where the config determines it."""

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def seconds(self) -> float:
        """Training time in seconds over all starts of the run."""

    @property
    def trainable(self) -> Sequence[nn.Parameter]:
        """The parameters that the optimizer steps, in the module's order."""


@hookspec
def fwk_run_begin(run: RunView, resumed: bool) -> None:
    """Everything is built (and loaded, if `resumed`); no update has run in this process."""


@hookspec(firstresult=True)
def fwk_phase(run: RunView) -> Phase | None:
    """Asked before every update, also right after a resume: the phase the run should be in from here on, or None for
    no opinion. Must be a pure function of the run's state. The engine changes phase only when the name differs from
    the current one's, rebuilds the distributed wrapper, and saves the phase."""


@hookspec(firstresult=True)
def fwk_combine_gradients(
    run: RunView, gradients: dict[str, list[Tensor | None]]
) -> list[Tensor | None] | None:
    """For combiners that are no weighted sum (GradNorm, PCGrad). If a hook implements this, the engine runs one
    backward pass per loss term and reduces each term's gradients over micro-batches and ranks; `gradients` maps
    'label/term' to a list along `run.trainable` (None: the term does not reach that parameter). Returns the gradients
    to step with. Called on every rank with the same numbers, and must be a pure function of them and the run's state."""


@hookspec
def fwk_update_begin(run: RunView) -> None:
    """Before the micro-batches of update `run.update + 1` are read."""


@hookspec
def fwk_update_end(run: RunView) -> None:
    """After weights, schedule and averages moved on; `run.update` counts the update that just ended."""


@hookspec
def fwk_logged(run: RunView, record: dict[str, Any]) -> None:
    """One object for `metrics.jsonl`: a training line, an evaluation line (it has `metrics`) or an event. Called on
    rank 0 only."""


@hookspec
def fwk_validated(run: RunView, split: str, metrics: dict[str, float]) -> None:
    """An evaluation of `split` ended; called on every rank with the same numbers."""


@hookspec
def fwk_checkpoint_save(run: RunView) -> dict[str, Any] | None:
    """State to keep in the checkpoint: a JSON-able dict that may hold tensors as values, which are copied. Called on
    rank 0 only. It is stored under the plugin's name; going on without the plugin is refused, unless it only listens."""


@hookspec
def fwk_checkpoint_load(run: RunView, state: dict[str, Any]) -> None:
    """What `fwk_checkpoint_save` of the same plugin returned, on every rank, before `fwk_run_begin`."""


@hookspec
def fwk_exception(run: RunView, error: BaseException) -> None:
    """The run is about to end with this error (also KeyboardInterrupt)."""


@hookspec
def fwk_run_end(run: RunView, status: str) -> None:
    """The run ends: status is "finished", "stopped" (by a signal, resumable) or "failed"."""
