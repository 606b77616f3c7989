"""The git revision of a folder, asked for without executing anything that the folder brings along.

The configuration of a repository may name programs that git runs (`core.fsmonitor`, filters, hooks), and a repository
may come out of an archive. So git is asked about changed files only where the repository's own configuration holds
nothing but harmless keys; otherwise the commit is known and the changes are not.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

UNKNOWN_CHANGES = "?"  # after a commit: whether files were changed was not asked
CHANGED = "+"  # after a commit: tracked files differ from it
HARMLESS_KEYS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol)"
    r"|(remote|branch|user|submodule|gc|init|lfs|push|pull|fetch|color|receive)\..*"
)
# on the command line these win over the repository's configuration
SWITCHED_OFF = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"),
    *("-c", "core.attributesFile=/dev/null", "-c", "core.untrackedCache=false"),
)
STATUS = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
SECONDS = 10


def git_revision(folder: Path) -> str | None:
    """Return the commit checked out in `folder`, with '+' where tracked files differ; None outside a repository.

    A '?' says that the repository's configuration is not harmless, so git was not asked for changes.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None
    if not _is_harmless(folder):
        return commit + UNKNOWN_CHANGES
    changes = _git(folder, *STATUS)
    if changes is None:
        return commit + UNKNOWN_CHANGES
    return commit + (CHANGED if changes else "")


def _is_harmless(folder: Path) -> bool:
    """Return whether the repository's own configuration holds only keys that make git run nothing."""
    common = _git(folder, "rev-parse", "--git-common-dir")
    if common is None:
        return False
    place = folder / common
    if any((place / name).exists() for name in ("config.worktree", "info/attributes")):
        return False
    keys = _git(
        Path("/"),
        "config",
        "--file",
        str(place / "config"),
        "--no-includes",
        "--name-only",
        "--list",
    )
    return keys is not None and all(HARMLESS_KEYS.fullmatch(key) for key in keys.splitlines())


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None where it fails or is not installed."""
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    try:
        done = subprocess.run(
            ["git", *SWITCHED_OFF, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
