"""The one place that deletes, replaces and renames.

docs/reliability.md lists every caller and why the call is safe. All of them keep three rules:

- Nothing behind a link is deleted or written: a link is removed itself, or left alone.
- Only files that fwk made are deleted: those whose names the kind of a folder owns (`fwk.files.kinds`), and the content
  of temporary folders that this process made.
- What replaces something is complete before it is renamed, and what it replaces is deleted last.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, AnyStr

from fwk.files.file_system import sync_handle
from fwk.files.kinds import MARKER, Kind, marker_text

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_made: set[Path] = set()  # temporary folders of this process


# -- deleting --------------------------------------------------------------------------------------------------------


def remove_file(path: Path) -> None:
    """Remove a file, or a link and not what it points to; nothing happens where it is missing."""
    path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> bool:
    """Remove a folder that is empty; return whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_owned(folder: Path, kind: Kind, keep: Collection[str] = ()) -> bool:
    """Remove the files of a kind from a folder, and the folders that are then empty; return whether all is gone.

    keep: names, relative to the folder, that stay. What fwk did not make stays, and so does a folder that is a link.
    """
    try:
        handle = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return False
        raise
    try:
        _remove_owned_in(handle, "", kind, keep)
    finally:
        os.close(handle)
    return remove_empty(folder)


def _remove_owned_in(handle: int, prefix: str, kind: Kind, keep: Collection[str]) -> None:
    """Remove from an open folder: names are looked up in it, so that no link can lead elsewhere meanwhile."""
    with os.scandir(handle) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    # without its manifest a folder is no checkpoint and no store; without its marker it is not known as ours
    names.sort(key=lambda entry: (entry[0] == MARKER, entry[0] != "manifest.json", entry[0]))
    for name, is_folder in names:
        path = prefix + name
        if path in keep:
            continue
        if is_folder and kind.owns_folder(path):
            inner = os.open(name, _FOLDER, dir_fd=handle)
            try:
                _remove_owned_in(inner, f"{path}/", kind, keep)
            finally:
                os.close(inner)
            _remove_empty_in(handle, name)
        elif not is_folder and kind.owns(path):
            os.unlink(name, dir_fd=handle)


def _remove_empty_in(handle: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=handle)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


# -- temporary folders -----------------------------------------------------------------------------------------------


def make_temporary(target: Path, suffix: str = "") -> Path:
    """Make a folder of an unpredictable name beside `target`, which only this user can enter."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=suffix, dir=target.parent))
    _made.add(folder)
    return folder


def remove_temporary(folder: Path) -> None:
    """Remove a folder that `make_temporary` of this process made, with all that is in it."""
    if folder not in _made:
        raise ValueError(f"{folder} was not made by this process")
    shutil.rmtree(folder, ignore_errors=True)
    _made.discard(folder)


def find_temporary(target: Path, suffix: str, kind: Kind) -> Iterator[Path]:
    """Yield the folders that processes of this user made beside `target` with this suffix and marked as a kind.

    Links, folders of other users, and folders that others can write to are left out: somebody may have planted them.
    """
    prefix = f".{target.name}."
    for path in sorted(target.parent.iterdir()):
        if not (path.name.startswith(prefix) and path.name.endswith(suffix)):
            continue
        facts = path.lstat()
        is_private = facts.st_uid == os.getuid() and not facts.st_mode & 0o077
        if stat.S_ISDIR(facts.st_mode) and is_private and kind.holds(path):
            yield path


def mark(folder: Path, kind: Kind) -> None:
    """Write the marker that says what a folder of fwk is."""
    write_atomically(folder / MARKER, marker_text(kind).encode())


# -- replacing -------------------------------------------------------------------------------------------------------


def rename(source: Path, target: Path) -> None:
    """Rename a file, a folder or a link. Raises FileExistsError where `target` exists."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def truncate(file: IO[AnyStr], size: int = 0) -> None:
    """Cut an open file of ours to its first bytes."""
    file.truncate(size)


def remove_lock(file: IO[AnyStr], path: Path) -> None:
    """Remove a lock file that this process holds; a file with content is somebody's and stays."""
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if os.path.samestat(os.fstat(file.fileno()), facts) and not facts.st_size:
            path.unlink()


def replace_link(link: Path, target: str) -> None:
    """Make `link` point to `target`; an existing link is replaced in one step, anything else stays.

    Raises FileExistsError where something else is there.
    """
    beside = link.with_name(f".{link.name}")
    for path in (link, beside):
        if os.path.lexists(path) and not path.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    remove_file(beside)
    beside.symlink_to(target)
    os.replace(beside, link)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it and rename it: after a crash it is whole or does not exist.

    A file that is replaced keeps its permissions. A link at `path` is replaced, not followed.
    """
    with temporary_file(path) as temporary:
        _write(temporary, content)
        os.replace(temporary, path)


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file as `write_atomically` does. Raises FileExistsError where it exists and `overwrite` is False."""
    with temporary_file(path) as temporary:
        _write(temporary, content)
        put_in_place(temporary, path, overwrite)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        sync_handle(file.fileno())


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Make an empty file beside `path`, to be written and renamed inside the block; an error removes it.

    It gets the permissions of the file at `path`, where there is one.
    """
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    handle = os.open(temporary, _NEW_FILE, 0o666)
    try:
        with suppress(FileNotFoundError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                os.fchmod(handle, facts.st_mode & 0o777)
        os.close(handle)
        yield temporary
    except BaseException:
        remove_file(temporary)
        raise


def put_in_place(finished: Path, target: Path, overwrite: bool) -> None:
    """Give a finished file its name. Raises FileExistsError where `target` exists and `overwrite` is False."""
    if overwrite:
        os.replace(finished, target)
        return
    try:
        os.link(finished, target)  # fails where a file has appeared meanwhile, as no rename does
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        rename(finished, target)
    else:
        remove_file(finished)


def replace_folder(finished: Path, target: Path, kind: Kind) -> Path | None:
    """Rename a finished temporary folder to `target`; a folder of the kind that was there is removed last.

    What fwk did not make is moved from the old folder to the new one. Return a folder that holds the rest of it, where
    something of the same name is in the way; None in general.
    """
    _made.discard(finished)
    if not os.path.lexists(target):
        os.rename(finished, target)
        return None
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    os.rename(target, old)
    os.rename(finished, target)
    for path in sorted(old.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        ours = kind.owns_folder(path.name) if is_folder else kind.owns(path.name)
        if not ours and not os.path.lexists(target / path.name):
            os.rename(path, target / path.name)
    return None if remove_owned(old, kind) else old
