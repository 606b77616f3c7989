"""The contract of tasks (registry `task`): data sets, label spaces, batching and metrics.

A task knows neither objectives nor the trainer.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias

import numpy as np
from torch import Tensor

from fwk.contracts.component import ConfigT
from fwk.contracts.context import Vocabulary
from fwk.contracts.shapes import Plain
from fwk.contracts.views import Batch
from fwk.errors import DataError, UserError

# of a split: by source and label, example number in the source -> what a criterion's `predict` returned for it
Predictions = Mapping[str, Mapping[str, Mapping[int, Tensor]]]
# one text, its words or several texts in order, or texts by name; a text may be a list of texts
RawText: TypeAlias = str | Sequence[str | Sequence[str]] | Mapping[str, str | Sequence[str]]


class Source(Protocol):
    """Random access to the examples of one source.

    Examples are any picklable objects; only `Task.collate` reads them.
    """

    name: str = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def many(self, indices: Sequence[int]) -> list[Any]:
        """Return several examples. Override it where reading them together is faster than one by one."""
        return [self[index] for index in indices]


class SizeOnly(Source):
    """A source whose examples are not available, only their number."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"the examples of source '{self.name}' are not available")


class Task(Generic[ConfigT]):
    """Base class of tasks, registered with `@register("task", NAME)`.

    A subclass defines `splits`, `sources`, `collate` and `fingerprint`; everything else is optional. The constructor
    opens the data, and may build it and show progress. Afterwards access is random and cheap, and the task can be
    pickled for data-loading workers.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Options of the task."""

    def __init__(self, config: ConfigT, seed: int = 1) -> None:
        self.config, self.seed = config, seed

    @classmethod
    def without_data(cls, config: ConfigT, seed: int, folder: Path) -> Task[ConfigT]:
        """Return a task for using a trained model where its data is not available.

        It must know `vocabulary`, `labels`, `length` and `inputs`, from the assets in FOLDER/tokenizer. By default the
        task is built as in training.
        """
        return cls(config, seed)

    @classmethod
    def for_evaluation(
        cls, config: ConfigT, seed: int, folder: Path, split: str, trained: ConfigT
    ) -> Task[ConfigT]:
        """Return a task that evaluates the run in FOLDER on one split; it need not read examples of other splits.

        By default the task is built as in training. A task that reads `split` alone takes everything that the training
        data determine (words, labels) from the assets in FOLDER/tokenizer; its sources of `train` keep their sizes, and
        its `fingerprint` is that of the training data.

        trained: the config of the task in training.
        """
        return cls(config, seed)

    @classmethod
    def idle_options(cls, config: ConfigT) -> Mapping[str, str]:
        """Return the options that cannot act beside the others, with the reason in words.

        A run may resume with other values of them.
        """
        return {}

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits. The run trains on `train`."""
        raise NotImplementedError

    @abstractmethod
    def sources(self, split: str) -> Mapping[str, Source]:
        """Return the sources of a split by name, in a fixed order."""
        raise NotImplementedError

    def parts(self) -> Mapping[str, Task]:
        """Return the tasks whose examples are parts of a batch (`Batch.parts`), by the name that a view states."""
        return {}

    def documents(self, split: str) -> int | None:
        """Return the number of documents that the examples of a split are cut from; None for a task without any."""
        return None

    def mixture(self) -> Mapping[str, float]:
        """Return the share of each training source in a block of draws; by default in proportion to the sizes."""
        return {name: float(len(source)) for name, source in self.sources("train").items()}

    def one_source_per_update(self) -> bool:
        """Return whether all examples of an update come from one source.

        True: `mixture` gives the shares of updates, as in CVT. False: an update mixes sources, as in BAM.
        """
        return False

    def source_names(self) -> tuple[str, ...]:
        """Return the names of all sources of all splits, those of training first.

        `Batch.source` holds positions in this tuple, whatever the split.
        """
        splits = sorted(self.splits(), key=lambda split: split != "train")
        return tuple(dict.fromkeys(name for split in splits for name in self.sources(split)))

    def missing_sources(self) -> Mapping[str, str]:
        """Return the sources that this task could have but lacks, with reason and remedy for an error message."""
        return {}

    @abstractmethod
    def collate(self, examples: Sequence[Any], draws: np.ndarray, sources: np.ndarray) -> Batch:
        """Return a batch of examples, on the CPU. T may depend on the examples (dynamic padding).

        draws: int64 [B], the draw numbers. sources: int64 [B], the position of each example's source in
        `source_names()`.
        """
        raise NotImplementedError

    def without_examples(self) -> Batch:
        """Return a batch of no examples, as one of several tasks may have it; its tensors have the types of others."""
        for split in self.splits():
            for number, source in enumerate(self.sources(split).values()):
                if len(source) and not isinstance(source, SizeOnly):
                    zero = np.zeros(1, dtype=np.int64)
                    return self.collate([source[0]], zero, zero + number).without_rows()
        raise DataError(
            f"{type(self).__name__} has no example at hand, which a batch without any is made like"
        )

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Return the token ids of a text, int64 [n], framed as in an example ([CLS], [SEP] and the like), int64 [T]."""
        raise NotImplementedError

    def batch_of(self, ids: np.ndarray) -> Batch:
        """Return a batch of framed texts of equal length, int64 [B, T]. The draws are 0 to B - 1."""
        raise NotImplementedError

    def fixed_shape(self) -> bool:
        """Return whether all rows that `collate` makes have one shape and do not depend on the other rows.

        If so, the examples of several micro-batches are collated in one call and split afterwards.
        """
        return False

    def vocabulary(self) -> Vocabulary | None:
        """Return the vocabulary; None for a task without tokens."""
        return None

    def length(self) -> int:
        """Return the number of positions of the longest sequence that `collate` makes; 0: unbounded."""
        return 0

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Return the values of each label, by name of the label."""
        return {}

    def label_kinds(self) -> Mapping[str, str]:
        """Return the kind of each label: class, classes, number, numbers, choice or span. A label may have none."""
        return {}

    def text_names(self) -> tuple[str, ...]:
        """Return the names of the texts that views may render (`fields`)."""
        return ()

    def prompt_names(self) -> tuple[str, ...]:
        """Return the names of the prompts that views may render: sequences with a chosen position, the mask."""
        return ()

    def label_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Return how many training examples have each value of a label, by name of the label, as far as known."""
        return {}

    def label_words(self) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        """Return the tokens that stand for each value of a label in the mask of a prompt, by name of the label."""
        return {}

    def lengths(self, split: str) -> Mapping[str, np.ndarray] | None:
        """Return the number of positions of each example by source, int64 [len(source)], to batch similar ones.

        None: batches have the examples of the plain order.
        """
        return None

    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of one example by input name, for encoders that do not read tokens."""
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of data and tokenizer. A run does not resume where it has changed."""
        raise NotImplementedError

    def save_assets(self, folder: Path) -> None:
        """Write what a trained model needs elsewhere, such as the tokenizer, to `folder` (RUN/tokenizer)."""

    def example_keys(self, split: str, source: str) -> Sequence[str]:
        """Return the key of each example of a source, by which stored targets find it again: by default its number."""
        return [str(number) for number in range(len(self.sources(split)[source]))]

    def example_digests(self, split: str, source: str) -> Sequence[int] | None:
        """Return 63 bits of a hash of each example's texts and labels, as they were before the tokenizer read them.

        Stored targets belong to the examples that have the same. None: the task does not know them.
        """
        return None

    def taught(self) -> tuple[str, ...]:
        """Return the labels of which training examples hold a teacher's outputs, too (`teacher_label`)."""
        return ()

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        """Raise UserError where `write_predictions` does not support this split or would replace a file of the task.

        It is called before the model predicts anything. targets: by source, the file of its predictions.
        """
        if type(self).write_predictions is Task.write_predictions:
            raise UserError(f"task: '{type(self).__name__}' has no file format for predictions")

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """Write the model's predictions for one source of a split to `path`.

        predictions: by label, example number in the source -> what a criterion's `predict` returned for it.
        """
        raise NotImplementedError

    def example_of(self, text: RawText) -> Any:
        """Return an example without labels, as `collate` takes it, of a raw text or its words (optional).

        `Loaded.predict` reads raw text if a task overrides it. It must work without the data. Raises DataError for a
        text that cannot be read.
        """
        raise NotImplementedError

    def examples_of(self, text: RawText) -> Sequence[Any]:
        """Return the examples that a raw text becomes: several where a long text is read in windows."""
        return [self.example_of(text)]

    def source_of(self, label: str) -> str | None:
        """Return the source as whose example a raw text is read when this label is predicted; None: any.

        Only tasks whose `collate` treats sources differently need it.
        """
        return None

    def readable(self, text: RawText, predictions: Mapping[str, Tensor]) -> Plain:
        """Return the predictions for one raw text as JSON data that people can read.

        predictions: by label, the row of this text in what a criterion's `predict` returned, padding included.
        """
        return {label: value.tolist() for label, value in predictions.items()}

    def combined(self, text: RawText, predictions: Sequence[Mapping[str, Tensor]]) -> Plain:
        """Return the predictions for one raw text as `readable` does, from those for each of its `examples_of`.

        A task whose texts become several examples overrides it.
        """
        (prediction,) = predictions
        return self.readable(text, prediction)

    def metrics_of_predictions(self, split: str, predictions: Predictions) -> dict[str, float]:
        """Return metrics of a split that need all of its predictions, such as a correlation (optional).

        Evaluation collects the predictions of all ranks only for a task that overrides it. A split that was evaluated
        in part (`train.validate_batches`) has the predictions of that part.
        """
        return {}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return metrics of the task computed from the global sums of statistics."""
        return {}
