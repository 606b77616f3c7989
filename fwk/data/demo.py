"""The demo corpus: English prose out of the Python installation this runs in.

Docstrings and other long texts in the modules of the standard library and the installed packages (found with `ast`;
nothing is imported), and the text files bundled with them. Only paragraphs of prose are kept: no code, doctests,
tables, parameter lists, licences; and each paragraph once. One source file is one document.

The corpus is a function of the installation: it is kept in the cache folder under a hash of the names and sizes of the
files it was read from.
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
from collections.abc import Iterator
from pathlib import Path

from fwk.data.preprocess import lock
from fwk.data.progress import Progress
from fwk.errors import DataError
from fwk.files import cache_folder, write_atomically

VERSION = 2  # of the cleaning below: another one is another corpus
# Packages that an installation of fwk brings, in the order they are read. Others are read only when these give little,
# so that installing something later does not change the corpus under a run.
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
LITTLE = 5_000_000  # characters
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
_WORD = re.compile(r"[A-Za-z]+(?:['’-][a-z]+)*")
_LICENCE = re.compile(
    r"copyright|licen[sc]|warrant|permission is hereby|redistribut|all rights reserved|"
    r"liabilit",
    re.I,
)
_CODE = re.compile(r"[{}<>=|\\_^~$@#*/\[\]]|\(\)|::|--|\w\.\w+\.\w|\d\.\d")
_ROLE = re.compile(r":[a-z:]+:`([^`<]*?)(?:\s*<[^`>]*>)?`")
_TICKS = re.compile(r"`{1,2}([^`]*)`{1,2}_{0,2}")
_COMMON = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "in",
        "and",
        "is",
        "are",
        "be",
        "for",
        "that",
        "this",
        "with",
        "or",
        "as",
        "it",
        "if",
        "by",
        "on",
        "not",
        "from",
        "can",
        "will",
        "which",
        "when",
        "has",
        "have",
    ]
)
_SECTION = re.compile(
    r"^(parameters|returns?|args|arguments|raises|yields|attributes|methods|see also|notes?|"
    r"examples?|references|keyword args|keyword arguments|warnings?|shape|inputs?|outputs?|usage)"
    r"\s*:?\s*$",
    re.I,
)


def _installed() -> list[tuple[str, Path]]:
    """(name shown in the corpus, folder or module) of everything that may be read, in order."""
    paths = sysconfig.get_paths()
    roots: list[tuple[str, Path]] = [("python", Path(paths["stdlib"]))]
    for site in dict.fromkeys((paths["purelib"], paths["platlib"])):
        roots += [(name, Path(site) / name) for name in PACKAGES if (Path(site) / name).is_dir()]
    return roots


def _others() -> list[tuple[str, Path]]:
    paths, known = sysconfig.get_paths(), {name for name, _ in _installed()}
    found = []
    for site in dict.fromkeys((paths["purelib"], paths["platlib"])):
        if Path(site).is_dir():
            found += [
                (p.name, p)
                for p in sorted(Path(site).iterdir())
                if p.is_dir() and p.name.isidentifier() and p.name not in known | _SKIP
            ]
    return found


def _files(roots: list[tuple[str, Path]]) -> list[tuple[str, Path, int]]:
    """(name in the corpus, path, bytes), sorted inside each root."""
    found = []
    for name, root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(
                f for f in folders if f not in _SKIP and not f.endswith((".dist-info", ".egg-info"))
            )
            for file in sorted(names):
                if file.endswith((".py", ".rst", ".md", ".txt")) and not _SKIP_FILES.search(file):
                    path = Path(folder) / file
                    try:
                        size = path.stat().st_size
                    except OSError:
                        continue
                    if 200 < size < 2_000_000:
                        found.append((f"{name}/{path.relative_to(root).as_posix()}", path, size))
    return found


def _texts(path: Path) -> Iterator[str]:
    """Pieces of documentation in one file."""
    try:
        data = path.read_bytes()
        if path.suffix != ".py":
            yield data.decode("utf-8")
            return
        if sum(len(match) for match in _LONG_STRING.findall(data)) < 0.06 * len(data):
            return  # parsing is what takes the time, and here it would bring little
        tree = ast.parse(data)
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for text in _strings(tree.body):
        if len(text) > 60:
            yield inspect.cleandoc(text)


def _strings(body: list[ast.stmt]) -> Iterator[str]:
    """Docstrings, and strings that stand alone, are assigned, or are handed to a call (`add_docstr(f, text)`)."""
    for node in body:
        if isinstance(node, (ast.Expr, ast.Assign)):
            value = node.value
            parts = value.args if isinstance(value, ast.Call) else [value]
            for part in parts:
                if isinstance(part, ast.Call) and isinstance(
                    part.func, ast.Attribute
                ):  # text.format(...)
                    part = part.func.value
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
        for inner in ("body", "orelse", "finalbody"):
            yield from _strings(getattr(node, inner, []))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of prose in a piece of documentation, each on one line."""
    block: list[str] = []
    for line in [*text.expandtabs().split("\n"), ""]:
        stripped = line.strip()
        if not stripped or _SECTION.match(stripped) or set(stripped) <= set("=-~^*+`#_. "):
            if block:
                cleaned = _clean(block)
                if cleaned:
                    yield cleaned
            block = []
            continue
        indent = len(line) - len(line.lstrip())
        if block and (
            stripped[:2] in ("- ", "* ", "+ ")
            or re.match(r"(\d+[.)]|[a-z]\)) ", stripped)
            or abs(indent - (len(block[-1]) - len(block[-1].lstrip()))) >= 2
        ):
            cleaned = _clean(block)
            if cleaned:
                yield cleaned
            block = []
        block.append(line.rstrip())
    return


