"""What a run on text keeps beside its tokenizer, for using the model without the training text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from fwk.contracts.json_files import fitted, read_json
from fwk.data.arrays import read_counts
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
        return cls(
            sources=_read(folder / SOURCES, _read_sources) or (),
            counts=_read(folder / COUNTS, lambda path: read_counts(path, vocabulary)),
            trained_on=_read(folder / TRAINED_ON, _read_trained_on),
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


def _read(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """Return the content of a file; None where it does not exist. Raises DataError where it is damaged."""
    try:
        return read(path) if path.exists() else None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


def _read_sources(path: Path) -> tuple[str, ...]:
    return fitted({"sources": read_json(path)}, {"sources": "tuple[str, ...]"}, path)["sources"]


def _read_trained_on(path: Path) -> TrainedOn:
    content = fitted(
        read_json(path), {"fingerprint": "str", "sizes": "dict[str, int]"}, path, low=0
    )
    return TrainedOn(content["fingerprint"], content["sizes"])
