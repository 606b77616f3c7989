"""The contract of heads that guess tokens, which reports show to people."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class GuessesTokens(Protocol):
    """A head that guesses the original tokens at chosen positions.

    A criterion whose `head` is one gets a closing screen (the hook `summary`): guesses on validation text, and its loss
    beside that of models that read no context.
    """

    loss_term: str  # name of the loss term whose mean is -log p of a chosen token, in nats

    def token_probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of every token: features [..., D] -> float32 [..., V]."""
        ...
