"""Several tasks at once: an update mixes their examples, and each has criteria of its own (Clark et al. 2019, BAM).

    task:
      name: several
      tasks: {"{task}": {name: glue, data: GLUE, set: "{task}"}, rte: {}, mrpc: {}, mnli: {}}
    views: {"{task}": {noiser: identity, part: "{task}"}}
    criterion: {"{task}": {name: classification, view: "{task}", label: "{task}"}}

An entry is any task. The examples of each are a part of the batch, which views of this `part` show, so a criterion
reads its own examples alone. A task is drawn with a probability proportional to (its examples) ** exponent. Its only
label and its only source have the name of the task; of several, `TASK.NAME`. Metrics are `TASK/NAME`, and `average` is
the mean of one metric of each.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.config.nested import nested_components
from fwk.config.patterns import task_names
from fwk.config.spec import Component
from fwk.contracts.context import Vocabulary
from fwk.contracts.options import Plain, option
from fwk.contracts.task import Predictions, RawText, Source, Task
from fwk.contracts.views import Batch
from fwk.data.parts import Parts, Renamed, together
from fwk.data.tokenizers import KINDS, Tokenizer
from fwk.errors import ConfigError, DataError, did_you_mean

_PATHS = ("data", "valid", "test", "train", "tokenizer", "path", "teacher")


class PartExample(NamedTuple):
    """A text that somebody asks about, read by one of the tasks."""

    task: str
    example: Any


@dataclass(frozen=True, kw_only=True)
class SeveralOptions:
    """Options of `several`."""

    tasks: dict[str, dict[str, Any] | None] = option(
        doc="the tasks by name, as {rte: {name: glue, set: rte, ...}}; an entry '{task}' holds what all have",
        components="task",
        paths=_PATHS,
    )
    data: str | None = option(
        None, "data of those tasks that state none, as a folder of GLUE", paths=()
    )
    exponent: float = option(
        0.75,
        "a task is drawn in proportion to (its examples) ** exponent (1: to its examples; 0: all alike; BAM: 0.75)",
        low=0,
        high=10,
    )
    shares: dict[str, float] = option(
        {}, "shares of tasks instead, by name; a task that is not named has its own", low=0
    )
    mix: Literal["within", "alternate"] = option(
        "within", "examples of all tasks in each update, or an update of one task after another"
    )
    average: dict[str, str] = option(
        {}, "by task, the metric that counts in `average`, where it is not the usual one"
    )
    tokenizer: str | None = option(
        None,
        f"path of the tokenizer of all tasks, or the kind that the first trains on its texts ({', '.join(KINDS)})",
        paths=(),
        names=KINDS,
    )
    length: int | None = option(
        None, "tokens of the longest sequence (null: as each task has it)", low=8, high=65536
    )

    vocabulary: int = option(
        4096,
        "tokens in a vocabulary that the first task trains",
        low=16,
        high=10_000_000,
    )

    @property
    def common(self) -> dict[str, str | int | None]:
        """The options of those tasks that have them and state none."""
        names = ("data", "tokenizer", "length", "vocabulary")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        for name, stated in (("shares", self.shares), ("average", self.average)):
            _check_names(name, stated, self.tasks)


@register("task", "several")
class Several(Task["Several.Config"]):
    """Several tasks whose examples are mixed."""

    @dataclass(frozen=True, kw_only=True)
    class Config(SeveralOptions):
        """Options of the task."""

    def __init__(self, config: Config, seed: int = 1) -> None:
        tasks: dict[str, Task] = {}
        with ExitStack() as stack:
            common = config.common
            components = _components(config, common)
            for name in list(components):
                component = components[name]
                tasks[name] = _built(component, partial(_opened, component.cls, seed))
                if len(tasks) == 1 and (config.tokenizer is None or config.tokenizer in KINDS):
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                    tasks[name].save_assets(folder)
                    components = _components(config, {**common, "tokenizer": str(folder)})
        self._set_up(config, seed, tasks)

    @classmethod
    def without_data(cls, config: Config, seed: int, folder: Path) -> Several:
        def opened(task: type[Task], own: object, place: Path) -> Task:
            return task.without_data(own, seed, place)

        return cls._of_run(config, seed, folder, opened)

    @classmethod
    def for_evaluation(
        cls, config: Config, seed: int, folder: Path, split: str, trained: Config
    ) -> Several:
        before = _components(trained, trained.common)

        def opened(task: type[Task], own: object, place: Path) -> Task:
            trained_as = before[place.name].config if place.name in before else own
            return task.for_evaluation(own, seed, place, split, trained_as)

        return cls._of_run(config, seed, folder, opened)

    @classmethod
    def _of_run(
        cls,
        config: Config,
        seed: int,
        folder: Path,
        opened: Callable[..., Task],
    ) -> Several:
        """Return the task with what each task kept in FOLDER/tokenizer/NAME."""
        common = config.common
        tasks = {
            name: _built(c, partial(opened, c.cls, place=folder / "tokenizer" / name))
            for name, c in _components(config, common).items()
        }
        task = cls.__new__(cls)
        task._set_up(config, seed, tasks)
        return task

    def _set_up(self, config: Config, seed: int, tasks: Mapping[str, Task]) -> None:
        """Take these tasks. Raises ConfigError where they have different tokenizers."""
        Task.__init__(self, config, seed)
        self.all = Parts(tasks)
        first: tuple[str, str] | None = None
        for name, task in tasks.items():
            vocabulary = task.vocabulary()
            if vocabulary is None:
                raise ConfigError(f"task.tasks.{name}", "this task has no tokens")
            first = first or (name, vocabulary.fingerprint)
            if vocabulary.fingerprint != first[1]:
                raise ConfigError(
                    f"task.tasks.{name}.tokenizer",
                    f"is another one than that of '{first[0]}'; expected one tokenizer, as task.tokenizer",
                )

    # -- what tasks have under the names of all

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of all tasks."""
        return getattr(self.all.first, "tokenizer", None)

    def parts(self) -> Mapping[str, Task]:
        return self.all.tasks

    def splits(self) -> tuple[str, ...]:
        tasks = self.all.tasks.values()
        return tuple(dict.fromkeys(split for task in tasks for split in task.splits()))

    def sources(self, split: str) -> Mapping[str, Source]:
        if split not in self.splits():
            raise DataError(f"there is no split '{split}'{did_you_mean(split, self.splits())}")
        sources = self.all.by_source(split, lambda task: task.sources(split))
        return {name: Renamed(name, source) for name, source in sources.items()}

    def source_names(self) -> tuple[str, ...]:
        return self.all.source_names

    def mixture(self) -> Mapping[str, float]:
        return self.all.mixture(self.config.exponent, self.config.shares)

    def one_source_per_update(self) -> bool:
        return self.config.mix == "alternate"

    def lengths(self, split: str) -> Mapping[str, np.ndarray] | None:
        having = [task for task in self.all.tasks.values() if split in task.splits()]
        if any(task.lengths(split) is None for task in having):
            return None
        return self.all.by_source(split, lambda task: task.lengths(split) or {})

    def vocabulary(self) -> Vocabulary | None:
        return self.all.first.vocabulary()

    def length(self) -> int:
        return max(task.length() for task in self.all.tasks.values())

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return self.all.by_label(lambda task: task.labels())

    def label_kinds(self) -> Mapping[str, str]:
        return self.all.by_label(lambda task: task.label_kinds())

    def label_words(self) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        return self.all.by_label(lambda task: task.label_words())

    def label_counts(self) -> Mapping[str, tuple[int, ...]]:
        return self.all.by_label(lambda task: task.label_counts())

    def framed(self, ids: np.ndarray) -> np.ndarray:
        return self.all.first.framed(ids)

    def batch_of(self, ids: np.ndarray) -> Batch:
        return self.all.first.batch_of(ids)

    # -- batches

    def collate(self, examples: Sequence[Any], draws: np.ndarray, sources: np.ndarray) -> Batch:
        routes = [self.all.routes[source] for source in sources.tolist()]
        # a text that somebody asks about says whose it is, whatever source it is read as
        owners = [
            example.task if isinstance(example, PartExample) else route[0]
            for example, route in zip(examples, routes)
        ]
        own = np.array([route[1] for route in routes], dtype=np.int64)
        parts, places = {}, {}
        for name in self.all.tasks:
            rows = np.array([n for n, owner in enumerate(owners) if owner == name], dtype=np.int64)
            chosen = [examples[row] for row in rows.tolist()]
            asked = any(isinstance(example, PartExample) for example in chosen)
            read = [e.example if isinstance(e, PartExample) else e for e in chosen]
            places[name] = torch.from_numpy(rows)
            parts[name] = self.all.part(name, read, draws[rows], own[rows] * (not asked))
        vocabulary = self.vocabulary()
        return together(parts, places, max(vocabulary.pad, 0) if vocabulary else 0)

    # -- assets

    def fingerprint(self) -> str:
        of_tasks = {name: task.fingerprint() for name, task in self.all.tasks.items()}
        return hashlib.sha256(json.dumps(of_tasks).encode()).hexdigest()

    def save_assets(self, folder: Path) -> None:
        self.all.first.save_assets(folder)
        for name, task in self.all.tasks.items():
            own = folder / name / "tokenizer"
            own.mkdir(parents=True, exist_ok=True)
            task.save_assets(own)

    # -- predictions

    def metrics_of_predictions(self, split: str, predictions: Predictions) -> dict[str, float]:
        return self.all.metrics(split, predictions, self.config.average)

    def example_keys(self, split: str, source: str) -> Sequence[str]:
        task, _, own = self.all.owner(source)
        return task.example_keys(split, own)

    def example_digests(self, split: str, source: str) -> Sequence[int] | None:
        task, _, own = self.all.owner(source)
        return task.example_digests(split, own)

    def taught(self) -> tuple[str, ...]:
        return tuple(self.all.by_label(lambda task: {label: "" for label in task.taught()}))

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        for source, path in targets.items():
            task, _, own = self.all.owner(source)
            task.check_predictions(split, {own: path})

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        task, name, own = self.all.owner(source)
        task.write_predictions(split, own, self.all.own_labels(name, predictions), path)

    def example_of(self, text: RawText) -> PartExample:
        """Return an example of one task. text: {TASK: what that task reads}."""
        name, own = self.all.asked(text)
        return PartExample(name, self.all.tasks[name].example_of(own))

    def examples_of(self, text: RawText) -> list[PartExample]:
        name, own = self.all.asked(text)
        return [PartExample(name, example) for example in self.all.tasks[name].examples_of(own)]

    def readable(self, text: RawText, predictions: Mapping[str, Tensor]) -> Plain:
        return self.combined(text, [predictions])

    def combined(self, text: RawText, predictions: Sequence[Mapping[str, Tensor]]) -> Plain:
        name, own = self.all.asked(text)
        of_task = [self.all.own_labels(name, prediction) for prediction in predictions]
        return self.all.tasks[name].combined(own, of_task)


def _check_names(option: str, stated: Iterable[str], tasks: Mapping[str, object]) -> None:
    """Raise ConfigError where an option names a task that there is not; one that is null was left out on purpose."""
    for name in stated:
        if name not in tasks:
            known = task_names({"task": {"tasks": tasks}})
            raise ConfigError(
                f"{option}.{name}", f"there is no such task{did_you_mean(name, known)}"
            )


def _components(
    config: SeveralOptions, common: Mapping[str, str | int | None]
) -> dict[str, Component]:
    return nested_components("task", config.tasks, "task.tasks", common)


def _opened(task: type[Task], seed: int, config: object) -> Task:
    return task(config, seed)


def _built(component: Component, build: Callable[[object], Task]) -> Task:
    """Return a task built from its options. Raises ConfigError where they do not fit each other."""
    with component.refusals():
        return build(component.config)
