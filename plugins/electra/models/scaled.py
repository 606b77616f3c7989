"""A network sized after the main encoder.

width    = main width x `width`,  heads and feed-forward width likewise         (Clark et al. 2020, section 3.2)
layers   = main layers x `layers`
embedding as wide as the main encoder's where it is shared, with a projection to the network's own width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fwk import BuildContext, Encoded, Encoder, option, register
from fwk.contracts.sizes import Transformer
from fwk.errors import ConfigError
from fwk.models.bert import Bert
from fwk_plugins.electra.models.two_tower import TwoTower

Share = Literal["none", "token", "token_and_position", "all"]
SCALED = (
    "layers",
    "width",
    "heads",
    "inner",
    "embedding",
)  # the options of an encoder that a copy changes


def smaller(config: Any, width: float, layers: float, shared: bool) -> Any:
    """An encoder's config with its hidden width, feed-forward width and heads times `width`, and its layers times
    `layers`. shared: the embedding stays as wide as it is. ConfigError for encoders that have no such options."""
    missing = (
        [name for name in SCALED if name not in {f.name for f in fields(config)}]
        if hasattr(config, "shape")
        else SCALED
    )
    if missing:
        raise ConfigError(
            "model",
            f"a smaller copy is made by its options {', '.join(SCALED)}, and the main encoder "
            f"({type(config).__qualname__.split('.')[0]}) lacks {', '.join(missing)}; name the network's own "
            "encoder and sizes instead, as in {name: bert, layers: 4, width: 64}",
        )
    full_layers, full_width, full_heads = config.shape()
    heads = max(1, round(full_heads * width))
    own = max(1, round(full_width * width / heads)) * heads
    embedding = config.embedding or full_width
    return replace(
        config,
        layers=max(1, round(full_layers * layers)),
        width=own,
        heads=heads,
        inner=max(1, round((config.inner or 4 * full_width) * width)),
        embedding=embedding
        if shared
        else None
        if embedding == full_width
        else max(1, round(embedding * width)),
    )


def share_embeddings(network: Encoder, main: Encoder, share: Share, key: str) -> None:
    """Puts the main encoder's embeddings (or all of it) in the place of the network's own. key: of its options."""
    mine, theirs = network.embeddings, main.embeddings
    if share in ("token", "token_and_position"):
        mine.token = theirs.token
    if share == "token_and_position":
        mine.position, mine.segment = theirs.position, theirs.segment
    if share == "all":
        own, whole = (
            {name: tuple(p.shape) for name, p in part.named_parameters()}
            for part in (network, main)
        )
        if own != whole:
            raise ConfigError(
                f"{key}.share",
                "'all' shares every weight with the main encoder, so the network must be of its "
                "size; set width and layers to 1",
            )
        for name, part in main.named_children():
            setattr(network, name, part)


@register("model", "scaled")
class Scaled(Encoder):
    """A smaller copy of the main encoder, which may share its embeddings: a generator or an auxiliary network."""

    standalone = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: float = option(
            0.25,
            "hidden width, feed-forward width and heads, as a share of the main encoder's",
            above=0,
            high=1,
        )
        layers: float = option(
            1.0, "number of layers, as a share of the main encoder's", above=0, high=1
        )
        share: Share = option(
            "token_and_position",
            "what is the main encoder's own: nothing, its token embedding, that and its "
            "position and segment vectors, or every weight (at width and layers 1)",
        )
        towers: bool = option(
            False,
            "two causal towers of that size, for a cloze model that sees no token at its own place",
        )
        dropout: float | None = option(None, "dropout (default: the main encoder's)", low=0, high=1)

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        if not main:
            return ()
        whole = main[0]
        heads = max(1, round(whole.heads * config.width))
        width = max(1, round(whole.width * config.width / heads)) * heads
        one = Transformer(
            max(1, round(whole.layers * config.layers)),
            width,
            heads,
            max(1, round(whole.inner * config.width)),
            whole.embedding
            if config.share != "none"
            else width
            if whole.embedding == whole.width
            else max(1, round(whole.embedding * config.width)),
        )
        return (one, one) if config.towers else (one,)

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        main = build.encoder
        if main is None:
            raise ConfigError(
                "model.name",
                "'scaled' is a smaller copy of the main encoder, and cannot be that itself; name it "
                "under 'networks' or as a view's network",
            )
        sized = smaller(main.config, config.width, config.layers, config.share != "none")
        if config.dropout is not None:
            sized = replace(sized, dropout=config.dropout, attention_dropout=config.dropout)
        if not config.towers:
            self.inner = type(main)(sized, build)
            share_embeddings(self.inner, main, config.share, build.key)
        elif isinstance(main, Bert) and config.share != "all":
            self.inner = TwoTower(sized, build)
            for tower in (self.inner.rightwards, self.inner.leftwards):
                share_embeddings(tower, main, config.share, build.key)
        else:
            raise ConfigError(
                f"{build.key}.towers",
                "towers are made after a BERT encoder, and share its embeddings at most",
            )
        self.width, self.sees_itself, self.longest = (
            self.inner.width,
            self.inner.sees_itself,
            self.inner.longest,
        )

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        return self.inner(inputs, mask, embedding_change, states)

    def innermost(self) -> Encoder:
        return self.inner

    def state_names(self) -> tuple[str, ...]:
        return self.inner.state_names()

    def embedding(self) -> torch.nn.Embedding | None:
        return self.inner.embedding()

    def parts(self) -> dict[str, str]:
        return {name: f"inner.{path}" for name, path in self.inner.parts().items()}
