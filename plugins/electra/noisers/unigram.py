"""Tokens at the chosen positions as often as they occur in the training text."""

from __future__ import annotations

from torch import Tensor

from fwk import register
from fwk.errors import ConfigError
from fwk_plugins.electra.noisers.uniform import Uniform


@register("noiser", "unigram")
class Unigram(Uniform):
    """Tokens as often as they occur in the training text, each counted once more."""

    def weights(self) -> Tensor:
        if self.vocabulary.counts is None:
            raise ConfigError(
                f"views.{self.view}",
                "'unigram' draws tokens as often as they occur, and the task does not know "
                "how often that is; a token store or text of your own knows",
            )
        return self.vocabulary.counts + 1
