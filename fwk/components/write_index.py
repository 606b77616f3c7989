"""Make a package's index by importing all of it: `python -m fwk.components.write_index PACKAGE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fwk.components.entry import KINDS, Entry, import_module
from fwk.components.index import INDEX, Index, component_files, content_hash, package_folder
from fwk.components.registry import registry
from fwk.contracts.options import Plain
from fwk.errors import UserError
from fwk.files.kinds import read_object
from fwk.files.replacing import write_atomically

MOST_BYTES = 1 << 24  # of an index


def build_index(package: str) -> Index:
    """Return a package's index, made from the live registry after importing all of its modules."""
    folder = package_folder(package)
    sources = component_files(package, folder)
    for module in sources.values():
        import_module(module, package)

    modules = set(sources.values())
    components = [
        _description(entry, folder) for entry in registry.live.values() if entry.module in modules
    ]
    components.sort(key=lambda item: (KINDS.index(item["kind"]), item["name"]))
    return {
        "sources": {relative: content_hash(folder / relative) for relative in sources},
        "components": components,
    }


def _description(entry: Entry, folder: Path) -> dict[str, Plain]:
    """Return what an index holds of a component. The plugin is left out: its name depends on the entry points."""
    description = {
        "kind": entry.kind,
        "name": entry.name,
        "module": entry.module,
        "qualname": entry.qualname,
        "file": Path(entry.file).resolve().relative_to(folder.resolve()).as_posix(),
        "line": entry.line,
        "summary": entry.summary,
        "fields": [spec.to_mapping() for spec in entry.schema],
    }
    if entry.brings:
        description["views"] = entry.brings
    return description


def as_text(index: Index) -> str:
    """Return an index as the JSON text that `index.json` holds."""
    return json.dumps(index, indent=1, sort_keys=True) + "\n"


def write_index(package: str) -> Path:
    """Write a package's `index.json` beside its code, to be shipped in its wheel. An index that is there is replaced.

    Raises UserError where the file is something else.
    """
    path = package_folder(package) / INDEX
    if path.exists() and not read_object(path, MOST_BYTES).keys() >= {"sources", "components"}:
        raise UserError(f"{path} exists and is not an index of components; move it")
    write_atomically(path, as_text(build_index(package)).encode())
    return path


if __name__ == "__main__":
    sys.stdout.write(as_text(build_index(sys.argv[1])))
