"""The files of data sets of multiple choice: a context, some choices, and the number of the right one.

- SWAG (Zellers et al. 2018): CSV with sent1, sent2, ending0 to ending3 and label. The choices are sent2 + an ending.
- HellaSwag (Zellers et al. 2019): JSON lines with ctx, endings and label.
- ARC (Clark et al. 2018): JSON lines with question.stem, question.choices and answerKey, or question and choices as
  the Hugging Face hub has them; or CSV without a header: question, choices, and the letter of the right one.
- MuTual (Cui et al. 2020): JSON lines with article, options and the letter in answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fwk.contracts.plain import PlainMapping
from fwk.contracts.shapes import Plain, shown
from fwk.data.labelled import Labelled, class_name
from fwk.data.tables import BadRow, OnBad, Row, TableFormat, convert, read_table
from fwk.data.tables.records import field_of
from fwk.errors import DataError, UnknownName

LETTERS = "ABCDEFGHIJ"


class Choices(NamedTuple):
    """An example as its data set has it."""

    context: Plain
    choices: Sequence[Plain]
    names: Sequence[str]  # of the choices, one of which is the label
    label: Plain  # None or "": no label
    key: Plain  # None: the number of the row


@dataclass(frozen=True)
class Shape:
    """One form of a data set's records."""

    fields: tuple[str, ...]  # that a record has if it is of this form
    choices: Callable[[PlainMapping, str], Choices]  # of a record and its place
    is_bare: bool = False  # whether it has no names of columns, so that the last one must hold the letter of a choice

    def fits(self, record: PlainMapping) -> bool:
        """Return whether a record is of this form."""
        letters = LETTERS[: len(record) - 2]
        is_letter = not self.is_bare or [*record.values()][-1] in [*letters]
        return is_letter and all(_has(record, field) for field in self.fields)


# ---- forms of records ----


def _swag(record: PlainMapping, place: str) -> Choices:
    start = _text(record["sent2"], place, "sent2")
    names = [name for name in (f"ending{n}" for n in range(len(LETTERS))) if name in record]
    endings = [f"{start} {_text(record[name], place, name)}".strip() for name in names]
    label, key = record.get("label"), record.get("fold-ind")
    return Choices(record["sent1"], endings, _numbers(endings), label, key)


def _hellaswag(record: PlainMapping, place: str) -> Choices:
    endings = _list(record["endings"], place, "endings")
    return Choices(
        record["ctx"], endings, _numbers(endings), record.get("label"), record.get("ind")
    )


def _arc(record: PlainMapping, place: str) -> Choices:
    choices = _list(record["question"]["choices"], place, "question.choices")
    if not all(
        isinstance(choice, dict) and {"text", "label"} <= choice.keys() for choice in choices
    ):
        raise BadRow(place, "expected choices with 'text' and 'label'")
    return _arc_choices(
        record,
        record["question"]["stem"],
        [choice["text"] for choice in choices],
        [choice["label"] for choice in choices],
    )


def _arc_of_hub(record: PlainMapping, place: str) -> Choices:
    texts = _list(record["choices"]["text"], place, "choices.text")
    names = _list(record["choices"]["label"], place, "choices.label")
    return _arc_choices(record, record["question"], texts, names)


def _arc_choices(
    record: PlainMapping, stem: Plain, texts: Sequence[Plain], names: Sequence[Plain]
) -> Choices:
    labels = [str(name) for name in names]
    return Choices(stem, texts, labels, record.get("answerKey"), record.get("id"))


def _arc_csv(record: PlainMapping, place: str) -> Choices:
    question, *choices, letter = record.values()
    return Choices(question, choices, LETTERS[: len(choices)], letter, None)


def _mutual(record: PlainMapping, place: str) -> Choices:
    options = _list(record["options"], place, "options")
    names = LETTERS[: len(options)]
    return Choices(record["article"], options, names, record.get("answers"), record.get("id"))


