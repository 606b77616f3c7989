"""Indexes of components: what a package registers, readable without importing it.

An index holds the name, the class, the options and the content hash of every source file of a package. An installed
wheel ships one as `index.json` beside the code. A checkout has none: its index is made on demand, in a process of its
own because making it imports everything, and is kept in the cache folder under a hash of the sources.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from fwk.components.entry import KINDS
from fwk.contracts.json_files import LARGEST, fitted, parse_json
from fwk.contracts.options import FieldSpec, Plain
from fwk.contracts.shapes import parse_type
from fwk.errors import PluginError, UserError
from fwk.files.private import private_folder, read_private, write_private
from fwk.files.replacing import remove_file

INDEX = "index.json"
# the packages of this project, whose index is made on demand; other packages ship one or are imported
OWN_PACKAGES = ("fwk", "fwk_plugins")
# set in the process that makes an index, which must not ask for one
MAKING = "FWK_MAKING_INDEX"
# folders of fwk whose modules register something; a plugin's package is searched whole
COMPONENT_FOLDERS = ("tasks", "models", "criteria", "noisers", "optimizers", "schedules", "hooks")
# cached indexes of one package: enough for a few checkouts and branches side by side
KEPT_IN_CACHE = 8


# run with a package and the entries of sys.path as arguments
_WRITE_INDEX = (
    "import sys; sys.path[:] = sys.argv[2:]; from runpy import run_module; "
    "run_module('fwk.components.write_index', run_name='__main__')"
)

# types of the entries of an index, of a component and of an option in it
_INDEX = {"sources": "dict[str, str]", "components": "list[dict[str, Any], ...]"}
_COMPONENT = {
    "kind": f"Literal[{', '.join(map(repr, KINDS))}]",
    **dict.fromkeys(("name", "module", "qualname", "file"), "str"),
    "summary?": "str",
    "line": "int",
    "fields": "list[dict[str, Any], ...]",
    "views?": "dict[str, str]",
}
_FIELD = {
    **dict.fromkeys(("name", "type"), "str"),
    **dict.fromkeys(("doc?", "brings?"), "str"),
    **dict.fromkeys(("low?", "high?", "above?"), "float"),
    "choices?": "list[Any, ...]",
    **dict.fromkeys(("paths?", "names?"), "list[str, ...]"),
    "required?": "bool",
}


class Index(TypedDict):
    """What a package registers."""

    sources: dict[str, str]  # relative path -> content hash
    components: list[dict[str, Plain]]  # fields of `Entry`; files are relative paths


def component_files(package: str, folder: Path) -> dict[str, str]:
    """Return relative path -> module name for every source file that may register a component."""
    modules = {}
    roots = [folder / name for name in COMPONENT_FOLDERS] if package == "fwk" else [folder]
    for path in sorted(path for root in roots for path in root.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            if package == "fwk":
                continue
            parts = parts[:-1]
        modules[path.relative_to(folder).as_posix()] = ".".join([package, *parts])
    return modules


def content_hash(path: Path) -> str:
    """Return the hash of a source file, equal for both conventions of line ends."""
    return hashlib.blake2b(path.read_bytes().replace(b"\r\n", b"\n"), digest_size=8).hexdigest()


def package_folder(package: str) -> Path:
    """Return the folder of a top-level package without importing it.

    Raises PluginError where no such package is installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"cannot make an index: no package '{package}' is installed")
    return Path(next(iter(spec.submodule_search_locations)))


def read_index(package: str, folder: Path) -> Index:
    """Return a package's index: the shipped one, else the cached one, else one made now.

    An empty index means that none can be read or made; the sources are then imported.
    """
    shipped = folder / INDEX
    if shipped.is_file() or package not in OWN_PACKAGES or os.environ.get(MAKING):
        return _parse(_read(shipped))
    cache = private_folder("index")
    if cache is None:  # the sources are imported instead
        return _parse(None)
    cached = cache / f"{package}-{_sources_hash(package, folder)}.json"
    text = read_private(cached)
    if text is None:
        _fill_cache(package, cached)
        text = read_private(cached)
    return _parse(text)


def _parse(text: str | None) -> Index:
    """Return the index that a text holds; an empty index where the text is missing or is not an index."""
    try:
        index = fitted(parse_json((text or "")[:LARGEST]), _INDEX, INDEX)
        components = [fitted(item, _COMPONENT, INDEX) for item in index["components"]]
        for field in (field for item in components for field in item["fields"]):
            parse_type(fitted(field, _FIELD, INDEX)["type"])
            FieldSpec.from_mapping(field)
        return {"sources": index["sources"], "components": components}
    except (UserError, ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return {"sources": {}, "components": []}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _sources_hash(package: str, folder: Path) -> str:
    """Return the hash of every source file that can change the index: the package's and fwk's own.

    Options of a plugin may be defined by a class or constant of fwk, so a plugin's index depends on both.
    """
    folders = {package: folder, "fwk": Path(__file__).parent.parent}
    hashed = hashlib.blake2b(digest_size=12)
    for name in sorted(folders):
        for path in sorted(folders[name].rglob("*.py")):
            relative = path.relative_to(folders[name]).as_posix()
            hashed.update(f"{name}/{relative} {content_hash(path)}\n".encode())
    return hashed.hexdigest()


def _fill_cache(package: str, path: Path) -> None:
    """Make a package's index in another process and store it; on failure nothing is stored."""
    environment = {k: v for k, v in os.environ.items() if k != "FWK_USER_DIRS"} | {MAKING: "1"}
    # `-m` would put the working directory on the path, and with it a json.py that happens to lie there
    search = [*(entry for entry in sys.path if entry), str(Path(__file__).parents[2])]
    command = [sys.executable, "-c", _WRITE_INDEX, package, *search]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        return
    try:
        write_private(path, process.stdout)
        prune_cache(package, path.parent)
    except OSError:  # a read-only cache: the sources are imported instead
        return


def prune_cache(package: str, folder: Path) -> None:
    """Remove all but the newest cached indexes of a package."""

    def modified(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except FileNotFoundError:  # another process removed it
            return 0.0

    cached = sorted(folder.glob(f"{package}-*.json"), key=modified, reverse=True)
    for path in cached[KEPT_IN_CACHE:]:
        remove_file(path)
