"""Labelled examples from tables: what most people bring.

    fwk-train --task examples --criterion classification task.data=reviews.csv task.texts=[text] task.label=stars

A column is named as the header has it, or by its number from 0. Texts are rendered in the order in which they are
named: two texts are one sequence with segments, unless views state `fields`. `task.choices` is a list of texts, of
which a view has a row each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fwk.components.registry import register
from fwk.contracts.options import option
from fwk.data.examples.encoding import TextSpec
from fwk.data.examples.labels import LabelSpace
from fwk.data.examples.options import LabelledOptions
from fwk.data.examples.tabular import CHOICES, LABEL, Columns, TableReader
from fwk.data.examples.task import LabelledTask, Records
from fwk.data.labelled import Labelled, find_classes, keyed_held_out
from fwk.data.tables import TableFormat
from fwk.errors import ConfigError, DataError

SOURCE = "examples"


@register("task", "examples")
class Examples(LabelledTask["Examples.Config"]):
    """Rows of a table: texts, and perhaps a label, in TSV, CSV, JSON, Parquet, or a data set of Hugging Face."""

    _kept_back: Sequence[Labelled] | None = None  # of `data`, for the split valid

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelledOptions):
        data: str | tuple[str, ...] = option(
            doc="files, globs or folders of training examples, or datasets:NAME[/CONFIG]:SPLIT",
            paths=(),
        )
        valid: str | tuple[str, ...] = option(
            (), "examples to validate on (empty: a share of the data)", paths=()
        )
        test: str | tuple[str, ...] = option((), "examples of the split test", paths=())
        valid_share: float = option(
            0.1, "share of the data held out where `valid` is empty", low=0, high=0.9
        )
        texts: str | int | tuple[str | int, ...] = option(
            ("text",),
            "columns of the texts, in the order of a sequence; NAME=COLUMN renames one",
        )
        choices: str | int | tuple[str | int, ...] = option(
            (),
            "columns of the choices, or one column that holds a list; they are the text 'choices'",
        )
        label: str | int | None = option(
            "label", "column of the label (null: the data have no label)"
        )
        kind: Literal["auto", "class", "classes", "number", "numbers", "choice", "span"] = option(
            "auto",
            "what the label is: one class, several, a number, several, the right choice, or characters of the last "
            "text; auto: found from the data, and the right choice where there are choices",
        )
        classes: tuple[str | int, ...] = option(
            (), "the classes, in this order (empty: those of the data)"
        )
        separator: str = option(",", "between several classes or numbers in one cell")
        key: str | int | None = option(
            None, "column that names an example (null: its number in the data)"
        )
        format: Literal["auto", "tsv", "csv", "jsonl", "json", "parquet", "datasets"] = option(
            "auto", "how files are read; auto: by their suffix"
        )
        header: Literal["auto", "yes", "no"] = option(
            "auto",
            "whether the first line names the columns; auto: if it has the names that are used",
        )
        columns: tuple[str, ...] = option((), "names of the columns of a file without a header")
        quotes: Literal["auto", "yes", "no"] = option(
            "auto", "whether fields may be quoted; auto: in CSV"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if not self.data:
                raise ConfigError("data", "names no file; expected the training examples")
            if not _listed(self.texts):
                raise ConfigError("texts", "names no column; expected at least one text")
            listed = [str(name) for name in self.classes]
            for name in listed:
                if listed.count(name) > 1:
                    raise ConfigError("classes", f"lists '{name}' twice")
            names = [name for name, _ in self.named_texts()]
            for name in names:
                if names.count(name) > 1 or name == CHOICES:
                    raise ConfigError(
                        "texts", f"two texts are called '{name}'; rename one: NAME=COLUMN"
                    )

        def columns_of_choices(self) -> tuple[str, ...]:
            """Return the columns of the choices; empty: there are none."""
            return _listed(self.choices)

        def named_texts(self) -> list[tuple[str, str]]:
            """Return the name and the column of each text; column 3 without a name is the text 'text3'."""
            pairs = []
            for entry in _listed(self.texts):
                name, equals, column = entry.partition("=")
                if not equals:
                    name = f"text{entry}" if entry.lstrip("-").isdecimal() else entry
                    column = entry
                pairs.append((name, column))
            return pairs

    @cached_property
    def reader(self) -> TableReader:
        """What reads the tables of all splits. It knows the label of a run that is evaluated."""
        config = self.config
        known = self.spaces.get(LABEL) if hasattr(self, "encoder") else None
        return TableReader(
            columns=Columns(
                texts=config.named_texts(),
                choices=config.columns_of_choices(),
                label=None if config.label is None else str(config.label),
                key=None if config.key is None else str(config.key),
                separator=config.separator,
            ),
            table=TableFormat(
                format=config.format,
                header=config.header,
                columns=config.columns,
                quotes=config.quotes,
            ),
            kind=self._stated_kind if known is None else known.kind,
            classes=tuple(map(str, config.classes)) if known is None else known.values,
            skip_malformed=config.skip_malformed,
        )

    @property
    def _stated_kind(self) -> str:
        """The kind of the label as options have it: a label beside choices is the right one."""
        auto = "choice" if self.config.columns_of_choices() else "auto"
        return auto if self.config.kind == "auto" else self.config.kind

    def find_splits(self) -> tuple[str, ...]:
        config = self.config
        has_valid = bool(config.valid or config.valid_share)
        return ("train", *(["valid"] if has_valid else []), *(["test"] if config.test else []))

    def read(self, split: str) -> Records:
        config = self.config
        if split == "test":
            return {SOURCE: self.reader.read(config.test, "task.test", unlabelled=True)}
        if split == "valid" and config.valid:
            return {SOURCE: self.reader.read(config.valid, "task.valid")}
        if split == "valid" and self._kept_back is not None:
            return {SOURCE: self._kept_back}

        records = self.reader.read(config.data, "task.data")
        if config.valid or not config.valid_share:
            return {SOURCE: records}
        held_out = keyed_held_out(self.seed, [record.key for record in records], config.valid_share)
        if not held_out.any():
            raise DataError(
                f"task.valid_share: {len(records)} examples with one key leave none to hold out; name files to "
                "validate on (task.valid), another column (task.key), or set task.valid_share=0"
            )
        self._kept_back = [record for record, held in zip(records, held_out) if held]
        if split == "valid":
            return {SOURCE: self._kept_back}
        return {SOURCE: [record for record, held in zip(records, held_out) if not held]}

    def describe_texts(self, records: Sequence[Labelled]) -> tuple[TextSpec, ...]:
        names = [name for name, _ in self.config.named_texts()]
        spans = names[-1] if self.reader.kind == "span" else None
        texts = [TextSpec(name, has_spans=name == spans) for name in names]
        choices = self.config.columns_of_choices()
        return (*texts, *([TextSpec(CHOICES, is_list=True)] if choices else []))

    def describe_labels(self, records: Sequence[Labelled]) -> tuple[LabelSpace, ...]:
        config, kind = self.config, self.reader.kind
        if config.label is None:
            return ()
        if kind == "choice" and not config.columns_of_choices():
            raise ConfigError(
                "task.choices", "a label of the kind choice needs the columns of the choices"
            )
        # held-out rows of the same file may have classes of their own
        everything = [*records, *(self._kept_back or ())]
        values = [record.labels[LABEL] for record in everything if LABEL in record.labels]
        names: tuple[str, ...] = ()
        if kind == "numbers":
            names = _places(values)
        elif kind in ("class", "classes"):
            flat = values if kind == "class" else [name for several in values for name in several]
            names = tuple(map(str, config.classes)) or find_classes(flat, str(config.label))
            self.reader.classes = names
        text = config.named_texts()[-1][0] if kind == "span" else ""
        optional = kind == "span" and len(values) < len(everything)
        return (LabelSpace(LABEL, kind, names, text, optional),)


def _listed(columns: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Return the columns that an option states, of which one needs no brackets."""
    several = (columns,) if isinstance(columns, (str, int)) else columns
    return tuple(map(str, several))


def _places(values: Sequence[tuple[float, ...]]) -> tuple[str, ...]:
    """Return the names of the numbers of a label: their places. Raises DataError where rows have more or fewer."""
    sizes = sorted({len(value) for value in values})
    if len(sizes) > 1:
        raise DataError(
            f"task.label: expected as many numbers in every row, got from {sizes[0]} to {sizes[-1]}"
        )
    return tuple(str(place) for place in range(sizes[0] if sizes else 0))
