"""The base of tasks on labelled examples: everything but where the records come from.

A task of this kind defines the records of each split and what their texts and labels are. The base tokenizes them,
chooses examples, cuts what is too long and counts it, makes batches, and measures and writes predictions.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from fwk.contracts.context import Vocabulary
from fwk.contracts.json_files import parse_json
from fwk.contracts.plain import PlainDict
from fwk.contracts.task import Predictions, RawText, SizeOnly, Source, Task
from fwk.contracts.views import Batch
from fwk.data.examples import predictions as files
from fwk.data.examples.assets import Assets
from fwk.data.examples.choosing import Records, choose, choose_sets
from fwk.data.examples.demonstrations import Sets
from fwk.data.examples.encoded import EncodedExamples, Example
from fwk.data.examples.encoder import ExampleEncoder
from fwk.data.examples.encoding import TextSpec, with_digests
from fwk.data.examples.identity import count_classes, fingerprint_of
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.measuring import measure
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.teachers import with_teacher
from fwk.data.labelled import Labelled
from fwk.data.tokenizers import KINDS, Tokenizer, load, train
from fwk.data.tokenizers.vocabulary import vocabulary_of
from fwk.errors import DataError, did_you_mean

logger = logging.getLogger(__name__)

_CUT = "a text has more than task.length=%d tokens and is cut, without windows; others may be, too"
OptionsT = TypeVar("OptionsT", bound=LabelledOptions)


class LabelledTask(Task[OptionsT], Generic[OptionsT]):
    """Base class of tasks whose examples are groups of named texts with labels."""

    encoder: ExampleEncoder
    _splits: tuple[str, ...]
    _names: tuple[str, ...]  # of all sources
    _encoded: dict[str, dict[str, EncodedExamples]]  # by split and source
    _sizes: dict[str, int]  # examples by training source
    _counts: Mapping[str, tuple[int, ...]]  # training examples by label and class
    _fingerprint: str
    _demonstrations: Sets  # of prompts outside of training
    _has_told_cut = False  # that a text somebody asked about is too long

    # -- what a subclass defines

    @abstractmethod
    def read(self, split: str) -> Records:
        """Return the records of a split by source. Raises DataError, with the place, for what cannot be read."""
        raise NotImplementedError

    @abstractmethod
    def find_splits(self) -> tuple[str, ...]:
        """Return the names of the splits that there are data for."""
        raise NotImplementedError

    @abstractmethod
    def describe_texts(self, records: Sequence[Labelled]) -> tuple[TextSpec, ...]:
        """Return the texts in the order of a sequence. records: of training."""
        raise NotImplementedError

    @abstractmethod
    def describe_labels(self, records: Sequence[Labelled]) -> tuple[LabelSpace, ...]:
        """Return the labels and their values. records: of training."""
        raise NotImplementedError

    # -- opening

    def __init__(self, config: OptionsT, seed: int = 1) -> None:
        super().__init__(config, seed)
        self._splits, self._encoded = self.find_splits(), {}
        records = self.read("train")
        everything = [record for source in records.values() for record in source]
        if not everything:
            raise DataError("task: there is no training example")
        texts = self.describe_texts(everything)
        spaces = {space.name: space for space in self.describe_labels(everything)}
        self.encoder = ExampleEncoder(config, open_tokenizer(config, everything), texts, spaces)
        self._read_training(choose(records, self.encoder, seed))
        self._sizes = {name: len(source) for name, source in self._encoded["train"].items()}
        if "valid" in self._splits:
            self._encoded["valid"] = self.encoder.encode("valid", self.read("valid"))
        names = (name for sources in self._encoded.values() for name in sources)
        self._names = tuple(dict.fromkeys(names))
        self._counts = count_classes(self._encoded["train"], self.spaces)
        self._fingerprint = fingerprint_of(self.encoder, self._encoded)

    def _read_training(self, records: Records) -> None:
        """Encode the chosen records of training, and choose those that demonstrate classes."""
        self._demonstrations = choose_sets(records, self.encoder, self.seed)
        if self._demonstrations:
            self.encoder = self.encoder.with_demonstrations(self._demonstrations)
        encoded = self.encoder.encode("train", records)
        if self._demonstrations:
            self.encoder, encoded = self.encoder.with_training(encoded, self.seed)
        if self.config.teacher is not None:
            tokens, path = self.tokenizer.fingerprint, Path(self.config.teacher)
            encoded = with_teacher(with_digests(encoded, records), self.spaces, tokens, path)
        self._encoded["train"] = encoded

    @classmethod
    def without_data(cls, config: OptionsT, seed: int, folder: Path) -> LabelledTask[OptionsT]:
        """Return the task with tokenizer and labels of FOLDER/tokenizer, and without examples."""
        task = cls.__new__(cls)
        Task.__init__(task, config, seed)
        assets = Assets.read(folder / "tokenizer")
        spaces = {space.name: space for space in assets.labels}
        tokenizer = load(folder / "tokenizer")
        task.encoder = ExampleEncoder(config, tokenizer, assets.texts, spaces)
        task._demonstrations = assets.demonstrations
        if config.demonstrations:
            sets = assets.demonstrations[: config.demonstration_sets]
            task.encoder = task.encoder.with_demonstrations(sets)
        task._sizes, task._names = assets.sizes, assets.sources
        task._fingerprint, task._counts = assets.fingerprint, assets.counts
        task._splits, task._encoded = (), {}
        return task

    @classmethod
    def for_evaluation(
        cls, config: OptionsT, seed: int, folder: Path, split: str, trained: OptionsT
    ) -> LabelledTask[OptionsT]:
        """Return a task that reads one split; labels and tokenizer are those of the run."""
        task = cls.without_data(config, seed, folder)
        task._splits = tuple(dict.fromkeys(["train", *task.find_splits()]))
        if split in task._splits:
            records = task.read(split)
            records = choose(records, task.encoder, seed) if split == "train" else records
            task._encoded[split] = with_digests(task.encoder.encode(split, records), records)
            task._names = tuple(dict.fromkeys([*task._names, *task._encoded[split]]))
        return task

    # -- the contract

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of all texts."""
        return self.encoder.tokenizer

    @property
    def no_answer_threshold(self) -> float:
        """A question has no answer where the score of that is higher by more than this."""
        return 0.0

    @property
    def spaces(self) -> Mapping[str, LabelSpace]:
        """The labels by name."""
        return self.encoder.spaces

    def splits(self) -> tuple[str, ...]:
        return self._splits

    def sources(self, split: str) -> Mapping[str, Source]:
        if split not in self._splits:
            raise DataError(f"there is no split '{split}'{did_you_mean(split, self._splits)}")
        if split == "train" and split not in self._encoded:
            return {name: SizeOnly(name, size) for name, size in self._sizes.items()}
        if split not in self._encoded:
            self._encoded[split] = self.encoder.encode(split, self.read(split))
        return self._encoded[split]

    def source_names(self) -> tuple[str, ...]:
        return self._names

    def text_names(self) -> tuple[str, ...]:
        return tuple(self.encoder.names)

    def prompt_names(self) -> tuple[str, ...]:
        return tuple(self.config.templates)

    def label_counts(self) -> Mapping[str, tuple[int, ...]]:
        return self._counts

    def label_words(self) -> Mapping[str, tuple[tuple[int, ...], ...]]:
        prompts = self.encoder.prompts
        return {prompts.label: prompts.words} if prompts.words else {}

    def lengths(self, split: str) -> Mapping[str, np.ndarray] | None:
        if not self.config.by_length or split not in self._encoded:
            return None
        names = self.encoder.names
        return {name: source.sizes(names) for name, source in self._encoded[split].items()}

    def collate(self, examples: Sequence[Example], draws: np.ndarray, sources: np.ndarray) -> Batch:
        return self.encoder.collate(examples, draws, sources)

    def without_examples(self) -> Batch:
        none = np.zeros(0, dtype=np.int64)
        sources = [source for source in self._encoded.get("train", {}).values() if len(source)]
        # with the outputs of a teacher, where training has one
        return self.encoder.collate([], none, none, like=sources[0][0] if sources else None)

    def framed(self, ids: np.ndarray) -> np.ndarray:
        return self.encoder.framed(ids)

    def batch_of(self, ids: np.ndarray) -> Batch:
        return self.encoder.batch_of(ids)

    def vocabulary(self) -> Vocabulary:
        return vocabulary_of(self.tokenizer)

    def length(self) -> int:
        return self.config.length

    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {name: space.values for name, space in self.spaces.items()}

    def label_kinds(self) -> Mapping[str, str]:
        return {name: space.kind for name, space in self.spaces.items()}

    def fingerprint(self) -> str:
        return self._fingerprint

    def save_assets(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        labels = tuple(self.spaces.values())
        assets = Assets(
            texts=self.encoder.texts,
            labels=labels,
            sizes=self._sizes,
            sources=self._names,
            fingerprint=self._fingerprint,
            demonstrations=self._demonstrations,
            counts=self._counts,
        )
        assets.write(folder)

    # -- predictions

    def metrics_of_predictions(self, split: str, predictions: Predictions) -> dict[str, float]:
        sources, names = self._encoded[split], self.config.metrics
        return measure(sources, self.spaces, predictions, names, self.no_answer_threshold)

    def example_keys(self, split: str, source: str) -> Sequence[str]:
        examples = self._encoded[split][source]
        return [examples.keys[examples.example_of(number)] for number in range(len(examples))]

    def example_digests(self, split: str, source: str) -> Sequence[int] | None:
        return self._encoded[split][source].digests_of_rows()

    def taught(self) -> tuple[str, ...]:
        return tuple(self.spaces) if self.config.teacher is not None else ()

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        for path in targets.values():
            files.check_suffix(path)

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        examples = self._encoded[split][source]
        files.write_table(examples, self.spaces, predictions, path, self.no_answer_threshold)

    def example_of(self, text: RawText) -> Example:
        """Return an example without labels, the first one of a text in windows.

        text: one text, the texts in order, or a mapping by name.
        """
        return self.examples_of(text)[0]

    def examples_of(self, text: RawText) -> list[Example]:
        examples = self._unlabelled(text)
        is_cut = (examples.sizes(self.encoder.names) > self.encoder.room).any()
        if is_cut and not self._has_told_cut:
            self._has_told_cut = True  # once: there may be millions
            logger.warning(_CUT, self.config.length)
        return [examples[number] for number in range(len(examples))]

    def readable(self, text: RawText, predictions: Mapping[str, Tensor]) -> PlainDict:
        return self.combined(text, [predictions])

    def combined(self, text: RawText, predictions: Sequence[Mapping[str, Tensor]]) -> PlainDict:
        return files.readable_by_label(
            self._unlabelled(text), self.spaces, predictions, self.no_answer_threshold
        )

    def _unlabelled(self, text: RawText) -> EncodedExamples:
        return self.encoder.unlabelled(_texts_by_name(text, self.encoder.texts))


def _texts_by_name(text: RawText, specs: Sequence[TextSpec]) -> dict[str, str | tuple[str, ...]]:
    """Return the texts of an example by name. Raises DataError where one is missing or empty, or no text."""
    names = [spec.name for spec in specs]
    parts = [text] if isinstance(text, str) else text
    if not isinstance(parts, (Mapping, Sequence)):
        raise DataError(f"expected the texts {', '.join(names)}, got {text!r:.120}")
    values = dict(parts) if isinstance(parts, Mapping) else dict(zip(names, parts))
    if set(values) != set(names) or len(parts) != len(names):
        raise DataError(f"expected the texts {', '.join(names)}, got {text!r:.120}")
    return {spec.name: _checked(values[spec.name], spec) for spec in specs}


def _checked(value: object, spec: TextSpec) -> str | tuple[str, ...]:
    """Return a text of an example that somebody asks about. Raises DataError where it is empty, or no text."""
    elements = _parsed_list(value) if spec.is_list else [value]
    if isinstance(elements, str) or not isinstance(elements, Sequence) or not elements:
        raise DataError(f"'{spec.name}' is {value!r:.80}, expected a list of texts")
    for element in elements:
        if not isinstance(element, str):
            raise DataError(f"'{spec.name}' is {value!r:.80}, expected text")
        if not element.strip():
            raise DataError(f"the text '{spec.name}' is empty")
    return tuple(elements) if spec.is_list else elements[0]


def _parsed_list(value: object) -> object:
    """Return the list that a text holds as JSON, as a cell of a table does; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def open_tokenizer(config: LabelledOptions, records: Iterable[Labelled]) -> Tokenizer:
    kind = config.tokenizer or KINDS[0]
    if kind not in KINDS:
        return load(kind)
    # a list, which is read again where the texts have more characters than the vocabulary
    texts = [
        text
        for record in records
        for value in record.texts.values()
        for text in ((value,) if isinstance(value, str) else value)
    ]
    return train(texts, kind, config.vocabulary, config.lower)
