"""The git revision of a folder, asked for without executing anything that the folder brings along.

The configuration of a repository may name programs that git runs (`core.fsmonitor`, filters, hooks, the remote of a
partial clone), and a repository may come out of an archive. So only its commit is asked for with its own configuration,
which runs nothing. Whether files were changed is asked of an empty repository beside it, which has the same commit,
index and objects, and no configuration: neither its own nor the user's.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

UNKNOWN_CHANGES = "?"  # after a commit: git could not tell whether files were changed
CHANGED = "+"  # after a commit: tracked files differ from it
STATUS = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
SHA256_LENGTH = 64  # of a commit, in repositories that name objects by SHA-256
SECONDS = 10
USER_CONFIGURATION = ("HOME", "XDG_CONFIG_HOME")  # variables that lead to it

# on the command line these win over every configuration
SWITCHED_OFF = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"),
    *("-c", "core.attributesFile=/dev/null", "-c", "core.fileMode=false"),
)
BARE_ENVIRONMENT = {
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}


def git_revision(folder: Path) -> str | None:
    """Return the commit checked out in `folder`, with '+' where tracked files differ; None outside a repository.

    A '?' says that git could not tell whether files differ.
    """
    # the user's configuration says which repositories of other users are safe
    answer = _git(
        folder,
        *("rev-parse", "--show-toplevel", "--git-path", "index", "--git-path", "objects", "HEAD"),
        environment={key: os.environ[key] for key in USER_CONFIGURATION if key in os.environ},
    )
    if answer is None:
        return None
    *places, commit = answer.splitlines()
    if len(places) != 3 or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None
    try:
        changes = _changes([folder / place for place in places], commit)
    except OSError:  # no place for temporary files
        changes = None
    if changes is None:
        return commit + UNKNOWN_CHANGES
    return commit + (CHANGED if changes else "")


def _changes(places: Sequence[Path], commit: str) -> str | None:
    """Return git's list of changed tracked files; None where git cannot tell.

    places: of the files, of the index, of the objects.
    """
    files, index, objects = places
    config = "[core]\n\trepositoryformatversion = 1\n"
    if len(commit) == SHA256_LENGTH:
        config += "[extensions]\n\tobjectformat = sha256\n"
    with tempfile.TemporaryDirectory(prefix="fwk-revision-") as name:
        empty = Path(name)
        (empty / "refs").mkdir()
        (empty / "HEAD").write_text(f"{commit}\n")
        (empty / "config").write_text(config)
        environment = {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_DIR": str(empty),
            "GIT_INDEX_FILE": os.path.abspath(index),
            "GIT_OBJECT_DIRECTORY": os.path.abspath(objects),
            "GIT_WORK_TREE": str(files),
        }
        return _git(files, *STATUS, environment=environment)


def _git(folder: Path, *arguments: str, environment: Mapping[str, str]) -> str | None:
    """Return what git prints; None where it fails or is not installed."""
    path = {"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}
    try:
        done = subprocess.run(
            ["git", *SWITCHED_OFF, *arguments],
            cwd=folder,
            env={**path, **BARE_ENVIRONMENT, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
