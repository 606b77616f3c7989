"""Batches of several tasks: the examples of each are a part of the batch, under names that no two tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk.contracts.task import Predictions, RawText, Source, Task
from fwk.contracts.texts import teacher_label, tokens_label
from fwk.contracts.views import Batch
from fwk.errors import ConfigError, DataError, did_you_mean

T = TypeVar("T")
# of a task's metrics, the one that counts in the average: the first that it has
MAIN_METRICS = ("matthews", "spearman", "pearson", "accuracy", "f1")


class Parts:
    """Several tasks, and the names that their sources and labels have beside each other.

    The only source, and the only label, of a task has the task's name; of several, they are `TASK.NAME`.
    """

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self.tasks = dict(tasks)
        self.labels = {  # by task: name among all by own name
            name: {own: _name(name, own, len(task.labels())) for own in task.labels()}
            for name, task in tasks.items()
        }
        # by number among all: task, number there, own name
        self.routes = [
            (name, number, own)
            for name, task in tasks.items()
            for number, own in enumerate(task.source_names())
        ]
        owners = [task for task, _, _ in self.routes]
        self.numbers = {  # by task: int64 [S], number among all by own number
            name: torch.tensor([number for number, owner in enumerate(owners) if owner == name])
            for name in tasks
        }
        self._empty: dict[str, Batch] = {}

    @property
    def first(self) -> Task:
        """The first task."""
        return next(iter(self.tasks.values()))

    # -- names

    def source(self, task: str, own: str) -> str:
        """Return the name of a task's source among all."""
        return task if own == task else _name(task, own, len(self.numbers[task]))

    @property
    def source_names(self) -> tuple[str, ...]:
        """The names of all sources, by number."""
        return tuple(self.source(task, own) for task, _, own in self.routes)

    def owner(self, source: str) -> tuple[Task, str, str]:
        """Return the task of a source, its name, and the source's own name."""
        name, _, own = self.routes[self.source_names.index(source)]
        return self.tasks[name], name, own

    def own_labels(self, task: str, by_label: Mapping[str, T]) -> dict[str, T]:
        """Return those values that belong to labels of a task, by own name of the label."""
        known = self.labels[task].items()
        return {own: by_label[name] for own, name in known if name in by_label}

    def by_label(self, of: Callable[[Task], Mapping[str, T]]) -> dict[str, T]:
        """Return what tasks say of their labels, by name among all."""
        return {
            self.labels[name].get(own, own): value
            for name, task in self.tasks.items()
            for own, value in of(task).items()
        }

    def by_source(self, split: str, values: Callable[[Task], Mapping[str, T]]) -> dict[str, T]:
        """Return what those tasks that have a split say of its sources, by name among all."""
        return {
            self.source(name, own): value
            for name, task in self.tasks.items()
            if split in task.splits()
            for own, value in values(task).items()
        }

    def asked(self, text: RawText) -> tuple[str, RawText]:
        """Return the task that a text is for, and what it reads. Raises DataError where the text names none."""
        if isinstance(text, Mapping) and len(text) == 1:
            ((name, own),) = text.items()
            if name in self.tasks:
                return name, own
        raise DataError(
            f"expected {{TASK: text}} with one of the tasks {', '.join(self.tasks)}, got {text!r:.80}"
        )

    # -- training

    def mixture(self, exponent: float, shares: Mapping[str, float]) -> dict[str, float]:
        """Return the shares of sources: a task's share is split over its sources as the task says.

        exponent: of a task's number of examples. shares: of tasks instead, by name.
        """
        result: dict[str, float] = {}
        for name, task in self.tasks.items():
            size = sum(len(source) for source in task.sources("train").values())
            share, own = shares.get(name, float(size) ** exponent), task.mixture()
            for source, part in own.items():
                result[self.source(name, source)] = share * part / (sum(own.values()) or 1.0)
        return result

    def part(self, name: str, examples: Sequence[Any], draws: Any, sources: Any) -> Batch:
        """Return the batch of one task under the names of all. sources: int64 [B], own numbers."""
        if not len(examples):
            if name not in self._empty:
                self._empty[name] = self._renamed(name, self.tasks[name].without_examples())
            return self._empty[name]
        return self._renamed(name, self.tasks[name].collate(examples, draws, sources))

    def _renamed(self, name: str, part: Batch) -> Batch:
        labels, texts = self.labels[name], part.texts
        renamed = dict(labels)
        for derived in (tokens_label, teacher_label):
            renamed.update({derived(own): derived(other) for own, other in labels.items()})
        return replace(
            part,
            labels={renamed.get(own, own): values for own, values in part.labels.items()},
            source=None if part.source is None else self.numbers[name][part.source],
            texts=texts.with_label_names(labels) if texts is not None else None,
        )

    # -- metrics

    def metrics(
        self, split: str, predictions: Predictions, main: Mapping[str, str]
    ) -> dict[str, float]:
        """Return the metrics of all tasks as `TASK/NAME`, and `average`. main: see `main_metric`."""
        metrics: dict[str, float] = {}
        averaged: list[float] = []
        for name, task in self.tasks.items():
            known = task.sources(split) if split in task.splits() else {}
            of_task = {
                own: self.own_labels(name, predictions.get(self.source(name, own), {}))
                for own in known
            }
            values = task.metrics_of_predictions(split, of_task) if any(of_task.values()) else {}
            metrics.update({f"{name}/{metric}": value for metric, value in values.items()})
            averaged += main_metric(values, main.get(name, ""), f"task.average.{name}")
        if averaged:
            metrics["average"] = sum(averaged) / len(averaged)
        return metrics


