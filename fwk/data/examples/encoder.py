"""Records -> examples -> batches: the tokenizer, texts and labels of a task at work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fwk.contracts.texts import LONGEST_FIRST, Frame, NamedText, Span, Texts
from fwk.contracts.views import Batch
from fwk.data.examples.encoded import EncodedExamples, Example
from fwk.data.examples.encoding import TextSpec, encode_records, in_windows
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.metrics import chosen_metrics
from fwk.data.examples.options import LabelledOptions
from fwk.data.labelled import Labelled
from fwk.data.text_corpus import show_progress
from fwk.data.tokenizers import Tokenizer
from fwk.data.tokenizers.vocabulary import framing_ids
from fwk.errors import ConfigError, did_you_mean

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

    def __post_init__(self) -> None:
        for key in ("truncate", "windows"):
            name = getattr(self.config, key)
            if name not in (None, LONGEST_FIRST, *self.names):
                raise ConfigError(
                    f"task.{key}", f"there is no text '{name}'{did_you_mean(name, self.names)}"
                )
        if self.config.per_class is not None and self.class_space is None:
            raise ConfigError("task.per_class", "the task has no label with classes")
        for space in self.spaces.values():
            chosen_metrics(self.config.metrics, space.kind)
        if not self.plain_names:
            raise ConfigError("task.texts", "every text is a list; expected one that is not")
        if self.room < 2:
            raise ConfigError(
                "task.length",
                f"{self.config.length} leaves no room for text beside special tokens",
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
    def class_space(self) -> LabelSpace | None:
        """The first label with classes."""
        return next((space for space in self.spaces.values() if space.kind == "class"), None)

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
                progress.stage(f"tokenizing {split}", len(source) * len(self.texts))
                encoded[name] = encode_records(
                    source, name, self.texts, list(self.spaces.values()), self.tokenizer, progress
                )
                if self.config.stride is not None:
                    text = self.config.windows or self.names[-1]
                    encoded[name] = in_windows(
                        encoded[name], text, self.names, self.room, self.config.stride
                    )
        self._warn_cut(split, encoded)
        return encoded

    def _warn_cut(self, split: str, encoded: Mapping[str, EncodedExamples]) -> None:
        """Say how many sequences do not fit: nothing is cut silently."""
        cut = sum(int((source.sizes(self.names) > self.room).sum()) for source in encoded.values())
        if cut:
            logger.warning(
                "%s: %s of %s sequences have more than task.length=%d tokens and are cut (%s)",
                split,
                f"{cut:,}",
                f"{sum(map(len, encoded.values())):,}",
                self.config.length,
                self.config.truncate,
            )

    def example(self, texts: Mapping[str, str | tuple[str, ...]]) -> Example:
        """Return an example without labels."""
        record = Labelled(place="text", key="0", texts=texts, labels={})
        spaces = list(self.spaces.values())
        return encode_records([record], "", self.texts, spaces, self.tokenizer)[0]

    # -- batches

    def collate(self, examples: Sequence[Example], draws: np.ndarray, sources: np.ndarray) -> Batch:
        """Return a batch whose own tokens are all texts that are no lists, padded to the longest."""
        named = {
            spec.name: NamedText.of(
                [example.texts[spec.name] for example in examples], spec.is_list
            )
            for spec in self.texts
        }
        labels = {
            name: torch.from_numpy(np.stack([example.labels[name] for example in examples]))
            for name in self.spaces
        }
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
            texts=Texts(fields=named, frame=self.frame, spans=spans),
        )
        return batch.rendered(self.plain_names)
