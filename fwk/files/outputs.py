"""What commands write where a user says: the one place that opens such files and folders.

An output is never an input of the same command, never a file of a run, a store or an export, never an existing file
unless the user says so, and never written by two processes at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fwk.errors import DataError, UserError
from fwk.files import try_temporary_lock
from fwk.files.kinds import Kind, owner_of
from fwk.files.replacing import (
    make_temporary,
    put_in_place,
    remove_lock,
    remove_temporary,
    replace_folder,
    write_new,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputFile:
    """A file that this process alone may write; `open_output` makes it."""

    flag: str  # by which the user named it
    place: Path  # without links
    overwrite: bool

    def write(self, content: bytes) -> None:
        """Write the whole file in one step."""
        with self._explained():
            write_new(self.place, content, self.overwrite)

    def take(self, finished: Path) -> None:
        """Rename a finished file of the same folder to this one."""
        with self._explained():
            put_in_place(finished, self.place, self.overwrite)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise UserError(
                f"{self.flag}: {self.place} appeared while the command ran, and was not replaced"
            ) from None


@contextmanager
def open_output(
    flag: str, path: Path, *, reads: Iterable[Path] = (), overwrite: bool = False
) -> Iterator[OutputFile]:
    """Check and lock a file that a user named by `flag`; the block writes it.

    reads: what the same command reads or writes otherwise. overwrite: an existing file may be replaced. Raises
    UserError where the file cannot or must not be written.
    """
    check_output(flag, path, reads, overwrite)
    place = path.resolve()
    with hold(place, f"{flag}: {path}"):
        check_output(flag, path, reads, overwrite)  # another process may have ended meanwhile
        yield OutputFile(flag, place, overwrite)


@contextmanager
def hold(place: Path, name: str) -> Iterator[None]:
    """Hold the lock of a place that is being written. Raises UserError where another process holds it."""
    lock = place.with_name(f".{place.name}.lock")
    try:
        file = try_temporary_lock(lock)
    except OSError as error:
        raise UserError(f"{name} cannot be written: {lock}: {error.strerror}") from None
    if file is None:
        raise UserError(f"{name} is being written by another process; wait for it")
    try:
        yield
    finally:
        remove_lock(file, lock)
        file.close()


def check_output(flag: str, path: Path, reads: Iterable[Path], overwrite: bool) -> None:
    """Raise UserError where `path`, given by `flag`, cannot or must not be written."""
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
    if any(is_same(place, other) for other in reads):
        raise UserError(
            f"{flag}: {path} is read or written as something else by the same command; "
            "choose another file"
        )
    owner = owner_of(place)
    if owner is not None:
        folder, kind = owner
        raise UserError(
            f"{flag}: {path} belongs to the {kind.name} in {folder}; choose another file"
        )
    if place.exists() and not overwrite:
        raise UserError(
            f"{flag}: {path} exists; choose another file, or give --overwrite to replace it"
        )


def is_same(place: Path, other: Path) -> bool:
    """Return whether two paths are one file, through links of any sort."""
    if place == other.resolve():
        return True
    try:
        return place.samefile(other)
    except OSError:  # one of them does not exist
        return False


class AtomicFolder:
    """A folder that is filled under a temporary name and then renamed: `with AtomicFolder(target, ...) as folder: ...`.

    After an error everything is as it was before. Raises DataError for a target that cannot be one.
    """

    def __init__(
        self,
        target: Path,
        overwrite: bool,  # replace an existing folder
        kind: Kind,  # what an existing folder must be, and whose files are removed from it
        spared: Sequence[Path] = (),  # paths that the replaced folder must not contain
    ) -> None:
        self.target, self.overwrite, self.kind = target, overwrite, kind
        self.spared = [*spared, Path.cwd()]
        self._check()

    def _check(self) -> None:
        self._check_place()
        self._check_spares()
        target = self.target
        if target.exists() and any(target.iterdir()) and not self.kind.holds(target):
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

    def _check_spares(self) -> None:
        place = self.target.resolve()
        for path in (path.resolve() for path in self.spared):
            if place == path or place in path.parents:
                raise DataError(
                    f"{self.target} is or contains {path}, which must stay; choose another folder"
                )

    def __enter__(self) -> Path:
        with ExitStack() as stack:
            stack.enter_context(hold(self.target.resolve(), str(self.target)))
            self._check()
            self._temporary = make_temporary(self.target.resolve())
            self._stack = stack.pop_all()
        return self._temporary

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is not None:
                remove_temporary(self._temporary)
                return
            make_public(self._temporary, self.target)
            rest = replace_folder(self._temporary, self.target.resolve(), self.kind)
            warn_of_rest(self.target, rest)


def warn_of_rest(target: Path, rest: Path | None) -> None:
    """Warn where files that fwk did not make could not stay in the folder that was replaced."""
    if rest is not None:
        logger.warning(
            "%s was replaced; what fwk had not written in it is kept in %s", target, rest
        )


def make_public(folder: Path, target: Path) -> None:
    """Give a temporary folder, which is private to the user, the usual permissions, or those of `target`."""
    mask = os.umask(0)
    os.umask(mask)
    if target.exists():  # a folder that replaces a private one is private
        mask |= ~target.stat().st_mode & 0o777
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
