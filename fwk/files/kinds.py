"""The folders that fwk writes: which files in them are ours, and how such a folder is recognised.

A name alone proves nothing: many programs write a config.yaml. A folder of ours holds a marker, the file `.fwk`, which
names its kind. Folders that were made before there were markers are recognised by the content of several files.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

MARKER = ".fwk"
LOCK = ".lock"  # in a run's folder; while it is locked it names the holder
MOST_BYTES = 1 << 20  # read of a file to recognise it
_CONFIG_KEYS = {"task", "model", "criterion", "optimizer", "schedule", "train"}
_ENVIRONMENT_KEYS = {"fwk", "python", "packages"}

_TOKENIZER = ("tokenizer/*", "tokenizer/.*.tmp")
_CHECKPOINT = ("*.safetensors", "state.json", "manifest.json")
_CHECKPOINTS = ("update-*", ".writing-*", ".replaced-*")


@dataclass(frozen=True)
class Kind:
    """A kind of folder that fwk writes."""

    name: str  # in the marker, and in messages
    files: Sequence[str]  # patterns of the files and links that fwk makes; '*' matches no '/'
    by_content: Callable[[Path], bool]  # whether a folder without a marker is one

    def owns(self, name: str) -> bool:
        """Return whether fwk makes a file or link of this name, relative to the folder."""
        return any(matches(name, pattern) for pattern in self.files)

    def owns_folder(self, name: str) -> bool:
        """Return whether fwk makes files in a folder of this name, relative to the folder."""
        depth = name.count("/") + 1
        parents = (pattern.split("/")[:-1] for pattern in self.files)
        return any(
            len(parts) >= depth and matches(name, "/".join(parts[:depth])) for parts in parents
        )

    def holds(self, folder: Path) -> bool:
        """Return whether `folder` is one of this kind."""
        marker = marked_as(folder)
        return self.by_content(folder) if marker is None else marker == self.name


def matches(name: str, pattern: str) -> bool:
    """Return whether a relative path matches a pattern, part by part."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def marker_text(kind: Kind) -> str:
    """Return the content of the marker of a kind."""
    return json.dumps({"fwk": kind.name}) + "\n"


def marked_as(folder: Path) -> str | None:
    """Return the kind that the folder's marker names; None where there is no marker."""
    content = read_object(folder / MARKER)
    name = content.get("fwk")
    return name if isinstance(name, str) else None


def read_start(path: Path, most: int = MOST_BYTES) -> str:
    """Return the first bytes of a file; '' for a link, for what is no file, and for what cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return ""
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        return file.read(most).decode("utf-8", errors="replace")


def is_own_file(path: Path) -> bool:
    """Return whether something is a file of this user, and neither a link nor one of several names of a file."""
    facts = path.lstat()
    return stat.S_ISREG(facts.st_mode) and facts.st_uid == os.getuid() and facts.st_nlink == 1


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, object]:
    """Return the JSON object in a file of at most so many bytes; {} where it holds none."""
    try:
        content = json.loads(read_start(path, most))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


# -- runs ------------------------------------------------------------------------------------------------------------


def _is_run(folder: Path) -> bool:
    """Return whether two of config.yaml, environment.json and a checkpoint are those of a run."""
    keys = set(re.findall(r"^(\w+):", read_start(folder / "config.yaml"), re.MULTILINE))
    facts = (
        keys >= _CONFIG_KEYS,
        read_object(folder / "environment.json").keys() >= _ENVIRONMENT_KEYS,
        any(map(is_checkpoint, (folder / "checkpoints").glob("update-*"))),
    )
    return sum(facts) >= 2


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a checkpoint, by the form of its manifest."""
    manifest = read_object(folder / "manifest.json")
    files = manifest.get("files")
    return "format" in manifest and isinstance(files, dict) and "model.safetensors" in files


def _is_copy(folder: Path) -> bool:
    """Return whether a folder holds weights that `Loaded.save` or fwk-import wrote."""
    states = list((folder / "checkpoints").glob("update-*/state.json"))
    return _is_run(folder) and bool(states) and all("imported" in read_object(s) for s in states)


_CHECKPOINT_FILES = (
    *(f"{folder}/{file}" for folder in _CHECKPOINTS for file in _CHECKPOINT),
    *("latest", "best", ".latest", ".best"),
)
_RUN_FILES = (
    MARKER,
    LOCK,
    "config.yaml",
    "environment.json",
    "started_from.json",
    "metrics.jsonl",
    "summary.json",
    ".*.tmp",
    "tensorboard/events.out.tfevents.*",
    *_TOKENIZER,
    *(f"checkpoints/{file}" for file in _CHECKPOINT_FILES),
)
CHECKPOINT = Kind("checkpoint", _CHECKPOINT, is_checkpoint)
RUN = Kind("run", _RUN_FILES, _is_run)
COPY = Kind("copy of weights", _RUN_FILES, _is_copy)


# -- token stores and exports ----------------------------------------------------------------------------------------


def _is_store(folder: Path) -> bool:
    return '"format": "fwk-token-store"' in read_start(folder / "manifest.json")[:1000]


def _is_export(folder: Path) -> bool:
    return "tags: [fwk]" in read_start(folder / "README.md")[:1000]


_STORE_FILES = (
    MARKER,
    "manifest.json",
    "unigrams.npy",
    *(f"{split}-*.{part}" for split in ("train", "valid") for part in ("tokens", "documents")),
    *(f"{split}-*.sentences" for split in ("train", "valid")),
    *_TOKENIZER,
    ".*.tmp",
)
STORE = Kind("token store", _STORE_FILES, _is_store)
UNFINISHED_STORE = Kind(
    "unfinished token store",
    (*_STORE_FILES, "plan.json", "stdin.txt", "stdin.tmp", "record-*.json", "counts-*.npy"),
    lambda folder: False,
)
EXPORT = Kind(
    "export",
    (
        MARKER,
        "README.md",
        "config.json",
        "generation_config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    ),
    _is_export,
)
KINDS = (RUN, STORE, EXPORT)  # of folders that users keep


def owner_of(path: Path) -> tuple[Path, Kind] | None:
    """Return the folder of fwk, and its kind, that this file belongs to; None for any other file.

    A file in a run's folder that fwk does not write, such as a note, does not belong to the run.
    """
    for folder in path.parents:
        for kind in KINDS:
            if kind.owns(path.relative_to(folder).as_posix()) and kind.holds(folder):
                return folder, kind
    return None
