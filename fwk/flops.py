"""Floating-point operations of training, counted from a config alone.

The assumptions are those of Clark et al. 2020 (ELECTRA) and of the dissertation built on it, section 5.2.2, so that
counts compare with published ones:

- an operation is a mathematical one: a product of an m x k and a k x n matrix is 2mkn, an exponential is one;
- the backward pass takes as many as the forward pass;
- looking up an embedding is a product with a one-hot vector, in every network;
- sequences are full, and the softmax over the vocabulary is taken at the share of positions that are predicted;
- inference is the main encoder with a classifier at every position, on one sequence of at most 128 tokens.

    python -m fwk.flops configs/papers/*.yaml

A criterion or noiser returns from `flops` what it adds to its encoder; one that returns None counts 0 and is listed as
uncounted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fwk.config.run_config import RunConfig
from fwk.config.spec import Component, ViewSpec
from fwk.config.views import parts_of_views
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError, UserError

TRUST = "--trust"  # the flag of this command
INFERENCE = 128  # most tokens of the sequence whose inference is counted

Networks = Mapping[
    str, tuple[Transformer, ...]
]  # by name; empty: the encoder does not list its sizes


@dataclass(frozen=True)
class Count:
    """The operations of a config."""

    parts: Mapping[str, float]  # of a forward pass of one sequence, by component
    inference: float  # of one sequence
    sequences: int  # per update
    updates: int | None  # of the run; None where its length is not a number of updates
    uncounted: tuple[str, ...] = ()  # parts whose operations are unknown

    @property
    def update(self) -> float:
        """The operations of one update, forward and backward."""
        return 2.0 * self.sequences * sum(self.parts.values())

    @property
    def training(self) -> float | None:
        """The operations of the whole run; None where its length is not a number of updates."""
        return None if self.updates is None else self.updates * self.update


def count(
    config: RunConfig,
    length: int | None = None,
    vocabulary: int | None = None,
    products: bool = True,
    micro_batches: int | None = None,
) -> Count | None:
    """Return the operations of a config; None where `why_not_countable` gives a reason.

    length, vocabulary: of the task, where the config has neither (a token store brings its own). products: see
    `SequenceShape`. micro_batches: per update on each rank (default: as many as a single process has).
    """
    if why_not_countable(config, length, vocabulary):
        return None
    shape = SequenceShape(
        length or config.task.values["length"],
        vocabulary or config.task.values["vocabulary"],
        products=products,
    )
    main = _sizes(config.model, None)
    networks = {name: _sizes(spec.component, main) for name, spec in config.networks.items()}
    networks["main"] = main

    parts = _Parts()
    _count_encodings(parts, config, networks, shape)
    _count_noisers(parts, config, networks, shape)
    if _prepares(config, micro_batches):
        # a forward pass of all that; `Count.update` adds a backward pass to every part
        parts.operations["prepare"] = sum(parts.operations.values()) / 2
    for label, criterion in config.criterion.items():
        component = criterion.component
        parts.add(f"criterion.{label}", component.cls.flops(component.config, main, shape))

    return Count(
        parts.operations,
        _inference(main, shape),
        config.train.batch,
        config.train.updates,
        tuple(parts.uncounted),
    )


def why_not_countable(
    config: RunConfig, length: int | None = None, vocabulary: int | None = None
) -> str:
    """Return why a config cannot be counted; empty where it can. The arguments are those of `count`."""
    reasons = [
        f"task.{key} is not a number"
        for key, value in (("length", length), ("vocabulary", vocabulary))
        if not isinstance(value or config.task.values.get(key), int)
    ]
    if not _sizes(config.model, None):
        reasons.append(f"the model '{config.model.name}' does not list its Transformers")
    return " and ".join(reasons)


@dataclass
class _Parts:
    """Operations of a forward pass of one sequence, collected part by part."""

    operations: dict[str, float] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)

    def add(self, part: str, operations: float | None) -> None:
        """Add to a part. None: its operations are unknown."""
        if operations is None:
            self.uncounted.append(part)
        self.operations[part] = self.operations.get(part, 0.0) + (operations or 0.0)


def _count_encodings(
    parts: _Parts, config: RunConfig, networks: Networks, shape: SequenceShape
) -> None:
    """Count one call of an encoder per view whose encoding a criterion reads.

    The views of the parts of a batch are one batch together, in equal shares.
    """
    encoded = dict.fromkeys(
        view
        for spec in config.criterion.values()
        for view, read in spec.component.cls.reads(spec.component.config).items()
        if read.encoded
    )
    parts_shown = parts_of_views(config.views_by_name)
    tasks = len(set(parts_shown.values()))
    for view in encoded:
        transformers = networks.get(config.views_by_name[view].encoder, ())
        operations = sum(transformer.forward(shape) for transformer in transformers)
        operations /= tasks if view in parts_shown else 1
        parts.add(f"encoder on {view}", operations if transformers else None)


def _count_noisers(
    parts: _Parts, config: RunConfig, networks: Networks, shape: SequenceShape
) -> None:
    """Count the networks of learned noisers."""
    for name, view in config.views_by_name.items():
        network = _network_of(view, networks)
        if network is None:
            continue
        component = view.component
        operations = component.cls.flops(component.config, network, shape) if network else None
        parts.add(f"views.{name}", operations)


def _network_of(view: ViewSpec, networks: Networks) -> tuple[Transformer, ...] | None:
    """Return the sizes of the network that makes a view; None where no network does."""
    if view.network is None:
        return None
    if isinstance(view.network, str):
        return networks.get(view.network)
    return _sizes(view.network.component, networks["main"])


def _inference(main: Sequence[Transformer], shape: SequenceShape) -> float:
    """Return the operations of inference on one short sequence."""
    short = replace(shape, length=min(shape.length, INFERENCE))
    return sum(transformer.forward(short) + transformer.binary(short) for transformer in main)


def _prepares(config: RunConfig, micro_batches: int | None) -> bool:
    """Return whether a criterion prepares something in an update of so many micro-batches."""
    train = config.train
    if not micro_batches:
        micro_batches = math.ceil(train.batch / (train.micro_batch or train.batch))
    return any(
        spec.component.cls.prepares(spec.component.config, micro_batches)
        for spec in config.criterion.values()
    )


def _sizes(component: Component, main: tuple[Transformer, ...] | None) -> tuple[Transformer, ...]:
    """Return the Transformers of a model; empty where it does not list them. main: those of the main encoder."""
    return component.cls.transformers(component.config, main)


def main(words: Sequence[str]) -> int:
    """Print one line per config file: training and inference, or why they cannot be counted.

    words: files; and `--trust`, for code that they name under user_dirs.
    """
    from fwk.components.discovery import load_plugins
    from fwk.components.trust import trusting

    load_plugins()
    with trusting(TRUST in words):
        return _print_counts([word for word in words if word != TRUST])


def _print_counts(paths: Sequence[str]) -> int:
    status = 0
    for path in paths:
        try:
            line = _describe(_resolve(path))
        except UserError as error:
            line, status = f"cannot be read: {error}", error.exit_status
        print(f"{path}  {line}")
    return status


def _resolve(path: str) -> RunConfig:
    """Return the config of a file, whose data need not be named. Raises UserError for any other mistake."""
    from fwk.config.resolve import resolve

    try:
        return resolve([path]).config
    except ConfigError as error:
        if error.key != "task.data":
            raise
        return resolve([path], overrides=["task.data=any"]).config


def _describe(config: RunConfig) -> str:
    """Return the count of a config in words."""
    result = count(config)
    if result is None:
        return f"cannot be counted: {why_not_countable(config)}"
    line = f"update {result.update:.3g}"
    if result.training:
        line = f"training {result.training:.3g}  inference {result.inference:.3g}"
    if result.uncounted:
        line += f"  (without {', '.join(result.uncounted)})"
    return line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
