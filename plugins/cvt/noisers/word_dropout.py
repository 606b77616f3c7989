"""Word dropout: words become unknown ones (a baseline of Clark et al. 2018, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fwk import BuildContext, Context, Key, Noiser, View, option, register
from fwk.errors import ConfigError


@register("noiser", "word_dropout")
class WordDropout(Noiser):
    """Replaces each word, with its spelling, by the unknown one with a probability of its own."""

    by_row = True
    chooses = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: float = option(0.1, "share of the words (the paper's baseline: 0.1)", low=0, high=1)

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        if self.vocabulary is None or self.vocabulary.unk < 0:
            raise ConfigError(
                f"views.{build.name}", "'word_dropout' needs a vocabulary with an unknown token"
            )

    def apply(self, source: View, key: Key, context: Context | None = None) -> View:
        tokens = source.tokens
        lost = (
            key.happens(tokens.shape[1], self.config.rate).to(tokens.device) & source.ordinary
        )  # [B, T]
        inputs = {**source.inputs, "tokens": torch.where(lost, self.vocabulary.unk, tokens)}
        if "characters" in inputs:
            inputs["characters"] = inputs["characters"].masked_fill(lost[..., None], 0)
        return source.replace(inputs=inputs, changed=inputs["tokens"] != source.target)
