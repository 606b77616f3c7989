"""Records -> examples -> batches: the tokenizer, texts and labels of a task at work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from fwk.contracts.texts import LONGEST_FIRST, Frame, NamedText, Span, Texts, teacher_label
from fwk.contracts.views import Batch
from fwk.data.examples.demonstrations import Pool
from fwk.data.examples.encoded import EncodedExamples, Example
from fwk.data.examples.encoding import TextSpec, encode_records, in_windows
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.metrics import check_metrics
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.prompts import Prompts
from fwk.data.labelled import Labelled
from fwk.data.text_corpus import show_progress
from fwk.data.tokenizers import Tokenizer
from fwk.data.tokenizers.vocabulary import framing_ids
from fwk.errors import ConfigError, DataError, did_you_mean

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleEncoder:
    """Encodes records and makes batches of them.

    Raises ConfigError where the options do not fit texts and labels.
    """

    config: LabelledOptions
    tokenizer: Tokenizer
    texts: tuple[TextSpec, ...]  # in the order of a sequence
    spaces: Mapping[str, LabelSpace]  # by name of the label
    pool: Pool | None = None  # where prompts have demonstrations

    def __post_init__(self) -> None:
        for key in ("truncate", "windows"):
            name = getattr(self.config, key)
            if name not in (None, LONGEST_FIRST, *self.names):
                raise ConfigError(
                    f"task.{key}", f"there is no text '{name}'{did_you_mean(name, self.names)}"
                )
        if self.config.stride is not None and self.window_text not in self.plain_names:
            raise ConfigError(
                "task.windows",
                f"'{self.window_text}' is a list, and windows are of one text; expected "
                f"{' or '.join(self.plain_names)}",
            )
        if self.config.per_class is not None and self.class_space is None:
            raise ConfigError("task.per_class", "the task has no label with classes")
        check_metrics(self.config.metrics, list(self.spaces.values()))
        if not self.plain_names:
            raise ConfigError("task.texts", "every text is a list; expected one that is not")
        prompts = self.prompts.prompts.items()
        rooms = {"special tokens": self.room}
        rooms |= {
            f"the words of task.templates.{name}": self.config.length
            - self.frame.overhead(len(prompt.segments))
            - prompt.fixed
            for name, prompt in prompts
        }
        for beside, room in rooms.items():
            if room < 2:
                raise ConfigError(
                    "task.length", f"{self.config.length} leaves no room for text beside {beside}"
                )

    @property
    def names(self) -> list[str]:
        """The names of all texts."""
        return [spec.name for spec in self.texts]

    @property
    def plain_names(self) -> list[str]:
        """The texts that are no lists, which the batch itself renders."""
        return [spec.name for spec in self.texts if not spec.is_list]

    @property
    def window_text(self) -> str:
        """The text that is read in windows, where any is."""
        return self.config.windows or self.names[-1]

    @property
    def class_space(self) -> LabelSpace | None:
        """The first label with classes."""
        return next((space for space in self.spaces.values() if space.kind == "class"), None)

    @cached_property
    def prompts(self) -> Prompts:
        """The prompts that views may render."""
        prompts = Prompts.of(self.config, self.texts, self.class_space, self.tokenizer)
        return replace(prompts, pool=self.pool)

    @property
    def encodings(self) -> tuple[TextSpec, ...]:
        """The encodings of texts that examples have."""
        return (*self.texts, *self.prompts.encodings)

    @property
    def room(self) -> int:
        """The tokens of text in a sequence of all texts."""
        return self.config.length - self.frame.overhead(len(self.texts))

    @cached_property
    def frame(self) -> Frame:
        """The special tokens around texts."""
        around = self.tokenizer.frame
        return Frame(
            before=around.before,
            between=around.between,
            after=around.after,
            segments=around.segments,
            pad=max(self.tokenizer.pad, 0),
            special=framing_ids(self.tokenizer),
            length=self.config.length,
            truncate=self.config.truncate,
        )

    # -- examples

    def encode(
        self, split: str, records: Mapping[str, Sequence[Labelled]]
    ) -> dict[str, EncodedExamples]:
        """Return the examples of a split by source, and say how many are cut."""
        encoded = {}
        with show_progress() as progress:
            for name, source in records.items():
                progress.stage(f"tokenizing {split}", len(source) * len(self.encodings))
                encoded[name] = encode_records(
                    source,
                    name,
                    self.encodings,
                    list(self.spaces.values()),
                    self.tokenizer,
                    progress,
                )
                encoded[name] = self._in_windows(encoded[name])
        _warn_cut(self, split, encoded)
        return encoded

    def _in_windows(self, examples: EncodedExamples) -> EncodedExamples:
        """Return examples read in windows, if the task reads them so."""
        stride = self.config.stride
        if stride is None:
            return examples
        return in_windows(examples, self.window_text, self.names, self.room, stride)

    def with_demonstrations(self, sets: Sequence[Sequence[Mapping[str, str]]]) -> ExampleEncoder:
        """Return an encoder whose prompts show these examples. sets: by set and slot, the texts by name.

        Raises DataError where sets lack slots or texts.
        """
        records = [
            Labelled(place="demonstrations", key=str(number), texts=texts, labels={})
            for number, texts in enumerate(texts for slots in sets for texts in slots)
        ]
        prompts, specs = self.prompts, {spec.name: spec for spec in self.encodings}
        shown = [specs[name] for name in prompts.shown]
        needed = {spec.behind_space or spec.name for spec in shown}
        slots = self.config.demonstrations * len(prompts.words)
        fit = all(len(texts) == slots for texts in sets) and all(
            needed <= text.keys() for texts in sets for text in texts
        )
        if len(sets) != self.config.demonstration_sets or not fit:
            raise DataError(
                f"the run keeps {len(sets)} sets of demonstrations, expected {self.config.demonstration_sets}, each of "
                f"{slots} examples with {', '.join(sorted(needed))}"
            )
        pool = Pool(
            each=self.config.demonstrations,
            sets=encode_records(records, "", shown, [], self.tokenizer),
            names=prompts.shown,
            slots=slots,
        )
        return replace(self, pool=pool)

    def with_training(
        self, encoded: Mapping[str, EncodedExamples], seed: int
    ) -> tuple[ExampleEncoder, dict[str, EncodedExamples]]:
        """Return an encoder that draws demonstrations from training examples, and these with their numbers."""
        assert self.pool is not None and self.class_space is not None
        label, classes = self.class_space.name, len(self.class_space.values)
        pool, numbered = self.pool.with_training(encoded, label, classes, seed)
        return replace(self, pool=pool), numbered

    def unlabelled(self, texts: Mapping[str, str | tuple[str, ...]]) -> EncodedExamples:
        """Return one example without labels, in its windows."""
        record = Labelled(place="text", key="0", texts=texts, labels={})
        spaces = list(self.spaces.values())
        return self._in_windows(
            encode_records([record], "", self.encodings, spaces, self.tokenizer)
        )

    @cached_property
    def _blank(self) -> Example:
        """An example without texts and labels, whose labels have the shapes of others."""
        texts = {spec.name: ("-",) if spec.is_list else "-" for spec in self.texts}
        return self.unlabelled(texts)[0]

    # -- batches

    def collate(
        self,
        examples: Sequence[Example],
        draws: np.ndarray,
        sources: np.ndarray,
        like: Example | None = None,
    ) -> Batch:
        """Return a batch whose own tokens are all texts that are no lists, padded to the longest.

        like: what the labels of a batch without examples are like; None: those of an example without labels.
        """
        named = {
            spec.name: NamedText.of(
                [example.texts[spec.name] for example in examples], spec.is_list
            )
            for spec in self.encodings
        }
        arrays = _labels_of(examples, like or self._blank, tuple(self.spaces))
        labels = {name: torch.from_numpy(array) for name, array in arrays.items()}
        spans = {
            name: Span(space.text, labels[name])
            for name, space in self.spaces.items()
            if space.kind == "span"
        }
        batch = Batch(
            inputs={},
            draws=torch.from_numpy(np.array(draws, dtype=np.int64)),
            labels=labels,
            source=torch.from_numpy(np.array(sources, dtype=np.int64)),
            texts=Texts(
                fields=named,
                frame=self.frame,
                spans=spans,
                prompts=self.prompts.prompts,
                demonstrations=self.prompts.demonstrations(examples, np.asarray(draws)),
                answers=self.prompts.answers(arrays),
            ),
        )
        return batch.rendered(self.plain_names)

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Return the token ids of one text between the special tokens of a sequence, int64 [T]."""
        frame = self.frame
        return np.concatenate([frame.before, ids, frame.after]).astype(np.int64)

    def batch_of(self, ids: np.ndarray) -> Batch:
        """Return a batch of framed texts of equal length, int64 [B, T], without labels."""
        return Batch(
            inputs={"tokens": torch.from_numpy(ids)},
            draws=torch.arange(len(ids)),
            mask=torch.ones(ids.shape, dtype=torch.bool),
            special=torch.from_numpy(np.isin(ids, self.frame.special)),
            source=torch.zeros(len(ids), dtype=torch.int64),
        )


def _labels_of(
    examples: Sequence[Example], like: Example, labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the labels of examples, and the outputs of their teacher where they have one, by name: [B, ...] each.

    like: an example of the same shapes, for B = 0.
    """
    shown = examples or [like]
    return {
        name: np.stack([example.labels[name] for example in shown])[: len(examples)]
        for name in (*labels, *map(teacher_label, labels))
        if name in labels or all(name in example.labels for example in shown)
    }


def _warn_cut(encoder: ExampleEncoder, split: str, encoded: Mapping[str, EncodedExamples]) -> None:
    """Say how many sequences do not fit: nothing is cut silently."""
    sources, length = encoded.values(), encoder.config.length
    cut = {
        "sequences": sum(
            int((source.sizes(encoder.names) > encoder.room).sum()) for source in sources
        ),
        "prompts": sum(
            encoder.prompts.too_long(source, length, encoder.frame) for source in sources
        ),
    }
    for what, count in cut.items():
        if count:
            logger.warning(
                "%s: %s of %s %s have more than task.length=%d tokens and are cut (%s)",
                split,
                f"{count:,}",
                f"{sum(map(len, sources)):,}",
                what,
                length,
                encoder.config.truncate,
            )
