"""Paths that users give, atomic writes, content hashes, locks, and the cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypedDict

from fwk.errors import DataError, UserError

BLOCK = 1 << 22  # bytes hashed and written at once


class FileFacts(TypedDict):
    """What a manifest records of a file."""

    sha256: str
    bytes: int


def expand_user(path: str) -> str:
    """Return a path that a user gave, with the home folder in place of `~` or `~NAME` at its beginning.

    A relative path stays relative, to the current folder. A file that is called ~NAME is meant as it is. Raises
    UserError where no home folder is known.
    """
    expanded = os.path.expanduser(path)
    first = path.split("/", 1)[0]
    if expanded != path or not path.startswith("~") or (first != "~" and os.path.lexists(first)):
        return expanded
    remedy = "set HOME, or give the path in full" if first == "~" else "give the path in full"
    raise UserError(f"{path}: no home folder is known for {first}; {remedy}")


def user_path(path: str | Path) -> Path:
    """Return a path that a user gave as `expand_user` reads it."""
    return Path(expand_user(os.fspath(path)))


def digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> FileFacts:
    """Write a file, wait until it is on the disk, and return its sha256 and size, taken on the way."""
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
    """A folder that is filled under a temporary name and then renamed: `with AtomicFolder(target, ...) as folder: ...`.

    After an error everything is as it was before. Raises DataError for a target that cannot be one.
    """

    def __init__(
        self,
        target: Path,
        overwrite: bool,  # replace an existing folder
        ours: Callable[[Path], bool],  # whether an existing folder was written by the same command
        spared: Sequence[Path] = (),  # paths that the replaced folder must not contain
    ) -> None:
        self.target, self.overwrite = target, overwrite
        self._check_place()
        self._check_spares([*spared, Path.cwd()])
        if target.exists() and any(target.iterdir()) and not ours(target):
            raise DataError(
                f"{target} is a folder of something else, and --overwrite replaces only what the "
                "same command wrote; choose another folder"
            )

    def _check_place(self) -> None:
        target, place = self.target, self.target.resolve()
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise DataError(f"{target} is not a folder; choose another place")
        if target.exists() and not self.overwrite:
            raise DataError(
                f"{target} exists; choose another folder, or give --overwrite to replace it"
            )
        if not place.parent.is_dir():
            raise DataError(f"{place.parent} is not a folder; expected one for {place.name}")

    def _check_spares(self, spared: Iterable[Path]) -> None:
        place = self.target.resolve()
        for path in (path.resolve() for path in spared):
            if place == path or place in path.parents:
                raise DataError(
                    f"{self.target} is or contains {path}, which must stay; choose another folder"
                )

    def __enter__(self) -> Path:
        place = self.target.resolve()
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        return self._temporary

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        temporary = self._temporary
        if kind is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            return

        mask = os.umask(0)
        os.umask(mask)
        for path in (temporary, *temporary.rglob("*")):  # mkdtemp's are private to the user
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)

        place = self.target.resolve()
        replaced = place.with_name(f"{temporary.name}.old")
        if place.exists():
            os.replace(place, replaced)
        os.replace(temporary, place)
        shutil.rmtree(replaced, ignore_errors=True)


def check_target(flag: str, path: Path, *others: Path) -> None:
    """Raise UserError where `path`, given by `flag`, is no place for a file, or is one of the other files."""
    place = path.resolve()
    if place.is_dir():
        raise UserError(f"{flag}: {path} is a folder; expected a file")
    if place.exists() and not place.is_file():
        raise UserError(f"{flag}: {path} is not a regular file; expected a file")
    if not place.parent.is_dir():
        raise UserError(f"{flag}: there is no folder {path.parent} for {path.name}")
    if not os.access(place.parent, os.W_OK):
        raise UserError(
            f"{flag}: the folder {path.parent} is not writable; choose another place for {path.name}"
        )
    if any(place == other.resolve() for other in others):
        raise UserError(
            f"{flag}: {path} is read or written as something else by the same command; "
            "choose another file"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it: after a crash it is whole or does not exist."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """Return $FWK_CACHE, else $XDG_CACHE_HOME/fwk, else ~/.cache/fwk, without making the folder.

    Raises UserError where none of them is known.
    """
    if chosen := os.environ.get("FWK_CACHE"):
        return user_path(chosen)
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fwk"
    except UserError:  # a user without an entry in the system's list, as containers have
        raise UserError(
            "there is no place for the cache: HOME is not set, and the user has no home folder; set FWK_CACHE to a "
            "folder that can be written to"
        ) from None


def try_lock(path: Path) -> TextIO | None:
    """Return a file, locked against other processes, or None where another process holds the lock.

    The file is created where it is missing. Closing it releases the lock, as does the end of the process.
    """
    import fcntl  # Windows lacks it

    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (the caller closes it)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
