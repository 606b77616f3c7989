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

from fwk.contracts.sizes import SequenceShape, Transformer

INFERENCE = 128  # tokens of the sequence whose inference is counted


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
    products: see `SequenceShape`. micro_batches: per update on each rank (by default as many as one process makes). None where sequences
    have no tokens or the main encoder does not say its sizes."""

    told = config.task.values
    length = length or told.get("length")
    vocabulary = vocabulary or told.get("vocabulary")
    if not isinstance(length, int) or not isinstance(vocabulary, int):
        return None
    shape = SequenceShape(length, vocabulary, products=products)
    networks = {"main": _sizes(config.model, None)}
    if not networks["main"]:
        return None
    views = config.views_by_name
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
        for view, read in spec.component.cls.reads(spec.component.config).items()
        if read.encoded
    )
    for view in encoded:
        sizes = networks.get(views[view].encoder, ())
        parts[f"encoder on {view}"] = sum(one.forward(shape) for one in sizes)
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
                spec.component.cls.flops(spec.component.config, network, shape)
                if network
                else None,
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
            spec.component.cls.flops(spec.component.config, networks["main"], shape),
        )
    short = replace(shape, length=min(length, INFERENCE))
    return Count(
        parts,
        sum(one.forward(short) + one.binary(short) for one in networks["main"]),
        config.train.batch,
        config.train.updates,
        tuple(uncounted),
    )


def main(paths: Sequence[str]) -> None:
    """One line per config file: training and inference."""
    from fwk.components.discovery import load_plugins
    from fwk.config.resolve import resolve

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
