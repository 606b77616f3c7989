"""Files that are there whole or not at all, and known by what is in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from fwk.errors import DataError, UserError

BLOCK = 1 << 22


def digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        hashed = hashlib.sha256()
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes a file and waits until it is on the disk; its sha256 and size, taken on the way."""
    hashed, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for part in parts:
            for start in range(0, len(part), BLOCK):
                block = part[start : start + BLOCK]
                hashed.update(block)
                file.write(block)
            size += len(part)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": hashed.hexdigest(), "bytes": size}


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class AtomicFolder:
    """A folder that is made beside another place and then put there whole: `with AtomicFolder(target, ...) as beside: ...`.

    overwrite: whether what is there may be replaced; it must be a folder that `ours` recognises, or an empty one, and hold none
    of `spared`. On an error nothing is there that was not there before. DataError for a target that cannot be one.
    """

    def __init__(
        self,
        target: Path,
        overwrite: bool,
        ours: Callable[[Path], bool],
        spared: Sequence[Path] = (),
    ) -> None:
        self.target, self.overwrite = target, overwrite
        place = target.resolve()
        if target.is_symlink() or target.exists() and not target.is_dir():
            raise DataError(f"{target} is not a folder; choose another place")
        if target.exists() and not overwrite:
            raise DataError(
                f"{target} exists; choose another folder, or give --overwrite to replace it"
            )
        if not place.parent.is_dir():
            raise DataError(f"{place.parent} is not a folder; expected one for {place.name}")
        for other in (*spared, Path.cwd()):
            other = other.resolve()
            if place == other or place in other.parents:
                raise DataError(
                    f"{target} is or holds {other}, which must stay; choose another folder"
                )
        if target.exists() and any(target.iterdir()) and not ours(target):
            raise DataError(
                f"{target} is a folder of something else, and --overwrite replaces only what the same command made; "
                "choose another folder"
            )

    def __enter__(self) -> Path:
        place = self.target.resolve()
        self._beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        return self._beside

    def __exit__(self, kind: type | None, *_: Any) -> None:
        if kind is not None:
            shutil.rmtree(self._beside, ignore_errors=True)
            return
        place, mask = self.target.resolve(), os.umask(0)
        os.umask(mask)
        for path in (
            self._beside,
            *self._beside.rglob("*"),
        ):  # as any file that is made, not as a temporary one
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
        aside = place.with_name(f"{self._beside.name}.old")
        if place.exists():
            os.replace(place, aside)
        os.replace(self._beside, place)
        shutil.rmtree(aside, ignore_errors=True)


def check_target(what: str, path: Path, *others: Path) -> None:
    """UserError where `path`, named by `what`, is no place that a file can be put, or is one of the others, which must stay."""
    place = path.resolve()
    if place.is_dir() or place.exists() and not place.is_file():
        raise UserError(
            f"{what}: {path} is {'a folder' if place.is_dir() else 'no regular file'}; expected a file"
        )
    if not place.parent.is_dir():
        raise UserError(f"{what}: there is no folder {path.parent} for {path.name}")
    if not os.access(place.parent, os.W_OK):
        raise UserError(
            f"{what}: the folder {path.parent} cannot be written to; choose another place for {path.name}"
        )
    if any(place == other.resolve() for other in others):
        raise UserError(
            f"{what}: {path} is read or written as something else by the same command; choose another file"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Beside, fsync, rename: after a crash the file is there in whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """$FWK_CACHE, else $XDG_CACHE_HOME/fwk, else ~/.cache/fwk. Not created here."""
    if chosen := os.environ.get("FWK_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fwk"


def try_lock(path: Path) -> TextIO | None:
    """Return a file that is open and locked against other processes, or None where another process holds the lock.

    The file is made where it is missing. Closing it releases the lock, as does the end of the process.
    """
    import fcntl  # Windows lacks it

    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
