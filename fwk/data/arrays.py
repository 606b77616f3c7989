"""Arrays in `.npy` files that a stranger may have written: the header is compared before anything is allocated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fwk.errors import DataError

# What `np.save` writes for a vector of numbers. numpy itself reads a header as Python code (`ast.literal_eval`), which
# raises errors of many kinds for a crafted one.
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][iuf][1248])', 'fortran_order': (?:False|True), 'shape': \((\d{1,15}),\), \}\s*"
)


def read_counts(path: Path, size: int) -> np.ndarray:
    """Return the numbers in a file, one for each of `size` tokens, [size]; none is negative, all are finite.

    Raises DataError where the file holds anything else, and OSError where it cannot be opened.
    """
    with open(path, "rb") as file:
        kind, length = _read_header(file) or ("", -1)
        if length != size:
            held = f"{length} numbers" if kind else "no vector of numbers"
            raise DataError(
                f"{path} is missing or damaged: it holds {held}, expected one for each of the {size} tokens"
            )
        counts = np.fromfile(file, np.dtype(kind), size)
    if len(counts) != size:
        raise DataError(f"{path} is missing or damaged: it holds {len(counts)} of {size} numbers")
    # a sum of 64-bit counts must not overflow
    total = float(counts.sum(dtype=np.float64))
    if not total <= 2**62 or not np.isfinite(counts).all() or (counts < 0).any():
        raise DataError(f"{path} is damaged: a count is negative, infinite or too large")
    return counts


def _read_header(file: BinaryIO) -> tuple[str, int] | None:
    """Return the type and the length of the vector that follows; None where the file is no vector of numbers."""
    magic, length = file.read(len(_MAGIC)), int.from_bytes(file.read(2), "little")
    match = _HEADER.fullmatch(file.read(length))
    if magic != _MAGIC or match is None or match[1] == b"<f1":
        return None
    return match[1].decode(), int(match[2])
