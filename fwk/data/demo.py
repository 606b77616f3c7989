"""The demo corpus: English prose from the Python installation that runs this.

The sources are docstrings and other long strings in the modules of the standard library and of installed packages
(found with `ast`; nothing is imported), and the text files that packages bring along. Each paragraph of prose is kept
once; one source file is one document.

The corpus is a function of the installation: it is cached under a hash of the names and sizes of its source files.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import json
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fwk.data.locking import lock
from fwk.data.progress import Progress
from fwk.data.prose import paragraphs
from fwk.errors import DataError
from fwk.files import cache_folder, write_atomically
from fwk.files.shared_cache import create_in_cache, require_own

VERSION = 2  # of the cleaning: another version gives another corpus
# Packages that an installation of fwk brings along, in the order in which they are read. Others are read only if these
# give too little text, so that installing one later does not change the corpus of a run.
PACKAGES = (
    "torch",
    "numpy",
    "networkx",
    "sympy",
    "mpmath",
    "fsspec",
    "jinja2",
    "rich",
    "omegaconf",
    "tensorboard",
    "markdown",
    "werkzeug",
    "setuptools",
    "pip",
    "pluggy",
    "sentencepiece",
    "safetensors",
    "filelock",
    "pygments",
    "absl",
    "PIL",
    "packaging",
)
LITTLE = 5_000_000  # characters; with fewer, other packages are read too
_SIZES = (200, 2_000_000)  # bytes of a source file: more than, less than
_SKIP = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "testing",
    "_vendor",
    "_distutils",
    "lib2to3",
    "idlelib",
    "fwk",
    "fwk_plugins",
    "pydoc_data",
    "include",
    "lib",
    "bin",
}
_SKIP_FILES = re.compile(
    r"licen[sc]e|copying|notice|authors|top_level|entry_points|requires|record|sources|vocab|"
    r"grammar|installed-files",
    re.I,
)
_LONG_STRING = re.compile(rb"(?s)\"\"\".{60,}?\"\"\"|'''.{60,}?'''")
_LONG_SHARE = 0.06  # share of long strings below which a module is not worth parsing

Root = tuple[str, Path]  # name in the corpus, folder


class SourceFile(NamedTuple):
    """A file that may hold prose."""

    name: str  # in the corpus
    path: Path
    size: int  # bytes


def _site_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(folder) for folder in dict.fromkeys((paths["purelib"], paths["platlib"]))]


def _preferred_roots() -> list[Root]:
    """Return the standard library and the PACKAGES that are installed, in order."""
    roots = [("python", Path(sysconfig.get_paths()["stdlib"]))]
    for site in _site_folders():
        roots += [(name, site / name) for name in PACKAGES if (site / name).is_dir()]
    return roots


def _other_roots() -> list[Root]:
    """Return all other installed packages, in alphabetical order."""
    known = {name for name, _ in _preferred_roots()} | _SKIP
    roots = []
    for site in _site_folders():
        for path in sorted(site.iterdir()) if site.is_dir() else ():
            if path.is_dir() and path.name.isidentifier() and path.name not in known:
                roots.append((path.name, path))
    return roots


def _source_files(roots: Sequence[Root]) -> list[SourceFile]:
    """Return the files of each root that may hold prose, sorted inside each folder."""
    files = []
    for name, root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(filter(_is_searched, folders))
            for file in sorted(names):
                if not file.endswith((".py", ".rst", ".md", ".txt")) or _SKIP_FILES.search(file):
                    continue
                path = Path(folder) / file
                try:
                    size = path.stat().st_size
                except OSError:
                    continue
                if _SIZES[0] < size < _SIZES[1]:
                    files.append(
                        SourceFile(f"{name}/{path.relative_to(root).as_posix()}", path, size)
                    )
    return files


def _is_searched(folder: str) -> bool:
    return folder not in _SKIP and not folder.endswith((".dist-info", ".egg-info"))


def _texts(path: Path) -> Iterator[str]:
    """Yield the pieces of documentation in one file; nothing where it cannot be read or parsed."""
    try:
        data = path.read_bytes()
        if path.suffix != ".py":
            yield data.decode("utf-8")
            return
        if sum(len(match) for match in _LONG_STRING.findall(data)) < _LONG_SHARE * len(data):
            return  # parsing takes most of the time, and would give little text
        tree = ast.parse(data)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for text in _strings(tree.body):
        if len(text) > 60:
            yield inspect.cleandoc(text)


def _strings(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield strings that stand alone, are assigned, or are passed to a call (`add_docstr(f, text)`)."""
    for node in body:
        if isinstance(node, (ast.Expr, ast.Assign)):
            value = node.value
            parts = value.args if isinstance(value, ast.Call) else [value]
            for part in parts:
                if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
                    part = part.func.value  # text.format(...)
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
        for name in ("body", "orelse", "finalbody"):
            yield from _strings(getattr(node, name, []))


def read_documents(
    files: Sequence[SourceFile], seen: set[bytes], progress: Progress
) -> Iterator[list[str]]:
    """Yield the paragraphs of each file, without those that occurred before.

    seen: hashes of the paragraphs that occurred, to which these are added.
    """
    for _, path, size in files:
        document = []
        for text in _texts(path):
            for paragraph in paragraphs(text):
                letters = re.sub(r"[^a-z]+", "", paragraph.lower())
                key = hashlib.blake2b(letters.encode(), digest_size=12).digest()
                if key not in seen:
                    seen.add(key)
                    document.append(paragraph)
        progress.advance(size)
        if document:
            yield document


def corpus(progress: Progress | None = None) -> Path:
    """Return the corpus file (documents separated by empty lines); build and cache it at the first call.

    Raises DataError where the cache cannot be written, or the installation holds no prose.
    """
    progress = progress or Progress(True)
    files = _source_files(_preferred_roots())
    listing = "\n".join(f"{file.name} {file.size}" for file in files)
    key = hashlib.sha256(f"{VERSION}\n{listing}".encode()).hexdigest()[:20]
    folder = cache_folder() / "demo" / key
    path = folder / "corpus.txt"
    require_own(folder)
    if path.is_file():
        return path
    create_in_cache(folder)
    message = "waiting for another process that builds the demo corpus"
    with lock(folder / "lock", message, quiet=progress.quiet):
        if not path.is_file():
            _build(path, files, progress)
    return path


def _build(path: Path, files: Sequence[SourceFile], progress: Progress) -> None:
    """Write the corpus and, beside it, a description."""
    total = sum(file.size for file in files)
    progress.stage("reading the demo corpus from this Python installation", total)
    seen: set[bytes] = set()
    with _without_garbage_collection():
        documents = list(read_documents(files, seen, progress))
        if sum(len(paragraph) for document in documents for paragraph in document) < LITTLE:
            documents += read_documents(_source_files(_other_roots()), seen, progress)
    if not documents:
        raise DataError(
            "no English prose was found in this Python installation; name your own text with "
            "task.data=FILE"
        )
    text = "\n\n".join("\n".join(document) for document in documents) + "\n"
    description = {
        "documents": len(documents),
        "paragraphs": sum(map(len, documents)),
        "words": len(text.split()),
        "characters": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "read": [name for name, _ in _preferred_roots()],
    }
    content = json.dumps(description, indent=1) + "\n"
    write_atomically(path.with_name("about.json"), content.encode())
    write_atomically(path, text.encode())


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable the collector: it takes half the time for syntax trees, many small objects without cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
