"""How every rank learns that some rank's loss is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fwk.engine.ranks.world import World


class FiniteMark:
    """A zero parameter, the anchor, whose gradient is NaN once a loss is not finite, and 0 otherwise.

    Gradients alone do not show it: a loss that is infinite may have finite gradients, and a term without a
    gradient may be NaN. The anchor's gradient is reduced over ranks with all others, so that every rank decides
    alike, without another collective. The anchor is part of every loss on several ranks (`attached`), so that a
    rank without any term takes part in the reduction; on one rank the mark is set beside the graph, which is
    cheaper (`add`). It is never optimised.
    """

    def __init__(self, anchor: nn.Parameter) -> None:
        self.anchor = anchor

    def attached(self, loss: Tensor) -> Tensor:
        """Return the same loss, with the mark as part of its graph."""
        return loss + self.anchor * (loss.detach() * 0.0)

    def add(self, loss: Tensor) -> None:
        """Mark a loss of one micro-batch, outside of any graph."""
        mark = loss.to(self.anchor.dtype) * 0.0
        self.anchor.grad = mark if self.anchor.grad is None else self.anchor.grad + mark

    def reduce(self, world: World) -> None:
        """Sum marks over ranks, for gradients that no distributed wrapper reduces."""
        self.anchor.grad = world.sum(self.seen(self.anchor.device))

    def seen(self, device: torch.device) -> Tensor:
        """Return 0, or NaN where a loss of this update was not finite on some rank; 0-d."""
        gradient = self.anchor.grad
        return torch.zeros((), device=device) if gradient is None else gradient.to(device)