def _clean(block: list[str]) -> str | None:
    text = " ".join(line.strip() for line in block)
    if text.startswith(
        (">>>", "...", ".. ", "$ ", "% ", "#", "|", "+-", ":param", ":return", ":type", "@")
    ):
        return None
    text = re.sub(r"^(?:[-*+•]|\d+[.)]|[a-z]\))\s+", "", text)
    text = re.sub(
        r"^[A-Za-z_][\w.]*(?: ?\([^)]{0,80}\))? ?(?::|--) ", "", text
    )  # "name (type): what it is"
    text = re.sub(r"^(?:note|warning|caution|tip|todo|fixme)s?\s*:+\s*", "", text, flags=re.I)
    text = _TICKS.sub(r"\1", _ROLE.sub(r"\1", text))
    text = (
        text.replace("**", "")
        .replace("~", "")
        .replace("’", "'")
        .replace("“", '"')
        .replace("”", '"')
    )
    text = re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"\1", text)
    text = re.sub(r"\s+", " ", text).strip()
    words = _WORD.findall(text)
    if not 6 <= len(words) <= 400 or not text[0].isalpha():
        return None
    text = text[0].upper() + text[1:].rstrip(": ")
    if text[-1] not in ".!?)\"'":
        if not text[-1].isalpha() or len(words) < 8:  # a heading, or a list that goes on below
            return None
        text += "."
    letters = sum(map(str.isalpha, text))
    if letters < 0.7 * len(text) or len(_CODE.findall(text)) > 0.06 * len(words) + 1:
        return None
    lower = [word.lower() for word in words]
    if (
        sum(word in _COMMON for word in lower) < 0.16 * len(lower)
        or not text.isascii()
        or _LICENCE.search(text)
    ):
        return None
    if sum(word.isupper() and len(word) > 1 for word in words) > 0.2 * len(words):
        return None
    return text


def documents(
    files: list[tuple[str, Path, int]], seen: set[bytes], progress: Progress
) -> Iterator[list[str]]:
    """Paragraphs by file, each paragraph only where it first occurs."""
    for _, path, size in files:
        kept = []
        for text in _texts(path):
            for paragraph in paragraphs(text):
                key = hashlib.blake2b(
                    re.sub(r"[^a-z]+", "", paragraph.lower()).encode(), digest_size=12
                ).digest()
                if key not in seen:
                    seen.add(key)
                    kept.append(paragraph)
        progress.advance(size)
        if kept:
            yield kept


def corpus(progress: Progress | None = None) -> Path:
    """The corpus file (documents separated by empty lines), built and cached at the first call."""
    progress = progress or Progress(True)
    roots = _installed()
    files = _files(roots)
    listed = "\n".join(f"{name} {size}" for name, _, size in files)
    key = hashlib.sha256(f"{VERSION}\n{listed}".encode()).hexdigest()[:20]
    folder = cache_folder() / "demo" / key
    path = folder / "corpus.txt"
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set FWK_CACHE to a folder that "
            "can be written"
        ) from None
    with lock(
        folder / "lock",
        "waiting for another process that builds the demo corpus",
        quiet=progress.quiet,
    ):
        if path.is_file():
            return path
        progress.stage(
            "reading the demo corpus from this Python installation",
            sum(size for _, _, size in files),
        )
        seen: set[bytes] = set()
        collecting = gc.isenabled()
        gc.disable()  # syntax trees are many small objects without cycles: looking for cycles takes half the time
        try:
            kept = list(documents(files, seen, progress))
            if sum(len(p) for d in kept for p in d) < LITTLE:
                kept += documents(_files(_others()), seen, progress)
        finally:
            if collecting:
                gc.enable()
        if not kept:
            raise DataError(
                "no English prose was found in this Python installation; name your own text with "
                "task.data=FILE"
            )
        text = "\n\n".join("\n".join(document) for document in kept) + "\n"
        about = {
            "documents": len(kept),
            "paragraphs": sum(map(len, kept)),
            "words": len(text.split()),
            "characters": len(text),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "read": [name for name, _ in roots],
        }
        write_atomically(folder / "about.json", (json.dumps(about, indent=1) + "\n").encode())
        write_atomically(path, text.encode())
    return path
