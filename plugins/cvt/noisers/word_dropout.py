"""Word dropout: random words become the unknown word (a baseline of Clark et al. 2018, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fwk import BuildContext, Context, Key, Noiser, View, option, register
from fwk.errors import ConfigError


@register("noiser", "word_dropout")
class WordDropout(Noiser["WordDropout.Config"]):
    """Replaces each word and its spelling by the unknown word, independently with the same probability."""

    by_row = True
    chooses = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: float = option(0.1, "share of the words (the paper's baseline: 0.1)", low=0, high=1)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.unknown = -1 if self.vocabulary is None else self.vocabulary.unk
        if self.unknown < 0:
            raise ConfigError(
                f"views.{build.name}", "'word_dropout' needs a vocabulary with an unknown token"
            )

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        """Return the view without the dropped words."""
        tokens = source.tokens  # [B, T]
        happens = key.happens(tokens.shape[1], self.config.rate).to(tokens.device)
        dropped = happens & source.ordinary  # [B, T]

        inputs = {**source.inputs, "tokens": torch.where(dropped, self.unknown, tokens)}
        if "characters" in inputs:
            inputs["characters"] = inputs["characters"].masked_fill(dropped[..., None], 0)
        return source.replace(inputs=inputs, changed=inputs["tokens"] != source.target)
