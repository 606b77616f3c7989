"""Floating-point operations of training, counted from a config alone.

The assumptions are those of Clark et al. 2020 (ELECTRA) and of the dissertation built on it, section 5.2.2, so that counts
compare with published ones:

- an operation is a mathematical one: a product of an m x k and a k x n matrix is 2mkn, an exponential is one;
- the backward pass takes as many as the forward pass;
- looking up an embedding is a product with a one-hot vector, in every network;
- sequences are full, and the softmax over the vocabulary is taken at the share of positions that are predicted;
- inference is the main encoder with a classifier at every position, on one sequence of at most 128 tokens.

    python -m fwk.flops configs/papers/*.yaml

What a criterion or noiser adds to its encoder it says itself (`flops`); one that says nothing counts 0 and is named.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# per number that a layer computes: sum, square, sum, add, multiply; tanh approximation; max, subtract, exp, sum, divide;
# draw, compare, multiply twice
NORM, GELU, SOFTMAX, DROPOUT = 5, 8, 5, 4
PREDICTED = 0.15625  # 80 of 512: how many positions have a softmax in the published counts
INFERENCE = 128  # tokens of the sequence whose inference is counted


@dataclass(frozen=True)
class Text:
    """Sequences as an encoder sees them. predicted: share of the positions with a softmax over the vocabulary. products:
    embeddings are looked up by products with one-hot vectors; False: for nothing, as it is done."""

    length: int
    vocabulary: int
    predicted: float = PREDICTED
    products: bool = True


@dataclass(frozen=True)
class Transformer:
    """The sizes of an encoder that operations depend on."""

    layers: int
    width: int
    heads: int
    inner: int
    embedding: int

    def forward(self, text: Text) -> float:
        """Of one sequence: embedding and layers."""
        return text.length * (self._embedding(text) + self.layers * self._layer(text))

    def _embedding(self, text: Text) -> float:
        # tokens, positions, segments
        lookups = 2 * self.embedding * (text.vocabulary + text.length + 2) if text.products else 0
        rest = (2 + NORM + DROPOUT) * self.embedding
        return (
            lookups
            + rest
            + (2 * self.width * self.embedding + self.width if self.embedding != self.width else 0)
        )

    def _layer(self, text: Text) -> float:
        T, D = text.length, self.width
        projections = 4 * (2 * D * D + D)  # queries, keys, values, output
        attention = 2 * 2 * D * T + (SOFTMAX + DROPOUT + 1) * T * self.heads
        feed_forward = 2 * 2 * D * self.inner + (GELU + 1) * self.inner + D
        return projections + attention + feed_forward + 2 * (DROPOUT + 1 + NORM) * D

    def softmax(self, text: Text, share: float | None = None, width: int | None = None) -> float:
        """Of one sequence: dense, GELU, norm, and the softmax over the vocabulary at a share of the positions (those that are
        predicted). width: of the features, where it is not the encoder's."""
        dense = (2 * (width or self.width) + 1 + GELU + NORM) * self.embedding
        output = (2 * self.embedding + SOFTMAX + 2) * text.vocabulary
        return (text.predicted if share is None else share) * text.length * (dense + output)

    def binary(self, text: Text) -> float:
        """Of one sequence: dense, GELU and one number at every position."""
        return text.length * ((2 * self.width + 1 + GELU) * self.width + 2 * self.width)


@dataclass(frozen=True)
class Count:
    """Operations of a config. parts: of one forward pass of one sequence, by what they are spent on. inference: of one
    sequence. sequences: per update. uncounted: what said nothing."""

    parts: Mapping[str, float]
    inference: float
    sequences: int
    updates: int | None
    uncounted: tuple[str, ...] = field(default=())

    @property
    def update(self) -> float:
        """Of one update, forward and backward."""
        return 2.0 * self.sequences * sum(self.parts.values())

    @property
    def training(self) -> float | None:
        """Of the whole run; None where its length is not a number of updates."""
        return None if self.updates is None else self.updates * self.update


def count(
    config: Any,
    length: int | None = None,
    vocabulary: int | None = None,
    products: bool = True,
    micro_batches: int | None = None,
) -> Count | None:
    """Of a `RunConfig`. length, vocabulary: of the task, where its config does not say them (a token store brings its own).
    products: see `Text`. micro_batches: per update on each rank (by default as many as one process makes). None where sequences
    have no tokens or the main encoder does not say its sizes."""
    from fwk.config import complete_views

    told = config.task.values
    length = length or told.get("length")
    vocabulary = vocabulary or told.get("vocabulary")
    if not isinstance(length, int) or not isinstance(vocabulary, int):
        return None
    text = Text(length, vocabulary, products=products)
    networks = {"main": _sizes(config.model, None)}
    if not networks["main"]:
        return None
    views = complete_views(config)
    for name, spec in config.networks.items():
        networks[name] = _sizes(spec.component, networks["main"])
    parts: dict[str, float] = {}
    uncounted: list[str] = []

    def add(part: str, sizes: tuple[Transformer, ...], own: float | None) -> None:
        if own is None:
            uncounted.append(part)
        parts[part] = parts.get(part, 0.0) + (own or 0.0)

    encoded = dict.fromkeys(
        view
        for spec in config.criterion.values()
        for view in spec.component.cls.encoded(spec.component.config)
    )
    for view in encoded:
        sizes = networks.get(views[view].encoder, ())
        parts[f"encoder on {view}"] = sum(one.forward(text) for one in sizes)
        if not sizes:
            uncounted.append(f"encoder on {view}")
    for name, spec in views.items():
        network = (
            networks.get(spec.network)
            if isinstance(spec.network, str)
            else (_sizes(spec.network.component, networks["main"]) if spec.network else None)
        )
        if network is not None:
            add(
                f"views.{name}",
                network,
                spec.component.cls.flops(spec.component.config, network, text) if network else None,
            )
    micro_batches = micro_batches or math.ceil(
        config.train.batch / (config.train.micro_batch or config.train.batch)
    )
    if any(
        spec.component.cls.prepares(spec.component.config, micro_batches)
        for spec in config.criterion.values()
    ):
        parts["prepare"] = (
            sum(parts.values()) / 2
        )  # a forward pass; `update` counts a backward pass with everything
    for label, spec in config.criterion.items():
        add(
            f"criterion.{label}",
            networks["main"],
            spec.component.cls.flops(spec.component.config, networks["main"], text),
        )
    short = replace(text, length=min(length, INFERENCE))
    return Count(
        parts,
        sum(one.forward(short) + one.binary(short) for one in networks["main"]),
        config.train.batch,
        config.train.updates,
        tuple(uncounted),
    )


def main(paths: Sequence[str]) -> None:
    """One line per config file: training and inference."""
    from fwk.config import resolve
    from fwk.plugins import load_plugins

    load_plugins()
    for path in paths:
        found = count(resolve([path], overrides=["task.data=any"]).config)
        told = (
            "no tokens, or an encoder that does not say its sizes"
            if found is None
            else (
                f"training {found.training:.3g}  inference {found.inference:.3g}"
                if found.training
                else f"update {found.update:.3g}"
            )
        )
        print(
            f"{path}  {told}"
            + (f"  (without {', '.join(found.uncounted)})" if found and found.uncounted else "")
        )


def _sizes(component: Any, main: tuple[Transformer, ...] | None) -> tuple[Transformer, ...]:
    return component.cls.transformers(component.config, main)


if __name__ == "__main__":
    main(sys.argv[1:])
