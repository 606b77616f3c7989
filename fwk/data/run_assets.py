"""What a run on text keeps beside its tokenizer, for using the model without the training text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from fwk.errors import DataError
from fwk.files import write_atomically

COUNTS, SOURCES, TRAINED_ON = "counts.npy", "sources.json", "trained_on.json"

Content = TypeVar("Content")


@dataclass(frozen=True)
class TrainedOn:
    """The training data of a run."""

    fingerprint: str  # of the task
    sizes: dict[str, int]  # examples by name of the training source


@dataclass(frozen=True)
class RunAssets:
    """The files beside the tokenizer. Runs of older versions lack some of them."""

    sources: tuple[str, ...] = ()  # names of the task's sources
    counts: np.ndarray | None = None  # occurrences of each token, [V]
    trained_on: TrainedOn | None = None

    @classmethod
    def read(cls, folder: Path, vocabulary: int) -> RunAssets:
        """Return the assets in a folder. Raises DataError for damaged files and counts of another vocabulary."""
        counts = _read(folder / COUNTS, lambda file: np.load(file, allow_pickle=False))
        is_number = counts is None or counts.dtype.kind in "iuf"
        if counts is not None and (counts.shape != (vocabulary,) or not is_number):
            raise DataError(
                f"{folder / COUNTS} holds {counts.dtype} {list(counts.shape)}, expected one number for each of "
                f"the {vocabulary} tokens"
            )
        return cls(
            sources=_read(folder / SOURCES, _parse_sources) or (),
            counts=counts,
            trained_on=_read(folder / TRAINED_ON, _parse_trained_on),
        )

    def write(self, folder: Path) -> None:
        """Write the assets that are known."""
        write_atomically(folder / SOURCES, (json.dumps(self.sources) + "\n").encode())
        if self.trained_on is not None:
            content = json.dumps(asdict(self.trained_on)) + "\n"
            write_atomically(folder / TRAINED_ON, content.encode())
        if self.counts is not None:
            buffer = io.BytesIO()
            np.save(buffer, self.counts, allow_pickle=False)
            write_atomically(folder / COUNTS, buffer.getvalue())


def _read(path: Path, parse: Callable[[IO[bytes]], Content]) -> Content | None:
    """Return the parsed content of a file; None where it does not exist. Raises DataError where it is damaged."""
    try:
        with open(path, "rb") as file:
            return parse(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def _parse_sources(file: IO[bytes]) -> tuple[str, ...]:
    return tuple(str(name) for name in json.load(file))


def _parse_trained_on(file: IO[bytes]) -> TrainedOn:
    content = json.load(file)
    fields = (content.get("fingerprint"), content.get("sizes")) if isinstance(content, dict) else ()
    if len(fields) < 2 or not isinstance(fields[0], str) or not isinstance(fields[1], dict):
        raise ValueError("it does not hold a fingerprint and sizes")
    sizes = {str(name): int(size) for name, size in fields[1].items()}
    return TrainedOn(fields[0], sizes)
