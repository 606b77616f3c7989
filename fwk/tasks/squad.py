"""Questions about passages: SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), from their JSON.

    fwk-train --task squad --criterion answer_span task.data=train-v2.0.json task.valid=dev-v2.0.json model.from=...

A passage that does not fit is read in overlapping windows. Scores are those of the official evaluation, over all
windows of a question. `fwk-evaluate --predictions FILE.json` writes the JSON that the official evaluation reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.data.examples.answers import decided_answers, decode_answers
from fwk.data.examples.bad_rows import read_all
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.task import LabelledTask, Records
from fwk.data.labelled import Labelled
from fwk.data.layouts.squad import predictions_json, read_squad
from fwk.errors import ConfigError
from fwk.files import write_atomically

SOURCE, LABEL, ANSWER = "squad", "label", "answer"
QUESTION, CONTEXT = "question", "context"


@register("task", "squad")
class Squad(LabelledTask["Squad.Config"]):
    """Questions whose answers are spans of a passage, some of them without an answer."""

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelledOptions):
        data: str | tuple[str, ...] = option(doc="JSON files of training questions", paths=())
        valid: str | tuple[str, ...] = option((), "files to validate on", paths=())
        test: str | tuple[str, ...] = option((), "files of the split test", paths=())
        length: int = option(
            384, "tokens of a window with its question (papers: 512)", low=16, high=65536
        )
        stride: int | None = option(
            128,
            "tokens after which the next window begins (null: passages are cut)",
            low=1,
            high=65536,
        )
        windows: str | None = option(CONTEXT, "the text that is read in windows")
        truncate: str = option(CONTEXT, "the text that loses tokens where there are no windows")
        question_length: int = option(64, "tokens of a question that are read", low=1, high=65536)
        no_answer_threshold: float = option(
            0.0,
            "a question has no answer where the score of that is higher by more than this, in scores and predictions",
        )

        def __post_init__(self) -> None:
            if not self.data:
                raise ConfigError("data", "names no file; expected the training questions")

    @property
    def no_answer_threshold(self) -> float:
        return self.config.no_answer_threshold

    def find_splits(self) -> tuple[str, ...]:
        config = self.config
        others = [name for name in ("valid", "test") if getattr(config, name)]
        return ("train", *others)

    def read(self, split: str) -> Records:
        config = self.config
        key = {"train": "data", "valid": "valid", "test": "test"}[split]
        records = read_all(
            lambda on_bad: map(_with_label, read_squad(getattr(config, key), on_bad)),
            f"task.{key}",
            config.skip_malformed,
        )
        return {SOURCE: records}

    def describe_texts(self, records: Sequence[Labelled]) -> tuple[TextSpec, ...]:
        return (
            TextSpec(QUESTION, longest=self.config.question_length),
            TextSpec(CONTEXT, has_spans=True),
        )

    def describe_labels(self, records: Sequence[Labelled]) -> tuple[LabelSpace, ...]:
        optional = any(record.labels.get(LABEL) is None for record in records)
        return (LabelSpace(LABEL, "span", text=CONTEXT, optional=optional),)

    def check_predictions(self, split: str, targets: Mapping[str, Path]) -> None:
        others = {name: path for name, path in targets.items() if path.suffix != ".json"}
        super().check_predictions(split, others)

    def write_predictions(
        self, split: str, source: str, predictions: Mapping[str, Mapping[int, Tensor]], path: Path
    ) -> None:
        """Write SQuAD's JSON to a file *.json, and a table to any other."""
        if path.suffix != ".json" or LABEL not in predictions:
            super().write_predictions(split, source, predictions, path)
            return
        examples, space = self._encoded[split][source], self.spaces[LABEL]
        answers = decode_answers(examples, space, predictions[LABEL])
        texts = decided_answers(answers, space.optional, self.config.no_answer_threshold)
        by_key = {examples.keys[number]: text for number, text in texts.items()}
        write_atomically(path, predictions_json(by_key).encode())


def _with_label(record: Labelled) -> Labelled:
    """Return a question whose answer is called `label`, the name that criteria look for."""
    labels = {LABEL: record.labels[ANSWER]} if ANSWER in record.labels else {}
    return Labelled(record.place, record.key, record.texts, labels, record.extra)
