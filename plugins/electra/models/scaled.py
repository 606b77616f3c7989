"""A network sized after the main encoder.

width      main width x `width`; heads and feed-forward width likewise  (Clark et al. 2020, section 3.2)
layers     main layers x `layers`
embedding  as wide as the main encoder's where it is shared, with a projection to the network's width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import Tensor, nn

from fwk import BuildContext, Encoded, Encoder, option, register
from fwk.contracts.sizes import Transformer
from fwk.errors import ConfigError
from fwk.models.bert import Bert
from fwk_plugins.electra.models.two_tower import TwoTower

Share = Literal["none", "token", "token_and_position", "all"]

# the options of an encoder that a copy changes: the fields of a `Transformer`
SIZES = ("layers", "width", "heads", "inner", "embedding")


def scaled_sizes(
    full: Transformer, width: float, layers: float, shares_embedding: bool
) -> Transformer:
    """Return the sizes of a copy whose widths and heads are scaled by `width`, its layers by `layers`."""
    heads = max(1, round(full.heads * width))
    scaled_width = max(1, round(full.width * width / heads)) * heads  # a multiple of the heads
    embedding = max(1, round(full.embedding * width))
    if shares_embedding:
        embedding = full.embedding
    elif full.embedding == full.width:
        embedding = scaled_width
    return Transformer(
        layers=max(1, round(full.layers * layers)),
        width=scaled_width,
        heads=heads,
        inner=max(1, round(full.inner * width)),
        embedding=embedding,
    )


def shrink_config(main: Encoder, width: float, layers: float, shares_embedding: bool) -> Any:
    """Return the config of a smaller copy of an encoder.

    Raises ConfigError for encoders that lack the options that a copy changes.
    """
    config = main.config
    known = {field.name for field in fields(config)} if hasattr(config, "shape") else set()
    missing = [name for name in SIZES if name not in known]
    if missing:
        raise ConfigError(
            "model",
            f"a smaller copy is made by its options {', '.join(SIZES)}, and the main encoder "
            f"({type(config).__qualname__.split('.')[0]}) lacks {', '.join(missing)}; name the network's own "
            "encoder and sizes instead, as in {name: bert, layers: 4, width: 64}",
        )
    full_layers, full_width, full_heads = config.shape()
    full = Transformer(
        layers=full_layers,
        width=full_width,
        heads=full_heads,
        inner=config.inner or 4 * full_width,
        embedding=config.embedding or full_width,
    )
    sizes = scaled_sizes(full, width, layers, shares_embedding)
    changes: dict[str, object] = {name: getattr(sizes, name) for name in SIZES}
    if "pooler" in known:  # what the network makes is read token by token
        changes["pooler"] = False
    return replace(config, **changes)


def share_embeddings(network: Any, main: Any, share: Share, key: str) -> None:
    """Replace a network's embeddings, or all of its parts, by the main encoder's. key: of its options.

    Raises ConfigError where all parts are to be shared and the sizes differ.
    """
    if share in ("token", "token_and_position"):
        network.embeddings.token = main.embeddings.token
    if share == "token_and_position":
        network.embeddings.position = main.embeddings.position
        network.embeddings.segment = main.embeddings.segment
    if share == "all":
        if parameter_shapes(network) != parameter_shapes(main):
            raise ConfigError(
                f"{key}.share",
                "'all' shares every weight with the main encoder, so the network must be of its "
                "size; set width and layers to 1",
            )
        for name, part in main.named_children():
            setattr(network, name, part)


def parameter_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


@register("model", "scaled")
class Scaled(Encoder["Scaled.Config"]):
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
            "what is shared with the main encoder: nothing, its token embedding, that and its "
            "position and segment vectors, or every weight (at width and layers 1)",
        )
        towers: bool = option(
            False,
            "two causal towers of that size, for a cloze model in which no position sees its own token",
        )
        dropout: float | None = option(None, "dropout (default: the main encoder's)", low=0, high=1)

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        if not main:
            return ()
        sizes = scaled_sizes(main[0], config.width, config.layers, config.share != "none")
        return (sizes, sizes) if config.towers else (sizes,)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        main = build.encoder
        if main is None:
            raise ConfigError(
                "model.name",
                "'scaled' is a smaller copy of the main encoder, and cannot be that itself; name it "
                "under 'networks' or as a view's network",
            )
        sized = shrink_config(main, config.width, config.layers, config.share != "none")
        if config.dropout is not None:
            sized = replace(sized, dropout=config.dropout, attention_dropout=config.dropout)
        self.inner = self._copy(sized, main, build)
        self.width = self.inner.width
        self.sees_itself = self.inner.sees_itself
        self.longest = self.inner.longest

    def _copy(self, sized: Any, main: Encoder, build: BuildContext) -> Encoder:
        """Return the network of the given options, with the parts that it shares."""
        share = self.config.share
        if not self.config.towers:
            copy = type(main)(sized, build)
            share_embeddings(copy, main, share, build.key)
            return copy
        if not isinstance(main, Bert) or share == "all":
            raise ConfigError(
                f"{build.key}.towers",
                "towers are made after a BERT encoder, and share its embeddings at most",
            )
        towers = TwoTower(sized, build)
        for tower in (towers.rightwards, towers.leftwards):
            share_embeddings(tower, main, share, build.key)
        return towers

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

    def embedding(self) -> nn.Embedding | None:
        return self.inner.embedding()

    def parts(self) -> dict[str, str]:
        return {name: f"inner.{path}" for name, path in self.inner.parts().items()}