LAYOUTS = {
    "swag": (Shape(("sent1", "sent2", "ending0", "ending1"), _swag),),
    "hellaswag": (Shape(("ctx", "endings"), _hellaswag),),
    "arc": (
        Shape(("question.stem", "question.choices"), _arc),
        Shape(("question", "choices.text", "choices.label"), _arc_of_hub),
        Shape(("0", "1", "2", "3"), _arc_csv, is_bare=True),
    ),
    "mutual": (Shape(("article", "options"), _mutual),),
}


# ---- reading ----


def read_multiple_choice(
    paths: str | Sequence[str], layout: str = "auto", on_bad: OnBad | None = None
) -> Iterator[Labelled]:
    """Return an iterator over the examples of files of a data set of multiple choice.

    texts: context, and choices, one text each. labels: "label", the number of the right choice; none in a file without
    labels. extra: names, what the data set calls the choices. layout: a name in `LAYOUTS`, or "auto": by the names of
    the columns. paths, on_bad: see `read_table`.

    Raises UnknownName for a layout that is not known, DataError where the columns are those of none.
    """
    check_layout(layout)
    table, shape = _recognise(paths, layout)
    rows = read_table(paths, table, [], on_bad=on_bad)
    return convert(enumerate(rows), lambda numbered: _example(*numbered, shape), on_bad)


def check_layout(layout: str) -> None:
    """Raise UnknownName for a layout that is not known."""
    if layout != "auto" and layout not in LAYOUTS:
        raise UnknownName("layout of multiple choice", layout, ["auto", *LAYOUTS])


def _recognise(paths: str | Sequence[str], layout: str) -> tuple[TableFormat, Shape]:
    """Return how files are read and the form of their records. Raises DataError."""
    layouts = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    known = None
    for header in ("yes", "no"):
        table = replace(TableFormat(), header=header)
        row = next(read_table(paths, table, [], on_bad=_ignore), None)
        known = known or row
        if row is not None:
            for shapes in layouts.values():
                for shape in shapes:
                    if shape.fits(row.values):
                        return table, shape
    where = paths if isinstance(paths, str) else ", ".join(paths)
    if known is None:
        raise DataError(f"{where} holds no example")
    expected = "; ".join(
        f"{name}: {', '.join(shapes[0].fields)}" for name, shapes in layouts.items()
    )
    raise DataError(
        f"{known.place}: the columns are those of no data set of multiple choice that is known: "
        f"{', '.join(list(known.values)[:20])[:200]} (known are {expected})"
    )


def _ignore(bad: BadRow) -> None:
    """Leave out a row, which is reported when it is read for use."""


def _has(record: PlainMapping, field: str) -> bool:
    try:
        field_of(record, field)
    except KeyError:
        return False
    return True


def _example(number: int, row: Row, shape: Shape) -> Labelled:
    """Return the example of a row. Raises BadRow."""
    place = row.place
    for field in shape.fields:
        if not _has(row.values, field):
            raise BadRow(place, f"the record has no field '{field}'")
    context, choices, names, label, key = shape.choices(row.values, place)
    texts = tuple(_text(choice, place, f"choice {n}") for n, choice in enumerate(choices))
    if len(texts) < 2 or len(names) != len(texts):
        raise BadRow(place, f"expected at least 2 choices, each with a name, got {len(texts)}")
    labels = {}
    if label is not None and label != "":
        labels["label"] = _index(class_name(label, place), names, place)
    return Labelled(
        place,
        key=str(number if key is None or key == "" else key),
        texts={"context": _text(context, place, "context"), "choices": texts},
        labels=labels,
        extra={"names": tuple(names)},
    )


def _index(label: str, names: Sequence[str], place: str) -> int:
    if label not in names:
        raise BadRow(
            place, f"the right choice is {shown(label)}, expected one of {', '.join(names)}"
        )
    return list(names).index(label)


def _text(value: Plain, place: str, name: str) -> str:
    if not isinstance(value, str):
        raise BadRow(place, f"the {name} is {shown(value)}, expected text")
    return value


def _list(value: Plain, place: str, name: str) -> Sequence[Plain]:
    if not isinstance(value, (list, tuple)):
        raise BadRow(place, f"{name} is {shown(value)}, expected a list")
    return value


def _numbers(choices: Sequence[Plain]) -> list[str]:
    return [str(number) for number in range(len(choices))]
