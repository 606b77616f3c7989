"""Make a package's index by importing all of it: `python -m fwk.components.write_index PACKAGE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fwk.components.index import INDEX, component_files, content_hash, package_folder
from fwk.components.registry import KINDS, import_module, registry


def build_index(package: str) -> dict[str, Any]:
    """Return a package's index, made from the live registry after importing all of its modules."""
    folder = package_folder(package)
    sources = component_files(package, folder)
    for module in sources.values():
        import_module(module, package)
    components = []
    for entry in registry.live.values():
        if entry.module not in sources.values():
            continue
        components.append(
            {
                "kind": entry.kind,
                "name": entry.name,
                "module": entry.module,
                "qualname": entry.qualname,
                "file": Path(entry.file).resolve().relative_to(folder.resolve()).as_posix(),
                "line": entry.line,
                "summary": entry.summary,
                "fields": [spec.to_mapping() for spec in entry.schema],
                **({"views": entry.brings} if entry.brings else {}),
            }
        )
    components.sort(key=lambda c: (KINDS.index(c["kind"]), c["name"]))
    return {
        "sources": {relative: content_hash(folder / relative) for relative in sources},
        "components": components,
    }


def as_text(index: dict[str, Any]) -> str:
    """Return an index as the JSON text that `index.json` holds."""
    return json.dumps(index, indent=1, sort_keys=True) + "\n"


def write_index(package: str) -> Path:
    """Write a package's `index.json` beside its code, to be shipped in its wheel."""
    path = package_folder(package) / INDEX
    path.write_text(as_text(build_index(package)), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.stdout.write(as_text(build_index(sys.argv[1])))
