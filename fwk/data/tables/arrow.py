"""Tables in Arrow's formats: Parquet files, and Hugging Face data sets. Their libraries are optional extras."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Protocol

from fwk.contracts.shapes import Plain
from fwk.data.compressed import COMPRESSED
from fwk.data.tables.columns import Wanted
from fwk.data.tables.rows import Refuse, Row
from fwk.errors import DataError, did_you_mean
from fwk.files import expand_user

_ROWS = 1024  # rows that are converted at a time
PREFIX = "datasets:"
_SAVED = ("state.json", "dataset_dict.json")  # files of a folder that `save_to_disk` wrote


class _Batch(Protocol):
    """A batch of rows, or a table, of pyarrow."""

    schema: _Schema

    def column(self, name: str) -> Plain: ...  # an array of pyarrow, which has no types here


class _Schema(Protocol):
    names: Sequence[str]

    def field(self, name: str) -> Plain: ...


def read_parquet(file: str, wanted: Wanted, refuse: Refuse) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    if file.lower().endswith(COMPRESSED):
        raise DataError(
            f"{file} is compressed twice (Parquet files are compressed within); decompress it first"
        )
    parquet = _library("pyarrow.parquet", "parquet", file)
    try:
        opened = parquet.ParquetFile(file)
        names = list(opened.schema_arrow.names)
        found = wanted.find(names, len(names), f"{file} has")
        columns = list(dict.fromkeys(names[index] for index in found.values()))
        batches = opened.iter_batches(_ROWS, columns=columns)
        asked = {key: names[index] for key, index in found.items()}
        yield from _rows(file, batches, asked, {}, refuse)
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of both
        raise DataError(f"{file} cannot be read as Parquet ({_line(error)})") from None


def is_saved_dataset(path: str) -> bool:
    """Return whether a path is a folder that `save_to_disk` of Hugging Face `datasets` wrote."""
    folder = expand_user(path)
    return any(os.path.isfile(os.path.join(folder, name)) for name in _SAVED)


def read_dataset(entry: str, wanted: Wanted, refuse: Refuse) -> Iterator[Row]:
    """Yield the rows of a Hugging Face data set: "datasets:NAME[/CONFIG][:SPLIT]", or a folder of `save_to_disk`.

    Classes are given by name. No code that comes with a data set is executed: `datasets` 4 and later cannot.
    """
    library = _library("datasets", "datasets", entry)
    name, _, split = entry.removeprefix(PREFIX).partition(":")
    dataset = _one_split(_load(library, name, split), name, split, library)
    names = list(dataset.column_names)
    found = wanted.find(names, len(names), f"{name} has")
    asked = {key: names[index] for key, index in found.items()}
    classes = {
        column: list(feature.names)
        for column, feature in dataset.features.items()
        if isinstance(feature, library.ClassLabel)
    }
    chosen = dataset.select_columns(list(dict.fromkeys(asked.values()))).with_format("arrow")
    yield from _rows(name, chosen.iter(batch_size=_ROWS), asked, classes, refuse)


def _load(library: ModuleType, name: str, split: str) -> Plain:
    """Return a data set, or the mapping of its splits. Raises DataError."""
    folder = expand_user(name)
    try:
        if is_saved_dataset(folder):
            return library.load_from_disk(folder)
        problem: Exception | None = None
        for path, config in _readings(name):
            try:
                return library.load_dataset(path, config, split=split or None)
            except (OSError, library.exceptions.DatasetNotFoundError) as error:
                problem = problem or error
        assert problem is not None
        raise problem
    except (
        Exception
    ) as error:  # the library raises whatever it comes across, network errors included
        raise DataError(f"the data set {name} cannot be loaded ({_line(error)})") from None


def _readings(name: str) -> list[tuple[str, str | None]]:
    """Return what NAME[/CONFIG] may mean, as pairs of a name or folder and a configuration.

    The names of the hub have the form OWNER/NAME, or for old data sets NAME alone.
    """
    head, slash, tail = name.rpartition("/")
    whole, divided = (expand_user(name), None), (expand_user(head), tail)
    if not slash or os.path.isdir(whole[0]):
        return [whole]
    if os.path.isdir(divided[0]) or name.count("/") > 1:
        return [divided]
    return [whole, divided]


def _one_split(loaded: Plain, name: str, split: str, library: ModuleType) -> Plain:
    """Return the named split of what was loaded; without a name, the only one. Raises DataError."""
    if not isinstance(loaded, library.DatasetDict):
        return loaded
    if not split and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split in loaded:
        return loaded[split]
    if split:
        raise DataError(f"the data set {name} has no split '{split}'{did_you_mean(split, loaded)}")
    raise DataError(
        f"the data set {name} has several splits; name one, as in {PREFIX}{name}:{next(iter(loaded))}"
        f"{did_you_mean('', loaded)}"
    )


def _rows(
    place: str,
    batches: Iterable[_Batch],
    asked: dict[str, str],
    classes: dict[str, list[str]],
    refuse: Refuse,
) -> Iterator[Row]:
    """Yield the rows of batches. asked: name of the column for each key; classes: names of the classes of a column."""
    number = 0
    for batch in batches:
        columns = []
        for name in asked.values():
            values = _values(batch, name, place)
            if name in classes:
                values = [_class_name(value, classes[name]) for value in values]
            columns.append(values)
        for cells in zip(*columns):
            number += 1
            yield Row(refuse.place(number), dict(zip(asked, cells)))


def _class_name(value: int | None, names: list[str]) -> str | None:
    """Return the name of a class; None where there is no label, which `datasets` writes as -1."""
    return names[value] if value is not None and 0 <= value < len(names) else None


def _values(batch: _Batch, name: str, place: str) -> list[Plain]:
    """Return the values of a column as Python has them; dates and decimals as text. Raises DataError."""
    types = _library("pyarrow.types", "parquet", place)
    kind = batch.schema.field(name).type
    column = batch.column(name)
    if types.is_temporal(kind) or types.is_decimal(kind):
        column = column.cast("string")
    elif not _is_plain(kind, types):
        raise DataError(
            f"{place}: the column '{name}' holds {str(kind)[:60]}, expected text, numbers, true or false, or lists "
            "of these"
        )
    try:
        values: list[Plain] = column.to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"{place}: the column '{name}' holds text that is not UTF-8") from None
    return values


def _is_plain(kind: Plain, types: ModuleType) -> bool:
    """Return whether a type of Arrow is one of JSON's, or is made of these."""
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type, types)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type, types)
    if types.is_struct(kind):
        return all(_is_plain(kind.field(index).type, types) for index in range(kind.num_fields))
    is_text = types.is_string(kind) or types.is_large_string(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind)
    return bool(is_text or is_number or types.is_boolean(kind) or types.is_null(kind))


def _library(name: str, extra: str, file: str) -> ModuleType:
    """Return an optional library. Raises DataError where it is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise DataError(
            f"reading {file} needs the package '{package}'; install it with pip install 'fwk[{extra}]'"
        ) from None


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