def _name(task: str, own: str, count: int) -> str:
    return task if count == 1 else f"{task}.{own}"


def main_metric(values: Mapping[str, float], chosen: str, key: str) -> list[float]:
    """Return the metric of a task that counts in the average, the mean over its sources; nothing where it has none.

    chosen: its name; empty: the first of `MAIN_METRICS` that there is. A percentage, as SQuAD's, counts as a share.
    Raises ConfigError at `key` for a name that there is not.
    """
    for metric in (chosen,) if chosen else MAIN_METRICS:
        found = [value for name, value in values.items() if f"/{name}".endswith(f"/{metric}")]
        if found:
            percent = any(name.rpartition("/")[2] == "exact" for name in values)
            return [sum(found) / len(found) / (100 if percent else 1)]
    if chosen and values:
        raise ConfigError(key, f"there is no metric '{chosen}'{did_you_mean(chosen, values)}")
    return []


class Renamed(Source):
    """A source under another name."""

    def __init__(self, name: str, source: Source) -> None:
        self.name, self.source = name, source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def many(self, indices: Sequence[int]) -> list[Any]:
        return self.source.many(indices)


def together(parts: Mapping[str, Batch], rows: Mapping[str, Tensor], pad: int) -> Batch:
    """Return the examples of all parts as one batch, each padded to the longest, with the parts.

    rows: by part, int64 [B of the part], where its examples stand in the batch.
    """
    filled = [name for name in parts if len(parts[name])]
    order = torch.cat([rows[name] for name in filled]).argsort()
    batches = [parts[name] for name in filled]
    masks = [
        torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask
        for batch in batches
    ]
    T = max(mask.shape[1] for mask in masks)
    inputs = {
        name: _padded([batch.inputs.get(name) for batch in batches], masks, T, fill)[order]
        for name, fill in (("tokens", pad), ("segments", 0))
        if any(name in batch.inputs for batch in batches)
    }
    special = [batch.special for batch in batches]
    sources = [batch.source for batch in batches if batch.source is not None]
    return Batch(
        inputs=inputs,
        draws=torch.cat([batch.draws for batch in batches])[order],
        mask=_padded(masks, masks, T, False)[order],
        special=_padded(special, masks, T, False)[order],
        source=torch.cat(sources)[order] if len(sources) == len(batches) else None,
        parts=parts,
    )


def _padded(
    values: Sequence[Tensor | None], masks: Sequence[Tensor], length: int, fill: int | bool
) -> Tensor:
    """Return tensors [B, T] under each other, padded to a common T. None: one that is `fill` everywhere."""
    return torch.cat(
        [
            F.pad(
                torch.full_like(mask, fill, dtype=torch.bool if fill is False else torch.int64)
                if value is None
                else value,
                (0, length - mask.shape[1]),
                value=fill,
            )
            for value, mask in zip(values, masks)
        ]
    )
