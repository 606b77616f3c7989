"""The lifecycle hooks, as a reference for plugin authors.

A hook implementation is a method marked with `@fwk.hookimpl` on a registered hook class (`@register("hook", NAME)`),
or a function marked so in a plugin's module. It takes any subset of the arguments listed here, by name; an
implementation with another argument is refused when the plugin is loaded.

A hook class that takes no part in training (it logs, draws, uploads) has the class attribute `listens_only = True`: a
run may then be resumed with or without it. Hooks that implement nothing but `fwk_run_begin`, `fwk_logged`,
`fwk_validated`, `fwk_exception` and `fwk_run_end` count as listening without it, unless they set it to False.

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
    """What a hook may rely on. The engine's `Run` has more attributes; only these are stable."""

    @property
    def config(self) -> Any:
        """The `RunConfig`, whose class is defined in a layer above the contracts."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""

    @property
    def module(self) -> nn.Module:
        """The module that holds all networks, criteria and learned noisers."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""

    @property
    def task(self) -> Task[Any]:
        """The task."""

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
    def rank(self) -> int:
        """The rank of this process, from 0."""

    @property
    def world_size(self) -> int:
        """The number of ranks."""

    @property
    def device(self) -> torch.device:
        """The device of this rank."""

    @property
    def seconds(self) -> float:
        """Training time in seconds over all starts of the run."""

    @property
    def trainable(self) -> Sequence[nn.Parameter]:
        """The parameters that the optimizer steps, in the module's order."""


@hookspec
def fwk_run_begin(run: RunView, resumed: bool) -> None:
    """Act before the first update of this process; everything is built, and loaded if `resumed`."""


@hookspec(firstresult=True)
def fwk_phase(run: RunView) -> Phase | None:
    """Return the phase of the run from the next update on, or None to leave that to others.

    Called before every update, also right after a resume. It must be a pure function of the run's state. Where the
    name differs from that of the current phase, the engine changes phase, rebuilds the distributed wrapper and saves
    the phase.
    """


@hookspec(firstresult=True)
def fwk_combine_gradients(
    run: RunView, gradients: dict[str, list[Tensor | None]]
) -> list[Tensor | None] | None:
    """Return the gradients of the update, for combinations that are not a weighted sum (GradNorm, PCGrad).

    If a hook implements it, the engine runs one backward pass per loss term and reduces each term's gradients over
    micro-batches and ranks. `gradients` maps 'label/term' to a list that matches `run.trainable`; None: the term does
    not reach that parameter. Called on every rank with the same values; the result must be a pure function of them
    and of the run's state.
    """


@hookspec
def fwk_update_begin(run: RunView) -> None:
    """Act before the micro-batches of update `run.update + 1` are read."""


@hookspec
def fwk_update_end(run: RunView) -> None:
    """Act after weights, schedule and averages have changed; `run.update` counts the update that has ended."""


@hookspec
def fwk_logged(run: RunView, record: dict[str, Any]) -> None:
    """Handle one object of `metrics.jsonl`: a training record, an evaluation record (it has `metrics`) or an event.

    Called on rank 0.
    """


@hookspec
def fwk_validated(run: RunView, split: str, metrics: dict[str, float]) -> None:
    """Handle the metrics of an evaluation of `split`. Called on every rank, with the same values."""


@hookspec
def fwk_checkpoint_save(run: RunView) -> dict[str, Any] | None:
    """Return state to keep in the checkpoint: JSON data whose values may be tensors, which are copied.

    Called on rank 0. The state is stored under the plugin's name. Resuming without the plugin is refused, unless it
    only listens.
    """


@hookspec
def fwk_checkpoint_load(run: RunView, state: dict[str, Any]) -> None:
    """Restore what `fwk_checkpoint_save` of the same plugin returned.

    Called on every rank, before `fwk_run_begin`.
    """


@hookspec
def fwk_exception(run: RunView, error: BaseException) -> None:
    """Act before the run ends with this error, which may be KeyboardInterrupt."""


@hookspec
def fwk_run_end(run: RunView, status: str) -> None:
    """Act at the end of the run.

    status: "finished", "stopped" (by a signal; the run can be resumed) or "failed".
    """
