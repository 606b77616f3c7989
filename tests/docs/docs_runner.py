"""Runs one page's blocks (JSON on standard input) in the current folder; used by test_docs.py in a process per page.

Arguments: the repository, the page. Exit status 1 with one line per complaint.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import traceback
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

NAMED = re.compile(r"# ([\w./-]+\.(?:py|ya?ml|txt))\n")
CONFIG_KEYS = {
    "criterion",
    "task",
    "model",
    "optimizer",
    "schedule",
    "views",
    "networks",
    "hooks",
    "train",
}


def words_of(text: str) -> list[list[str]]:
    """Shell text -> the commands in it, as words; loop variables have their first value."""
    text = re.sub(r"\\\n\s*", " ", text)
    variables, commands = {}, []
    for line in text.splitlines():
        line = line.strip().removeprefix("$ ")
        if loop := re.match(r"for (\w+) in ([^;]+);", line):
            variables[loop[1]] = shlex.split(loop[2])[0]
            continue
        for name, value in variables.items():
            line = re.sub(rf"\$\{{{name}\}}|\${name}\b", value, line)
        if not line.startswith(("fwk-", "python", "torchrun", "make", "pip", "exec fwk-")):
            if not re.search(r"\|\s*fwk-", line):
                continue
            line = line.split("|", 1)[1]
        words = shlex.split(
            line.replace("exec ", "").rstrip("'") if line.startswith("exec") else line,
            comments=True,
        )
        if words:
            commands.append(words)
    return commands


def quiet(call) -> tuple[int, str]:
    """The exit status of a call, and what it printed."""
    from fwk.errors import UserError

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = call()
        except SystemExit as stop:
            status = stop.code or 0
        except UserError as error:  # of a command line that is parsed only
            return error.exit_status, str(error)
    return status, err.getvalue() or out.getvalue()


def check_command(words: list[str], root: Path) -> str:
    """What is wrong with a command line, or nothing. Configs are resolved and arguments parsed, nothing is
    trained; `fwk-plugins` is really run."""
    name, *rest = words
    if name in ("torchrun", "python"):
        if name == "python" and rest[:1] != ["-m"]:
            return "" if (root / rest[0]).is_file() else f"there is no {rest[0]}"
        module = rest[rest.index("-m") + 1]
        if name == "torchrun" or module == "torch.distributed.run":
            from torch.distributed.run import get_args_parser

            with contextlib.redirect_stderr(io.StringIO()) as err:
                try:
                    parsed = get_args_parser().parse_args(rest if name == "torchrun" else rest[2:])
                except SystemExit:
                    return err.getvalue()
            module, rest = parsed.training_script, parsed.training_script_args
        else:
            rest = rest[2:]
        if module == "benchmarks":
            sys.path.insert(0, str(root))
            from benchmarks.__main__ import programs

            return "" if rest[:1] and rest[0] in programs() else f"there is no benchmark {rest[:1]}"
        if module != "fwk.cli.train":
            return "" if find_spec(module) else f"there is no module {module}"
        name = "fwk-train"
    if name == "fwk-train":
        from fwk.cli.train import main

        status, said = quiet(lambda: main(rest if "--help" in rest else [*rest, "--print-config"]))
    elif name in ("fwk-preprocess", "fwk-evaluate", "fwk-score", "fwk-export", "fwk-import"):
        parser = import_module(
            f"fwk.cli.{name.removeprefix('fwk-').replace('import', 'import_checkpoint')}"
        ).parser
        status, said = quiet(lambda: parser().parse(rest) and 0)
    elif name == "fwk-plugins":
        from fwk.cli.plugins import COMMANDS, main

        command = next((word for word in rest if not word.startswith("-")), "")
        if command in ("list", "show", "new", "check"):
            status, said = quiet(lambda: main(rest))
        else:
            status, said = (
                (0, "") if command in (*COMMANDS, "") else (2, f"there is no command {command}")
            )
    elif name == "make":
        targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.MULTILINE)
        return "" if not rest or rest[0] in targets else f"there is no target {rest[0]}"
    elif name.startswith("fwk-"):
        return f"there is no command {name}"
    else:
        return ""
    return said.strip() if status else ""


def check_yaml(text: str, place: Path) -> str:
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"not YAML: {error}"
    if not isinstance(values, dict) or not CONFIG_KEYS & values.keys():
        return ""
    place.write_text(text, encoding="utf-8")
    from fwk.config.resolve import resolve
    from fwk.errors import UserError

    try:
        config = resolve([place]).config
        if "criterion" in values:
            _ = config.views_by_name
    except UserError as error:
        return str(error)
    return ""


def main() -> int:
    root, page = Path(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, "")
    namespace = vars(
        sys.modules.setdefault("docs_page", ModuleType("docs_page"))
    )  # registered classes live in a module
    complaints = []
    for block in json.loads(sys.stdin.read()):
        lang, text, line = block["lang"], block["text"], block["line"]
        complaint = ""
        named = NAMED.match(text)
        if named:
            Path(named[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(named[1]).write_text(text, encoding="utf-8")
        if lang == "python" and named:
            compile(
                text, named[1], "exec", dont_inherit=True
            )  # it is loaded by the commands that name it
        elif lang == "python":
            try:
                code = compile(
                    "\n" * (line - 1) + text, str(root / page), "exec", dont_inherit=True
                )
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(code, namespace)
            except Exception:
                complaint = traceback.format_exc()
        elif lang in ("yaml", "yml"):
            complaint = check_yaml(text, Path(f"block-{line}.yaml"))
        elif lang in ("bash", "sh", "shell"):
            for words in words_of(text):
                if wrong := check_command(words, root):
                    complaint += f"{' '.join(words)}\n    {wrong}\n"
        if complaint:
            complaints.append(f"{page}:{line}: {complaint}")
    print("\n".join(complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
