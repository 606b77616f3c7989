"""The encoder of a trained run as it is: no dropout, no gradient, nothing to train but what criteria put on it.

The run is named by the task (`task.pretrained`), which reads words for it as it was trained to read them. Its features and states
are those of the run's encoder; of one that reads pieces of words, a word has those of its first piece (of its last where the
encoder reads from left to right, as only that one has seen the word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fwk import BuildContext, Encoded, Encoder, register
from fwk.errors import ConfigError
from fwk_plugins.cvt.corpora.vectors import WordVocabulary
from fwk_plugins.cvt.models.pretrained import Frozen


@register("model", "frozen")
class FrozenEncoder(Encoder):
    """The encoder of the run in task.pretrained, frozen."""

    def __init__(self, config: Any, build: BuildContext):
        super().__init__(config, build)
        run = build.vocabulary.pretrained if isinstance(build.vocabulary, WordVocabulary) else None
        if run is None:
            raise ConfigError(
                "model",
                "'frozen' is the encoder of a trained run, and the task names none; expected task.name=sentences with "
                "task.pretrained=RUN",
            )
        self.frozen = Frozen(run, build.inputs, build.length)
        encoder = self.frozen.encoder
        self.width, self.direction, self.sees_itself = (
            encoder.width,
            encoder.direction,
            encoder.sees_itself,
        )
        self.unrestricted = getattr(
            encoder, "unrestricted", False
        )  # a run may have read another one

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        return self.frozen(inputs, mask, embedding_change, states)

    def state_names(self) -> tuple[str, ...]:
        return self.frozen.encoder.state_names()

    def state_width(self, name: str) -> int:
        return self.frozen.encoder.state_width(name)

    @property
    def embedding_width(self) -> int:
        return self.frozen.encoder.embedding_width
