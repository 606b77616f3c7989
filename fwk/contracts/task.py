"""A task: data sets, label spaces, batching, metrics. It names no objective and knows no trainer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fwk.contracts.context import Vocabulary
from fwk.contracts.views import Batch
from fwk.errors import UserError


class Source:
    """Random access to one stream of examples. `examples` may be any picklable objects; only `collate` reads them."""

    name: str = ""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def many(self, indices: Sequence[int]) -> list[Any]:
        """Several examples; a source that reads them faster together than one by one says so here."""
        return [self[index] for index in indices]


class SizeOnly(Source):
    """Examples of which the number alone is known."""

    def __init__(self, name: str, size: int):
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size


class Task:
    """Base class of tasks; registered with `@register("task", NAME)`.

    Construction opens the data (and may build it, with progress); everything after is cheap random access, and a task
    pickles to data-loading workers.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, config: Any, seed: int = 1):
        self.config, self.seed = config, seed

    @classmethod
    def without_data(cls, config: Any, seed: int, folder: Path) -> Task:
        """A task that can say `vocabulary`, `labels`, `length` and `inputs` from the assets in FOLDER/tokenizer, for
        using a trained model where its data is not. By default the task is made as in training."""
        return cls(config, seed)

    @classmethod
    def for_evaluation(cls, config: Any, seed: int, folder: Path, split: str, trained: Any) -> Task:
        """A task that evaluates the run in FOLDER on one split; of the others it need not read an example. trained: what `config`
        was in training. By default the task is made as in training. One that reads `split` alone takes what training data
        decide (words, labels) from the assets in FOLDER/tokenizer, its sources of `train` have the sizes that they had, and its
        `fingerprint` is that of the data trained on."""
        return cls(config, seed)

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are; `train` is the one trained on."""
        raise NotImplementedError

    @abstractmethod
    def sources(self, split: str) -> Mapping[str, Source]:
        """The sources of a split by name, in a fixed order."""
        raise NotImplementedError

    def mixture(self) -> Mapping[str, float]:
        """Share of each training source in a block of draws; by default in proportion to the sizes."""
        return {name: float(len(source)) for name, source in self.sources("train").items()}

    def one_source_per_update(self) -> bool:
        """True: every update draws all of its examples from one source, in the shares of `mixture` over updates (CVT
        alternates labelled and unlabelled mini-batches, BAM draws a task per mini-batch). False: an update mixes."""
        return False

    def source_names(self) -> tuple[str, ...]:
        """Every source of every split, the training sources first. `Batch.source` holds positions in this list,
        whatever the split."""
        splits = sorted(self.splits(), key=lambda split: split != "train")
        return tuple(dict.fromkeys(name for split in splits for name in self.sources(split)))

    def missing_sources(self) -> Mapping[str, str]:
        """Sources that this task could have and does not: why, and what to do about it, for whoever asks for one."""
        return {}

    @abstractmethod
    def collate(self, examples: Sequence[Any], draws: np.ndarray, sources: np.ndarray) -> Batch:
        """Examples, their draw numbers int64 [B] and the position of each one's source in `source_names()`, int64 [B]
        -> a Batch on the CPU. T may depend on the examples (dynamic padding)."""
        raise NotImplementedError

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Ids of one text, int64 [n] -> as an example has them, with [CLS], [SEP] and the like, int64 [T]."""
        raise NotImplementedError

    def batch_of(self, ids: np.ndarray) -> Batch:
        """Framed ids of texts of one length, int64 [B, T] -> a Batch whose draws are 0 ... B - 1."""
        raise NotImplementedError

    def fixed_shape(self) -> bool:
        """True: `collate` makes rows of one shape, and a row of a batch does not depend on the others. The examples of
        several micro-batches are then collated in one call and cut apart."""
        return False

    def vocabulary(self) -> Vocabulary | None:
        return None

    def length(self) -> int:
        """The longest sequence `collate` makes; 0 when unbounded."""
        return 0

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one example by input name, for encoders that are not token encoders."""
        return {}

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the data and tokenizer; a run refuses to resume on another one."""
        raise NotImplementedError

    def save_assets(self, folder: Path) -> None:
        """Write what is needed to use a trained model elsewhere (the tokenizer) into RUN/tokenizer."""

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        """UserError where `write_predictions` has no form for this split, or would replace a file of the task's own; before a model
        has said anything. targets: the file of each source's predictions."""
        if type(self).write_predictions is Task.write_predictions:
            raise UserError(
                f"task: '{type(self).__name__}' has no form in which predictions are written"
            )

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """Writes what a model said of one source of a split. predictions: by label, example number in the source -> what a
        criterion's `predict` gave for it."""
        raise NotImplementedError

    def example_of(self, text: str | Sequence[str]) -> Any:
        """Optional: a raw text, or its words -> an example without labels as `collate` takes it, for `Loaded.predict`. It needs
        none of the data. DataError says what is wrong with the text. Override it, and the engine reads raw text."""
        raise NotImplementedError

    def source_of(self, label: str) -> str | None:
        """The source as whose example a raw text is read where this label is predicted, for tasks that collate examples of one source
        otherwise than those of another; None: all are alike."""
        return None

    def readable(self, text: str | Sequence[str], predictions: Mapping[str, Tensor]) -> Any:
        """What a model said of one raw text, for people to read and JSON to hold. predictions: by label, this text's row of what a
        criterion's `predict` gave, padding included."""
        return {label: value.tolist() for label, value in predictions.items()}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {}
