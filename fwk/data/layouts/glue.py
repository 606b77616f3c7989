"""The files of GLUE, which are tab-separated, with literal quotes.

Source: Wang et al. 2018, "GLUE: A multi-task benchmark and analysis platform for natural language understanding". A
file's layout is recognised by the names in its first line; the original files of CoLA have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fwk.data.compressed import COMPRESSED
from fwk.data.labelled import Labelled, parse_class, parse_number
from fwk.data.tables import BadRow, Column, OnBad, Row, TableFormat, convert, read_table
from fwk.errors import DataError, UnknownName, UserError, did_you_mean
from fwk.files import user_path

_LABEL = "label"
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_MNLI = ("contradiction", "entailment", "neutral")
_SPLITS = {"train": ("train",), "dev": ("dev",), "test": ("test",)}
_MNLI_SPLITS = {
    split: (split,)
    for split in ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")
}
_AX_SPLITS = {"test": ("diagnostic", "diagnostic-full", "AX", "ax", "test")}
_KEYS = ("index", "id")  # columns with the number of an example
_PAIR = {"sentence1": ("sentence1", "#1 String"), "sentence2": ("sentence2", "#2 String")}
_TSV = TableFormat(format="tsv", quotes="no", header="yes")
_BARE_TSV = TableFormat(format="tsv", quotes="no", header="no")


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task of GLUE."""

    name: str  # as options have it
    folder: str  # its folder in GLUE's download
    texts: Mapping[str, tuple[str, ...]]  # name of a text -> the columns that may hold it
    labels: tuple[str, ...] = ("label",)  # the columns that may hold the label
    classes: tuple[str, ...] = ()  # none: the label is a number from 0 to 5
    splits: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: _SPLITS
    )  # -> stems of files
    # columns of a file of so many columns without a header, by number, in the order of the texts; then the label
    bare: tuple[int, tuple[int, ...], int] | None = None


TASKS = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folder="CoLA",
            texts={"sentence": ("sentence",)},
            classes=_BINARY,
            bare=(4, (3,), 1),
        ),
        GlueTask(name="sst2", folder="SST-2", texts={"sentence": ("sentence",)}, classes=_BINARY),
        GlueTask(
            name="mrpc", folder="MRPC", texts=_PAIR, labels=("Quality", "label"), classes=_BINARY
        ),
        GlueTask(name="stsb", folder="STS-B", texts=_PAIR, labels=("score", "label")),
        GlueTask(
            name="qqp",
            folder="QQP",
            texts={"question1": ("question1",), "question2": ("question2",)},
            labels=("is_duplicate", "label"),
            classes=_BINARY,
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            texts={"premise": ("sentence1", "premise"), "hypothesis": ("sentence2", "hypothesis")},
            labels=("gold_label", "label"),
            classes=_MNLI,
            splits=_MNLI_SPLITS,
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            texts={"question": ("question",), "sentence": ("sentence",)},
            classes=_ENTAILMENT,
        ),
        GlueTask(name="rte", folder="RTE", texts=_PAIR, classes=_ENTAILMENT),
        GlueTask(name="wnli", folder="WNLI", texts=_PAIR, classes=_BINARY),
        GlueTask(
            name="ax",
            folder="AX",
            texts={"premise": ("sentence1", "Premise"), "hypothesis": ("sentence2", "Hypothesis")},
            labels=("label", "Label"),
            classes=_MNLI,
            splits=_AX_SPLITS,
        ),
    )
}


@dataclass(frozen=True)
class _Layout:
    """Where a file has its texts and its label."""

    table: TableFormat
    texts: Mapping[str, Column]  # name of the text -> column
    label: Column | None
    key: str | None  # column
    genre: str | None  # column

    @property
    def columns(self) -> list[Column]:
        """All columns that are read."""
        named = (self.label, self.key, self.genre)
        return [*self.texts.values(), *(column for column in named if column is not None)]


@dataclass(frozen=True)
class GlueFiles:
    """The files of one task; `open_glue` finds them."""

    task: GlueTask
    files: dict[str, str]  # split -> file

    def file(self, split: str) -> str:
        """Return the file of a split. Raises DataError if the split has no file."""
        if split not in self.files:
            raise DataError(
                f"GLUE's {self.task.name} has no file of the split '{split}'{did_you_mean(split, self.files)}"
            )
        return self.files[split]

    def read(self, split: str, on_bad: OnBad | None = None) -> Iterator[Labelled]:
        """Return an iterator over the examples of a split; the label is called "label".

        on_bad: see `read_table`. A few rows of the original QQP have too few columns.
        """
        file = self.file(split)
        layout = _recognise(self.task, file)
        rows = read_table(file, layout.table, layout.columns, on_bad=on_bad)
        return convert(enumerate(rows), _maker(self.task, layout), on_bad)


