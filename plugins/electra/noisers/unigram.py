"""Random tokens at the chosen positions, each as often as it occurs in the training text."""

from __future__ import annotations

from torch import Tensor

from fwk import Vocabulary, register
from fwk.errors import ConfigError
from fwk_plugins.electra.noisers.uniform import Uniform


@register("noiser", "unigram")
class Unigram(Uniform):
    """Tokens in proportion to their number of occurrences in the training text plus one."""

    def tickets(self, vocabulary: Vocabulary) -> Tensor:
        if vocabulary.counts is None:
            raise ConfigError(
                f"views.{self.view}",
                "'unigram' draws tokens by their frequency, which this task does not know; "
                "expected a token store or text as task.data",
            )
        return vocabulary.counts + 1
