"""Phases: what is trainable when. A hook asks for one (`fwk_phase`); the engine applies it between updates."""

from __future__ import annotations

import fnmatch

import torch
from torch import nn

from fwk.contracts.phase import Phase
from fwk.errors import RunError, did_you_mean


def freeze(module: nn.Module, phase: Phase | None) -> None:
    """Sets `requires_grad` as the phase says. Only ever called while no distributed wrapper is alive: changing it under
    one unsynchronises ranks."""
    patterns = phase.frozen if phase else ()
    names = [name for name, _ in module.named_parameters() if name != "anchor"]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise RunError(
                f"phase '{phase.name}' freezes '{pattern}', which is no parameter{did_you_mean(pattern, names)}"
            )
    for name, parameter in module.named_parameters():
        frozen = name != "anchor" and any(
            fnmatch.fnmatchcase(name, pattern) for pattern in patterns
        )
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None


@torch.no_grad()
def copy_parameters(module: nn.Module, phase: Phase) -> None:
    """Parameters (and buffers) under each target prefix take the values of those under its source prefix. RunError
    where nothing matches or shapes differ."""
    tensors = dict(module.named_parameters(remove_duplicate=False)) | dict(
        module.named_buffers(remove_duplicate=False)
    )
    for target, source in phase.copy.items():
        pairs = [
            (name, source + name[len(target) :]) for name in tensors if name.startswith(target)
        ]
        pairs = [(a, b) for a, b in pairs if b in tensors]
        if not pairs:
            raise RunError(
                f"phase '{phase.name}' copies '{source}' to '{target}', but no parameter is under both"
            )
        for a, b in pairs:
            if tensors[a].shape != tensors[b].shape:
                raise RunError(
                    f"phase '{phase.name}' copies {b} {list(tensors[b].shape)} to {a} {list(tensors[a].shape)}"
                )
            tensors[a].copy_(tensors[b])
