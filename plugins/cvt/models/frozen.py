"""The encoder of a trained run as it is: no dropout, no gradient, and nothing to train but the modules of criteria.

The task names the run (`task.pretrained`) and reads words for it as the run was trained to read them. Features and
states are those of the run's encoder. With an encoder that reads pieces of words, a word has the states of its
first piece (of its last one if the encoder reads from left to right, because only that position has seen the whole
word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fwk import BuildContext, Encoded, Encoder, register
from fwk.errors import ConfigError
from fwk_plugins.cvt.corpora.vectors import WordVocabulary
from fwk_plugins.cvt.models.pretrained import Frozen


@register("model", "frozen")
class FrozenEncoder(Encoder["FrozenEncoder.Config"]):
    """The encoder of the run in task.pretrained, frozen."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No options: the task names the run."""

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        run = build.vocabulary.pretrained if isinstance(build.vocabulary, WordVocabulary) else None
        if run is None:
            raise ConfigError(
                "model",
                "'frozen' is the encoder of a trained run, and the task names no run; expected task.name=sentences "
                "with task.pretrained=RUN",
            )
        self.frozen = Frozen(run, build.inputs, build.length)
        encoder = self.frozen.encoder
        self.width, self.direction = encoder.width, encoder.direction
        self.sees_itself = encoder.sees_itself
        # the frozen encoder may itself read another frozen one
        self.unrestricted = getattr(encoder, "unrestricted", False)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        """Return features [B, T, D] and states of words."""
        return self.frozen(inputs, mask, embedding_change, states)

    def state_names(self) -> tuple[str, ...]:
        return self.frozen.encoder.state_names()

    def state_width(self, name: str) -> int:
        return self.frozen.encoder.state_width(name)

    @property
    def embedding_width(self) -> int:
        return self.frozen.encoder.embedding_width
