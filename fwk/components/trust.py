"""Which code of a user directory may be imported.

A config file, and the config.yaml of a run, name folders of code under `user_dirs`. A file that came from elsewhere
must not have its code imported, so such a folder is imported only

- with the user's word: `--user-dir DIR`, `--trust`, `user_dirs=` or `trust=True` from Python; or
- because this user gave that word for exactly this code on this machine before.

The second is recorded outside of runs, in a folder of the cache that only its owner can enter, under the hash of
every file of the folder that Python could import. Code that was changed since needs the word again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path

from fwk.errors import UntrustedCode
from fwk.files import cache_folder, write_atomically

MOST_FILES = (
    2000  # of a user directory; a larger one is not recorded and needs the user's word every time
)
MOST_BYTES = 50_000_000
SHOWN_FILES = 4  # in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserDir:
    """A folder or file of code that somebody named."""

    place: Path  # absolute
    by_word: bool  # named by the user, not only by a file
    origin: str  # where it is named, for messages


def require_trust(user_dirs: Iterable[UserDir]) -> None:
    """Raise UntrustedCode unless all of this code may be imported; remember what the user vouched for.

    All of it is judged before anything is remembered.
    """
    user_dirs = list(user_dirs)
    vouched = {user_dir.place for user_dir in user_dirs if user_dir.by_word}
    for user_dir in user_dirs:
        if user_dir.place not in vouched and not is_remembered(user_dir.place):
            raise UntrustedCode(_refusal(user_dir))
    for place in sorted(vouched):
        remember(place)


def is_remembered(place: Path) -> bool:
    """Return whether this user vouched for exactly this code on this machine before."""
    folder, content = _record_folder(), content_hash(place)
    if content is None or folder is None or not _is_private(folder):
        return False
    return _is_private(folder / content)


def remember(place: Path) -> None:
    """Record that the user vouched for the code of `place`. Nothing is recorded where the cache cannot be written."""
    folder, content = _record_folder(), content_hash(place)
    if folder is None or content is None or is_remembered(place):
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            logger.warning("%s can be changed by others, so it is not used", folder)
            return
        write_atomically(folder / content, f"{place}\n".encode(errors="surrogateescape"))
        os.chmod(folder / content, 0o600)
    except OSError:  # a read-only or full cache: the word must be given again
        return


def content_hash(place: Path) -> str | None:
    """Return the hash of all files under `place` that Python could import; None where they are too many to be read."""
    hashed = hashlib.blake2b(digest_size=20)
    size = 0
    for number, (name, path) in enumerate(code_files(place)):
        try:
            size += path.stat().st_size
            if number >= MOST_FILES or size > MOST_BYTES or not path.is_file():
                return None
            content = hashlib.blake2b(path.read_bytes(), digest_size=20).hexdigest()
        except OSError:
            return None
        hashed.update(f"{len(name)} {name} {content}\n".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def code_files(place: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative name and the path of every file that Python could import from a user directory, sorted.

    Folders behind links are followed once. Compiled files in `__pycache__` are left out: user code is always compiled
    from its source (see `user_dirs.FromSource`).
    """
    if place.is_file():
        yield place.name, place
        return
    visited: set[str] = set()
    for folder, subfolders, files in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = sorted(n for n in subfolders if n != "__pycache__" and n[0] != ".")
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for file in sorted(files):
            if file.endswith(tuple(all_suffixes())):
                path = Path(folder, file)
                yield path.relative_to(place).as_posix(), path


def _record_folder() -> Path | None:
    """Return the folder of this user's records; None where the user has no place for a cache."""
    try:
        return cache_folder() / f"trusted-code-{os.getuid()}"
    except RuntimeError:  # no home directory
        return None


def _is_private(path: Path) -> bool:
    """Return whether a file or folder exists, belongs to this user, and can be changed by nobody else."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    is_plain = stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)
    return is_plain and facts.st_uid == os.getuid() and not facts.st_mode & 0o022


def _refusal(user_dir: UserDir) -> str:
    place = user_dir.place
    names = [name for _, (name, _) in zip(range(SHOWN_FILES + 1), code_files(place))]
    shown = ", ".join(names[:SHOWN_FILES]) + (", ..." if len(names) > SHOWN_FILES else "")
    inside = "" if place.is_file() else f" ({shown or 'no Python files'})"
    reason = "was changed since you allowed it" if _was_trusted(place) else "you have not allowed"
    return (
        f"{user_dir.origin}: user_dirs names the code in {place}{inside}, which {reason} to run on this machine; "
        f"read it, then give --user-dir {place}, or --trust (from Python: trust=True)"
    )


def _was_trusted(place: Path) -> bool:
    """Return whether other code at the same place was recorded."""
    folder = _record_folder()
    if folder is None or not folder.is_dir():
        return False
    line = f"{place}\n".encode(errors="surrogateescape")
    return any(record == line for record in _records(folder.iterdir()))


def _records(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield path.read_bytes()
        except OSError:
            continue
