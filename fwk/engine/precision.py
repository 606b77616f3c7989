"""Number formats of training.

Weights stay in fp32 (fp64 for `fp64`). `bf16` and `fp16` run the forward pass under autocast; sums of losses
stay in fp32. Under fp16 the loss is scaled: an update whose gradient overflows is skipped and the scale is
halved; after `growth_interval` good updates in a row it is doubled (Micikevicius et al. 2018, section 3.2).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_SCALE, LOWEST_SCALE = 2.0**16, 2.0**-14


@dataclass
class Precision:
    """The number format of a run, with the loss scale of fp16."""

    name: str  # fp32, bf16, fp16 or fp64
    device: torch.device
    scale: float = 1.0  # of the loss; 1 outside of fp16
    good: int = 0  # updates in a row that were applied since the scale last changed
    growth_interval: int = 2000  # good updates after which the scale is doubled

    def __post_init__(self) -> None:
        if self.name == "fp16" and self.scale == 1.0:
            self.scale = FIRST_SCALE

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return torch.float64 if self.name == "fp64" else torch.float32

    @property
    def may_skip(self) -> bool:
        """Whether a smaller scale may help an update that overflowed: under fp16, until the lowest one."""
        return self.name == "fp16" and self.scale > LOWEST_SCALE

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the forward pass runs."""
        if self.name == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        if self.name == "fp16":
            return torch.autocast(self.device.type, torch.float16)
        return nullcontext()

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide gradients by the loss scale, in place."""
        if self.scale != 1.0:
            torch._foreach_mul_(gradients, 1.0 / self.scale)

    def applied(self) -> None:
        """Count an update that was applied; after enough of them in a row the scale is doubled."""
        if self.name != "fp16":
            return
        self.good += 1
        if self.good >= self.growth_interval:
            self.scale, self.good = self.scale * 2, 0

    def skipped(self) -> None:
        """Halve the scale after an update that overflowed."""
        self.scale, self.good = self.scale / 2, 0
