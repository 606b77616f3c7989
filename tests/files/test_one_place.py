"""Only fwk.files.replacing deletes, replaces and renames, and few named places open files to write.

docs/reliability.md lists every module that calls it, with the reason why the call is safe.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
THE_PLACE = "fwk/files/replacing.py"
DELETING = {
    *("rmtree", "unlink", "rmdir", "remove", "removedirs", "rename", "renames", "truncate"),
    *(
        "ftruncate",
        "link",
        "symlink",
        "symlink_to",
        "hardlink_to",
        "move",
        "copy",
        "copy2",
        "copyfile",
        "copytree",
    ),
}
# of modules whose functions of these names delete; methods of lists, sets, tensors and texts have the same names
MODULES = {"os", "shutil"}
ANYWHERE = {
    "rmtree",
    "unlink",
    "rmdir",
    "removedirs",
    "truncate",
    "ftruncate",
    "symlink_to",
    "hardlink_to",
}
TEMPORARY = {"TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp"}
WRITING = {"write_text", "write_bytes"}
HELPERS = {
    *(
        "remove_file",
        "remove_empty",
        "remove_owned",
        "remove_temporary",
        "remove_lock",
        "rename",
        "replace_link",
    ),
    *(
        "replace_folder",
        "put_in_place",
        "truncate",
        "write_atomically",
        "write_new",
        "write_private",
        "mark",
    ),
    *("open_output", "AtomicFolder"),
}

# what looks like it and is something else, or touches nothing but a folder that it has just made
EXPECTED = {
    "fwk/hooks/lines.py": {"truncate"},  # cuts a line of text for the terminal
    "fwk/runs/revision.py": {"TemporaryDirectory", "write_text"},
    "fwk/engine/ranks/stacks.py": {"open(w+b)"},  # memory
    "fwk/engine/speed/compiling.py": {"mkdtemp"},  # torch writes there, and nothing is deleted
    "fwk/runs/judging.py": {"TemporaryDirectory"},  # the folder of a run that is never made
    "fwk/tasks/several.py": {"TemporaryDirectory"},  # the first task's tokenizer, for the others
    "fwk/testing/criteria.py": {"TemporaryDirectory"},
    "fwk/testing/running.py": {"TemporaryDirectory"},
    # files in a temporary folder that `AtomicFolder` or a build has just made
    "fwk/hf/tokenizer.py": {"write_text"},
    "fwk/hf/exporting.py": {"write_text"},
    "fwk/hf/sentence_vectors.py": {"write_text"},
    "fwk/data/preprocess.py": {"open(wb)"},
    "fwk/files/__init__.py": {
        "open(wb)",
        "open(a+)",
    },  # `write_hashed`, into new checkpoints; locks
    # logs and journals of this process, which are no links
    "fwk/hooks/jsonl.py": {"open(a)"},
    "fwk/runs/children.py": {"open(ab)"},  # the log beside a needed run; no link is followed
    "fwk/scoring/stream.py": {"open(rb+)", "open(a)"},
}


def found_in(path: Path) -> set[str]:
    """Return the names of the calls in a file that delete, rename, truncate or open a file to write."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = node.func.value.id if name and isinstance(node.func.value, ast.Name) else ""
        plain = node.func.id if isinstance(node.func, ast.Name) else name
        if (
            (name in DELETING and owner in MODULES)
            or name in ANYWHERE
            or plain in TEMPORARY | WRITING
        ):
            found.add(plain)
        # os.replace and Path.replace; the one of texts takes two arguments
        if name == "replace" and (owner == "os" or (len(node.args) == 1 and not node.keywords)):
            found.add(name)
        # Path.rename
        if name == "rename" and len(node.args) == 1:
            found.add(name)
        if plain == "open" and (mode := _mode(node)) and set(mode) & set("wax+"):
            found.add(f"open({mode})")
    return found


def _mode(call: ast.Call) -> str:
    """Return the mode of a call of `open` or `Path.open`, '' where it is not given as a text."""
    by_name = [word.value for word in call.keywords if word.arg == "mode"]
    position = 1 if isinstance(call.func, ast.Name) else 0
    values = by_name or call.args[position : position + 1]
    constant = values[0] if values else None
    if not isinstance(constant, ast.Constant) or not isinstance(constant.value, str):
        return ""
    return constant.value if re.fullmatch(r"[rwaxbt+]{1,3}", constant.value) else ""


def sources() -> list[Path]:
    return sorted(path for name in ("fwk", "plugins") for path in (ROOT / name).rglob("*.py"))


def test_only_one_module_deletes_replaces_and_renames():
    found = {path.relative_to(ROOT).as_posix(): found_in(path) for path in sources()}
    assert found.pop(THE_PLACE)  # the test sees what it looks for
    assert {name: calls for name, calls in found.items() if calls} == EXPECTED


def test_the_page_lists_every_module_that_deletes_or_replaces():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = page.split("## What is deleted or replaced")[1].split("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    listed = set(re.findall(r"`((?:fwk|plugins)/[a-z_/]+\.py)`", rows))
    callers = {path.relative_to(ROOT).as_posix() for path in sources() if imports_of_helpers(path)}
    assert listed == callers | {THE_PLACE}


def imports_of_helpers(path: Path) -> set[str]:
    """Return the names of the helpers that delete or replace which a file imports."""
    return {
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fwk.files")
        for alias in node.names
        if alias.name in HELPERS
    }


def test_the_test_finds_each_way_to_delete(tmp_path):
    ways = {
        "os.remove(p)": "remove",
        "os.unlink(p)": "unlink",
        "Path(p).unlink()": "unlink",
        "shutil.rmtree(p)": "rmtree",
        "p.rmdir()": "rmdir",
        "os.replace(p, q)": "replace",
        "p.replace(q)": "replace",
        "p.rename(q)": "rename",
        "os.rename(p, q)": "rename",
        "file.truncate(0)": "truncate",
        "shutil.move(p, q)": "move",
        "p.write_text('')": "write_text",
        "open(p, 'w')": "open(w)",
        "open(p, mode='ab')": "open(ab)",
        "p.open('w')": "open(w)",
        "'text'.replace('a', 'b')": None,
        "[1].remove(1)": None,
        "open(p)": None,
    }
    for way, expected in ways.items():
        (tmp_path / "x.py").write_text(way)
        assert found_in(tmp_path / "x.py") == ({expected} if expected else set()), way


def test_no_module_imports_a_deleting_function_by_name():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                assert not {alias.name for alias in node.names} & DELETING, path
