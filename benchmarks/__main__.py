"""The one runner of all benchmarks: `python -m benchmarks [NAME [OPTIONS]]`, from the repository's folder."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDERS = ("speed", "methods", "studies", "gpu")
HERE = Path(__file__).parent


def programs() -> dict[str, Path]:
    """Return name -> file of every benchmark: a module with a function `main`, or a folder with `run.py`."""
    files = {}
    for folder in FOLDERS:
        for path in sorted((HERE / folder).glob("*.py")):
            if "\ndef main(" in path.read_text(encoding="utf-8"):
                files[path.stem] = path
        for path in sorted((HERE / folder).glob("*/run.py")):
            files[path.parent.name] = path
    return files


def summary(path: Path) -> str:
    """Return the first line of a program's docstring."""
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return documentation.split("\n")[0]


def listing() -> str:
    """Return one line per benchmark, grouped by folder."""
    lines = []
    for folder in FOLDERS:
        lines.append(f"{folder}:")
        lines += [
            f"  {name:16}{summary(path)}"
            for name, path in programs().items()
            if path.relative_to(HERE).parts[0] == folder
        ]
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark that the first argument names, or list all of them."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: python -m benchmarks NAME [OPTIONS]\n\n{listing()}")
        return 0
    name = sys.argv[1]
    if name not in programs():
        print(
            f"Unknown benchmark '{name}'. Available: {', '.join(sorted(programs()))}",
            file=sys.stderr,
        )
        return 2
    parts = programs()[name].relative_to(HERE).with_suffix("").parts
    module = importlib.import_module(".".join(["benchmarks", *parts]))
    sys.argv = [f"python -m benchmarks {name}", *sys.argv[2:]]
    return module.main() or 0


if __name__ == "__main__":
    sys.exit(main())
