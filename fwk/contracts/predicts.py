"""What a criterion predicts, and what other models learn from it (optional)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fwk.contracts.context import Context
from fwk.contracts.views import View


class Predicts:
    """The part of a criterion's contract that predictions and teachers use."""

    taught: tuple[str, ...] = ()  # labels for which it learns a teacher's stored outputs
    teachers: tuple[str, ...] = ()  # the criteria that it asks (`Context.teacher`)

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the model's predictions by label, [B, ...], for `fwk-evaluate --predictions` (optional).

        Rows are those of the first view that this criterion encodes. The task writes them to a file. No gradient is
        recorded.
        """
        raise NotImplementedError

    def teach(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return by label what other models learn from this one, [B, ...]: by default what it predicts.

        `fwk-evaluate --targets` stores it, and criteria that learn from a frozen network ask for it
        (`Context.teacher`). No gradient is recorded.
        """
        return self.predict(views, context)
