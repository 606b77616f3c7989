"""Which code of a user directory may be imported.

A config file, and the config.yaml of a run, name folders of code under `user_dirs`. A file that came from elsewhere
must not have its code imported, so such a folder is imported only

- with the user's word: `--user-dir DIR`, `--trust`, `user_dirs=` or `trust=True` from Python; or
- because this user gave that word for exactly this code, at this place on this machine, before.

The second is recorded outside of runs, in a folder of the cache that only its owner can enter: one file per place, with
the hashes of every file there that Python could import. Code that was changed since needs the word again, and so does a
copy, because code may read files beside it that are not hashed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from itertools import islice
from pathlib import Path

from fwk.errors import UntrustedCode
from fwk.files.private import private_folder, read_private, write_private

# of a user directory; a larger one is not recorded and needs the user's word every time
MOST_ENTRIES = 20_000  # files and folders of any kind
MOST_FILES = 2000  # that Python could import
MOST_BYTES = 50_000_000  # of these

KEPT_VERSIONS = 50  # of the code at one place
SHOWN_FILES = 4  # in a message

_word: ContextVar[bool] = ContextVar("word", default=False)


@contextmanager
def trusting(word: bool) -> Iterator[None]:
    """Let everything inside import the code that files name, where `word` is true.

    It covers the runs that a config or a plugin reads in turn. Inside a block that has the word, a block without it has
    the word too.
    """
    token = _word.set(word or _word.get())
    try:
        yield
    finally:
        _word.reset(token)


def has_word() -> bool:
    """Return whether the code that files name may be imported here, as inside `trusting(True)`."""
    return _word.get()


@dataclass(frozen=True)
class UserDir:
    """A folder or file of code that somebody named."""

    place: Path  # absolute
    by_user: bool  # named by the user, not only by a file
    origin: str  # where it is named, for messages


def require_trust(user_dirs: Iterable[UserDir]) -> None:
    """Raise UntrustedCode unless all of this code may be imported; remember what the user vouched for.

    All of it is judged before anything is remembered.
    """
    user_dirs = list(user_dirs)
    vouched = {user_dir.place for user_dir in user_dirs if user_dir.by_user or _word.get()}
    for user_dir in user_dirs:
        if user_dir.place not in vouched and not is_remembered(user_dir.place):
            raise UntrustedCode(_refusal(user_dir))
    for place in sorted(vouched):
        remember(place)


def is_remembered(place: Path) -> bool:
    """Return whether this user vouched for exactly this code at this place before."""
    versions = _recorded_versions(place)  # read first: most places that a stranger names have none
    return bool(versions) and content_hash(place) in versions


def remember(place: Path) -> None:
    """Record that the user vouched for the code of `place`. Nothing is recorded where the cache cannot be written."""
    record, content, versions = _record(place), content_hash(place), _recorded_versions(place)
    if record is None or content is None or content in versions:
        return
    with suppress(OSError):  # a read-only or full cache: the word must be given again
        write_private(
            record, "".join(f"{line}\n" for line in [*versions, content][-KEPT_VERSIONS:])
        )


def content_hash(place: Path) -> str | None:
    """Return the hash of all files under `place` that Python could import; None where they are too many to be read."""
    hashed = hashlib.blake2b(digest_size=20)
    try:
        files = list(islice(code_files(place), MOST_FILES + 1))
        facts = [path.stat() for _, path in files]
        if len(files) > MOST_FILES or sum(fact.st_size for fact in facts) > MOST_BYTES:
            return None
        if not all(stat.S_ISREG(fact.st_mode) for fact in facts):
            return None
        for name, path in files:
            content = hashlib.blake2b(path.read_bytes(), digest_size=20).hexdigest()
            hashed.update(f"{len(name)} {name} {content}\n".encode(errors="surrogateescape"))
    except OSError:
        return None
    return hashed.hexdigest()


def code_files(place: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative name and the path of every file that Python could import from a user directory, sorted.

    Folders behind links are followed once. What Python writes into `__pycache__` is left out: user code is always
    compiled from its source (see `user_dirs.FromSource`). Raises OSError where the folder has more entries than
    `MOST_ENTRIES`.
    """
    if place.is_file():
        yield place.name, place
        return
    suffixes = tuple(all_suffixes())
    entries, visited = 0, set[str]()
    for folder, subfolders, files in os.walk(place, followlinks=True):
        entries += len(subfolders) + len(files)
        if entries > MOST_ENTRIES:
            raise OSError(f"{place} has too many files")
        real = os.path.realpath(folder)
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        for file in sorted(files):
            path = Path(folder, file)
            is_cached = path.suffix == ".pyc" and path.parent.name == "__pycache__"
            if file.endswith(suffixes) and not is_cached:
                yield path.relative_to(place).as_posix(), path


def _record(place: Path) -> Path | None:
    """Return the file that holds the hashes of the code that the user vouched for at a place."""
    folder = private_folder("trusted-code")
    if (
        folder is None or not folder.is_absolute()
    ):  # below the working directory, an archive could bring it along
        return None
    return folder / hashlib.blake2b(os.fsencode(place), digest_size=20).hexdigest()


def _recorded_versions(place: Path) -> list[str]:
    record = _record(place)
    return (read_private(record) or "").split() if record is not None else []


def _refusal(user_dir: UserDir) -> str:
    place = user_dir.place
    names: list[str] = []
    with suppress(OSError):  # more entries than are looked at
        names.extend(name for name, _ in islice(code_files(place), SHOWN_FILES + 1))
    shown = ", ".join(names[:SHOWN_FILES]) + (", ..." if len(names) > SHOWN_FILES else "")
    inside = "" if place.is_file() else f" ({shown or 'no Python files'})"
    known = _recorded_versions(place)
    reason = "was changed since you allowed it" if known else "you have not allowed"
    return (
        f"{user_dir.origin}: user_dirs names the code in {place}{inside}, which {reason} to run on this machine; "
        f"read it, then give --user-dir {place}, or --trust (from Python: trust=True)"
    )