def open_glue(task: str, folder: str) -> GlueFiles:
    """Return the files of a task in a folder, or in its folder there (FOLDER/CoLA), compressed or not.

    Raises UnknownName for a task that GLUE does not have, DataError where there is no file.
    """
    found = glue_task(task)
    root = user_path(folder)
    if not root.is_dir():
        raise DataError(f"there is no folder {folder}, expected the files of GLUE")
    places = [root / found.folder, root / found.name, root]
    if found.name == "ax":
        places[:0] = [root / "diagnostic"]
    for place in places:
        files = {split: _file(place, stems) for split, stems in found.splits.items()}
        named = {split: file for split, file in files.items() if file is not None}
        if named:
            return GlueFiles(found, named)
    stems = [stems[0] for stems in found.splits.values()]
    raise DataError(
        f"{folder} holds no files of GLUE's {found.name} (looked for {', '.join(stems)} with the suffix .tsv, also "
        f"compressed, there and in {found.folder})"
    )


def glue_task(name: str) -> GlueTask:
    """Return a task of GLUE. Raises UnknownName."""
    if name not in TASKS:
        raise UnknownName("task of GLUE", name, TASKS)
    return TASKS[name]


def _file(folder: Path, stems: Iterable[str]) -> str | None:
    """Return the first file of the names that a split may have."""
    for stem in stems:
        for suffix in ("", *COMPRESSED):
            path = folder / f"{stem}.tsv{suffix}"
            if path.is_file():
                return str(path)
    return None


def _recognise(task: GlueTask, file: str) -> _Layout:
    """Return the layout of a file by its first line. Raises DataError."""
    first = next(iter(read_table(file, _BARE_TSV, [])), None)
    if first is None:
        raise DataError(f"{file} is empty, expected the examples of GLUE's {task.name}")
    cells = [str(cell).strip() for cell in first.values.values()]
    texts = {name: _first_in(columns, cells) for name, columns in task.texts.items()}
    named = {name: column for name, column in texts.items() if column is not None}
    if len(named) == len(texts):
        label = _first_in(task.labels, cells)
        genre = _first_in(("genre",), cells)
        return _Layout(_TSV, dict(named), label, _first_in(_KEYS, cells), genre)
    if task.bare is not None and len(cells) == task.bare[0]:
        _, numbers, number = task.bare
        return _Layout(_BARE_TSV, dict(zip(texts, numbers)), number, None, None)
    wanted = ", ".join("/".join(columns) for columns in task.texts.values())
    shown = ", ".join(cell[:40] for cell in cells[:20])
    raise DataError(
        f"{file} has none of the layouts of GLUE's {task.name}: expected a first line with {wanted}, got {shown}"
    )


def _first_in(names: Iterable[str], cells: list[str]) -> str | None:
    return next((name for name in names if name in cells), None)


def _maker(task: GlueTask, layout: _Layout) -> Callable[[tuple[int, Row]], Labelled]:
    """Return the function that makes an example of a row and its number."""

    def make(numbered: tuple[int, Row]) -> Labelled:
        number, (place, values) = numbered
        labels = {}
        if layout.label is not None:
            cell = values[str(layout.label)]
            labels[_LABEL] = (
                parse_class(cell, task.classes, place) if task.classes else _score(cell, place)
            )
        return Labelled(
            place,
            key=values[layout.key] if layout.key else str(number),
            texts={name: values[str(column)] for name, column in layout.texts.items()},
            labels=labels,
            extra={"genre": values[layout.genre]} if layout.genre else {},
        )

    return make


def _score(cell: str, place: str) -> float:
    number = parse_number(cell, place)
    if not 0 <= number <= 5:
        raise BadRow(place, f"expected a similarity from 0 to 5, got {number:g}")
    return number


# ---- submissions ----


def submission(task: GlueTask, predictions: Iterable[tuple[str, str | float]]) -> str:
    """Return the content of a submission's file: a header, then the index and the prediction of each example.

    predictions: key and class, or number, of each example. Numbers are cut to GLUE's range from 0 to 5. Raises
    UserError for a class that the task does not have.
    """
    lines = ["index\tprediction"]
    for key, prediction in predictions:
        if not task.classes:
            prediction = f"{min(max(float(prediction), 0), 5):.3f}"
        elif prediction not in task.classes:
            raise UserError(
                f"GLUE's {task.name} has no class '{prediction}'{did_you_mean(str(prediction), task.classes)}"
            )
        lines.append(f"{key}\t{prediction}")
    return "\n".join(lines) + "\n"
