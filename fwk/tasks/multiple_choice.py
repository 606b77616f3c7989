"""Multiple choice in the shapes of SWAG, HellaSwag, ARC and MuTual.

    fwk-train --task multiple_choice --criterion multiple_choice task.data=train.csv task.valid=val.csv model.from=...

Examples have the texts `context` and `choices`, a list; a view that renders both has a row per choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.data.examples.bad_rows import read_all
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.task import LabelledTask, Records
from fwk.data.labelled import Labelled
from fwk.data.layouts.multiple_choice import read_multiple_choice
from fwk.errors import ConfigError

SOURCE, LABEL, CONTEXT, CHOICES = "multiple_choice", "label", "context", "choices"


@register("task", "multiple_choice")
class MultipleChoiceTask(LabelledTask["MultipleChoiceTask.Config"]):
    """A context and some texts, of which one continues or answers it."""

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelledOptions):
        data: str | tuple[str, ...] = option(doc="files of training examples", paths=())
        valid: str | tuple[str, ...] = option((), "files to validate on", paths=())
        test: str | tuple[str, ...] = option((), "files of the split test", paths=())
        layout: Literal["auto", "swag", "hellaswag", "arc", "mutual"] = option(
            "auto", "the shape of the files; auto: by their columns"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.data:
                raise ConfigError("data", "names no file; expected the training examples")

    def find_splits(self) -> tuple[str, ...]:
        config = self.config
        return ("train", *(name for name in ("valid", "test") if getattr(config, name)))

    def read(self, split: str) -> Records:
        config = self.config
        key = "data" if split == "train" else split
        records = read_all(
            lambda on_bad: read_multiple_choice(getattr(config, key), config.layout, on_bad),
            f"task.{key}",
            config.skip_malformed,
        )
        return {SOURCE: records}

    def describe_texts(self, records: Sequence[Labelled]) -> tuple[TextSpec, ...]:
        return (TextSpec(CONTEXT), TextSpec(CHOICES, is_list=True))

    def describe_labels(self, records: Sequence[Labelled]) -> tuple[LabelSpace, ...]:
        return (LabelSpace(LABEL, "choice"),)
