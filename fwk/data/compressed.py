"""Compressed text files as streams of bytes, which end with an error where the file ends too early."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Protocol, cast

from fwk.errors import DataError

COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
_INPUT = (
    1 << 12
)  # bytes of a .zst that are decompressed at once; a crafted file gives up to 2^15 times as many


class ByteStream(Protocol):
    """What a reader of text needs of a file."""

    def read(self, size: int = -1, /) -> bytes:
        """Return about `size` bytes; none at the end."""

    def close(self) -> None:
        """Close the file."""


def open_bytes(file: str) -> tuple[ByteStream, BinaryIO]:
    """Return the decompressed stream and the raw one below it, whose position measures the progress."""
    if file == "-":
        return sys.stdin.buffer, sys.stdin.buffer
    try:
        raw = open(file, "rb")  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from None
    try:
        return _decompressed(raw, file), raw
    except DataError:
        raw.close()
        raise


def _decompressed(raw: BinaryIO, file: str) -> ByteStream:
    suffix = Path(file).suffix.lower()
    if suffix == ".gz":
        import gzip

        return cast(BinaryIO, gzip.open(raw))
    if suffix == ".xz":
        import lzma

        return cast(BinaryIO, lzma.open(raw))
    if suffix == ".bz2":
        import bz2

        return cast(BinaryIO, bz2.open(raw))
    if suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise DataError(
                f"reading {file} needs the package 'zstandard'; install it with pip install zstandard"
            ) from None
        return _ZstdStream(raw, zstandard)
    return raw


def read_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions that a damaged file can raise, whatever compressed it."""
    import lzma
    import zlib

    errors: tuple[type[BaseException], ...] = (OSError, EOFError, zlib.error, lzma.LZMAError)
    if "zstandard" in sys.modules:
        errors += (sys.modules["zstandard"].ZstdError,)
    return errors


class _ZstdStream:
    """The content of a .zst file, of one frame or several. Raises EOFError where the last frame is cut.

    The library's own stream reader returns what a cut file has, without an error.
    """

    def __init__(self, raw: BinaryIO, zstandard: ModuleType) -> None:
        self._raw, self._parts = raw, self._decompress(raw, zstandard)

    def read(self, size: int = -1, /) -> bytes:
        """Return at least `size` bytes, or what is left."""
        parts: list[bytes] = []
        length = 0
        while size < 0 or length < size:
            part = next(self._parts, b"")
            if not part:
                break
            parts.append(part)
            length += len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    @staticmethod
    def _decompress(raw: BinaryIO, zstandard: ModuleType) -> Iterator[bytes]:
        """Yield the content in parts; none is empty."""
        frame = None
        while data := raw.read(_INPUT):
            while data:
                if frame is None:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                if part := frame.decompress(data):
                    yield part
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
        if frame is not None:
            raise EOFError("the file ends before its compressed data does")
