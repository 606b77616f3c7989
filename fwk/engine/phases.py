"""Phases: what is trained when. A hook asks for a phase (`fwk_phase`); the engine applies it between updates."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fwk.contracts.phase import Phase
from fwk.engine.module import ObjectiveModule
from fwk.engine.parameter_groups import owners, parameter_groups
from fwk.engine.ranks.agreement import compare_weights
from fwk.engine.run import OptimizerState, Run
from fwk.engine.saving.optimizer_state import (
    check_optimizer_state,
    pack_optimizer,
    remember_initial_settings,
    unpack_optimizer,
)
from fwk.errors import RunError, did_you_mean

T = TypeVar("T")


class Optimisation:
    """The optimizer and the distributed wrapper of a run, which are rebuilt for every phase."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.wrapped: nn.Module = run.module  # what the forward pass goes through
        self.parameters: list[nn.Parameter] = []  # all of the module's
        self.trainable: list[nn.Parameter] = []  # those that are trained in this phase
        self.built_for: str | None = None  # name of the phase that all of this was built for

    def enter(self, phase: Phase | None) -> bool:
        """Apply a phase between updates; return whether it is a new one.

        Nothing happens where the run is in this phase already, or the hooks have no opinion (None), and all is built.
        """
        run = self.run
        changed = phase is not None and (run.phase is None or phase.name != run.phase.name)
        built = run.optimizer is not None and self.built_for == _name(run.phase)
        if built and not changed:
            return False

        self.wrapped = run.module  # the old wrapper goes before anything changes under it
        if changed and phase is not None:
            self._begin(phase)
        self._apply()
        if run.optimizer is None or changed:
            keep = run.optimizer is not None and not (phase and phase.reset_optimizer)
            self._rebuild_optimizer(optimizer_state(run) if keep else ({}, {}))
        self._wrap()
        return changed

    def restore(self, state: OptimizerState, path: Path) -> None:
        """Build everything for the phase that a checkpoint was written in.

        state: of the optimizer. path: of the checkpoint. Raises CheckpointError where the state does not fit.
        """
        run = self.run
        self._apply()
        component, cpu = run.config.optimizer, torch.device("cpu")
        check_optimizer_state(
            build_optimizer(run),
            lambda groups: component.cls.build(component.config, groups, cpu),
            state,
            path,
            0 if run.phase and run.phase.reset_optimizer else run.update - run.skipped,
        )
        self._rebuild_optimizer(state)
        self._wrap()

    def _begin(self, phase: Phase) -> None:
        """Do what happens once, when a phase begins, and not when it is resumed."""
        run = self.run
        copy_parameters(run.module, phase)
        if run.average is not None:
            run.average.restart(phase.copy)
        if phase.restart_schedule:
            run.restart_schedule()
        run.phase = phase

    def _apply(self) -> None:
        phase = self.run.phase
        freeze(self.run.module, phase)
        self.run.module.switch_off(phase.off if phase else ())

    def _rebuild_optimizer(self, state: OptimizerState) -> None:
        self.run.optimizer = build_optimizer(self.run)
        self.run.frozen_optimizer_state = state
        unpack_optimizer(self.run.optimizer, *state)

    def _wrap(self) -> None:
        run = self.run
        self.built_for = _name(run.phase)
        self.wrapped = run.module
        self.parameters, self.trainable = list(run.module.parameters()), run.trainable
        if run.world_size > 1:
            compare_weights(run)  # before the wrapper gives every rank the weights of rank 0
            # find_unused_parameters: a head may have no examples on this rank and some on another; it also keeps the
            # reduction buckets as they were first laid out, so that a resumed run adds in the same order
            self.wrapped = DistributedDataParallel(run.module, find_unused_parameters=True)
            self.wrapped.register_forward_hook(self._announce_reduction)

    def _announce_reduction(self, wrapped: DistributedDataParallel, *_: object) -> None:
        """Note that the backward pass that follows waits for the other ranks' gradients."""
        if wrapped.require_backward_grad_sync and torch.is_grad_enabled():
            self.run.world.enter("the reduction of gradients", waits=True)


def optimizer_state(run: Run) -> OptimizerState:
    """Return the optimizer's state by name, with what was kept of parameters that are frozen in this phase."""
    tensors, numbers = pack_optimizer(run.optimizer)
    stepped = {name for group in run.optimizer.param_groups for name in group["names"]}
    frozen_tensors, frozen_numbers = run.frozen_optimizer_state
    return (
        {**_without(stepped, frozen_tensors), **tensors},
        {**_without(stepped, frozen_numbers), **numbers},
    )


def _without(names: set[str], state: Mapping[str, T]) -> dict[str, T]:
    """Return the entries 'parameter::key' of parameters that are not among `names`."""
    return {path: value for path, value in state.items() if path.rsplit("::", 1)[0] not in names}


def build_optimizer(run: Run) -> torch.optim.Optimizer:
    """Return a new optimizer of the parameters that are trained in this phase."""
    component = run.config.optimizer
    if not run.trainable:
        raise RunError(
            f"phase '{run.phase.name}' freezes every parameter"
            if run.phase
            else "there is no parameter to train"
        )
    owners_of = owners(run.module)

    def kind(name: str, parameter: nn.Parameter) -> str:
        return component.cls.kind(component.config, name, parameter, owners_of[name])

    groups = parameter_groups(
        run.named_trainable(),
        component.config,
        kind_of=kind,
        every_name=[name for name, _ in run.module.named_parameters()],
    )
    with component.refusals():
        optimizer = component.cls.build(component.config, groups, run.device)
    remember_initial_settings(optimizer)
    return optimizer


def freeze(module: ObjectiveModule, phase: Phase | None) -> None:
    """Set `requires_grad` of every parameter as the phase says. Raises RunError where a pattern matches none.

    No distributed wrapper may exist meanwhile: a change under one would put ranks out of step.
    """
    patterns = phase.frozen if phase else ()
    names = [name for name, _ in module.named_parameters() if name != "anchor"]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise RunError(
                f"phase '{_name(phase)}' freezes '{pattern}', which matches no parameter"
                f"{did_you_mean(pattern, names)}"
            )
    for name, parameter in module.named_parameters():
        matches = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        frozen = (matches and name != "anchor") or module.teachers.is_frozen(name)
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None


@torch.no_grad()
def copy_parameters(module: nn.Module, phase: Phase) -> None:
    """Copy parameters and buffers to each target prefix of a phase from its source prefix.

    Raises RunError where nothing matches or shapes differ.
    """
    tensors: dict[str, Tensor] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    for target, source in phase.copy.items():
        pairs = {name: source + name[len(target) :] for name in tensors if name.startswith(target)}
        pairs = {name: origin for name, origin in pairs.items() if origin in tensors}
        if not pairs:
            raise RunError(
                f"phase '{phase.name}' copies '{source}' to '{target}', but no parameter exists under both"
            )
        for name, origin in pairs.items():
            if tensors[name].shape != tensors[origin].shape:
                raise RunError(
                    f"phase '{phase.name}' copies {origin} {list(tensors[origin].shape)} to {name} "
                    f"{list(tensors[name].shape)}; only equal shapes can be copied"
                )
            tensors[name].copy_(tensors[origin])


def _name(phase: Phase | None) -> str | None:
    return phase.name if phase else None
