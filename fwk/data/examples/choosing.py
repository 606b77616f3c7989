"""Keyed choices among training examples: a share, some of each class, and those that demonstrate classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwk.contracts.keyed import fold
from fwk.data.examples.demonstrations import PURPOSE, Sets
from fwk.data.examples.encoder import ExampleEncoder
from fwk.data.labelled import Labelled, keyed_per_class, keyed_share
from fwk.errors import DataError

Records = Mapping[str, Sequence[Labelled]]  # by name of the source


def choose(records: Records, encoder: ExampleEncoder, seed: int) -> Records:
    """Return the training records that the task's `fraction` or `per_class` keeps. seed: of the run."""
    config, space = encoder.config, encoder.class_space
    seed = seed if config.choice_seed is None else config.choice_seed
    kept = {}
    for name, source in records.items():
        keys = [record.key for record in source]
        if config.per_class is not None and space is not None:
            classes = [record.labels.get(space.name) for record in source]
            chosen = keyed_per_class(seed, keys, classes, config.per_class)
        elif config.fraction < 1:
            chosen = keyed_share(seed, keys, config.fraction)
        else:
            kept[name] = source
            continue
        kept[name] = [record for record, keep in zip(source, chosen) if keep]
    return kept


def choose_sets(records: Records, encoder: ExampleEncoder, seed: int) -> Sets:
    """Return sets of examples that demonstrate every class outside of training; a smaller number is part of a larger.

    seed: of the run. Empty where prompts have no demonstrations. Raises DataError where a class has too few examples to
    demonstrate it beside one of them.
    """
    config, space, each = encoder.config, encoder.class_space, encoder.config.demonstrations
    if not each or space is None:
        return ()
    seed = seed if config.choice_seed is None else config.choice_seed
    members: dict[str, list[Labelled]] = {name: [] for name in space.values}
    for record in (record for source in records.values() for record in source):
        if record.labels.get(space.name) is not None:
            members[str(record.labels[space.name])].append(record)
    for name, examples in members.items():
        if len(examples) <= each:
            raise DataError(
                f"task.demonstrations: the class '{name}' has {len(examples)} training examples, expected at least "
                f"{each + 1}"
            )
        examples.sort(key=lambda record: fold(seed, PURPOSE, record.key))
    return tuple(
        tuple(
            _texts(examples[(number * each + place) % len(examples)])
            for examples in members.values()
            for place in range(each)
        )
        for number in range(config.demonstration_sets)
    )


def _texts(record: Labelled) -> dict[str, str]:
    """Return the texts of a record that are no lists."""
    return {name: text for name, text in record.texts.items() if isinstance(text, str)}
