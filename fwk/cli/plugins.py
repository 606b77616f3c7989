"""`fwk-plugins`: registered names and their options, a skeleton for a new criterion, and the conformance kit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fwk.cli.common import command
from fwk.cli.describing import component_lines
from fwk.cli.parsing import Append, Parser, StoreOnce
from fwk.cli.skeleton import write_skeleton
from fwk.components.discovery import discover, load_user_dirs
from fwk.components.registry import KINDS, Entry, registry
from fwk.errors import PluginError, UnknownName, UserError
from fwk.files import user_path

if TYPE_CHECKING:
    from fwk.testing import Result

NAME = "fwk-plugins"
USAGE = "fwk-plugins [--user-dir DIR]... [--allow-broken-plugins] COMMAND"
PREFIXES = {"noiser": "views.VIEW.", "hook": "hooks.LABEL."}  # of a kind's options; else 'KIND.'


def list_names(arguments: argparse.Namespace) -> int:
    """Print one line per registered name, of one kind or of all."""
    kind = arguments.words[0] if arguments.words else None
    if kind is not None and kind not in KINDS:
        raise UnknownName("kind of component", kind, KINDS)
    rows = [
        (e.kind, e.name, e.plugin, _relative(e.place), e.summary) for e in registry.entries(kind)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        print("  ".join([*cells, *row[3:]]).rstrip())
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print the options of every component of a name; 'noiser/NAME' is the one of that kind."""
    kind, _, name = arguments.words[0].rpartition("/")
    kinds = [kind] if kind else [kind for kind in KINDS if name in registry.names(kind)]
    if not kinds:
        raise UnknownName("component", name, {n for kind in KINDS for n in registry.names(kind)})
    for number, entry in enumerate(registry.get(kind, name) for kind in kinds):
        if number:
            print()
        prefix = PREFIXES.get(entry.kind, f"{entry.kind}.")
        print("\n".join(component_lines(entry, prefix)))
        print(f"  from {_relative(entry.place)} ({entry.plugin})")
    return 0


def new(arguments: argparse.Namespace) -> int:
    """Write the skeleton of a criterion, and print what to do with it."""
    name = arguments.words[0]
    folder = arguments.dir or name
    for file in write_skeleton(name, user_path(folder)):
        print(file)
    print(f"""
Next:
  fwk-plugins check {folder}
  fwk-train --user-dir {folder} --task synthetic --criterion {name} train.updates=20
  python -m pytest {folder}""")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Run the conformance kit over everything that a folder or file registers; return 1 for a broken rule."""
    path = arguments.words[0]
    package = load_user_dirs([path])[0]
    entries = [
        entry
        for entry in registry.live.values()
        if entry.module == package or entry.module.startswith(f"{package}.")
    ]
    if not entries:
        raise PluginError(
            f"{path} registers nothing; a component is a class with @register(kind, name) above it"
        )
    user_dirs = [*arguments.user_dir, path]
    broken = sum(
        _check_entry(entry, user_dirs) for entry in sorted(entries, key=lambda e: (e.kind, e.name))
    )
    print(f"{broken} broken" if broken else "all rules hold")
    return 1 if broken else 0


def _check_entry(entry: Entry, user_dirs: list[str]) -> int:
    """Print the outcome of every rule for one component; return how many are broken."""
    from fwk.testing import check as check_rules

    print(f"{entry.kind} {entry.name}")
    results = check_rules(entry.kind, entry.name, user_dirs=user_dirs)
    for result in results:
        print(f"  {result.name:<28} {_outcome(result)}")
    return sum(bool(result.complaint) for result in results)


def _outcome(result: Result) -> str:
    if result.passed and result.expected:
        return f"BROKEN: declared to fail ({result.expected}), but holds"
    if result.passed:
        return "ok"
    if result.expected:
        return f"expected failure ({result.expected})"
    return f"BROKEN: {result.detail}"


def index(arguments: argparse.Namespace) -> int:
    """Write `index.json` of the named packages beside their code, to be shipped in their wheels.

    Without a name, make the cached indexes of fwk and its own plugins, so that the next start finds them.
    """
    from fwk.components.index import OWN_PACKAGES, package_folder, read_index
    from fwk.components.write_index import write_index

    for package in arguments.words:
        print(write_index(package))
    if not arguments.words:
        for package in OWN_PACKAGES:
            read_index(package, package_folder(package))
    return 0


@dataclass(frozen=True)
class Subcommand:
    """One of the command's jobs, as its help shows it."""

    usage: str
    summary: str
    run: Callable[[argparse.Namespace], int]
    least: int = 1  # arguments that it takes
    most: int = 1


COMMANDS = {
    "list": Subcommand(
        "list [KIND]",
        "every registered name: kind, name, plugin, place, summary",
        list_names,
        least=0,
    ),
    "show": Subcommand("show NAME", "the options of what is registered under NAME", show),
    "new": Subcommand(
        "new NAME [--dir DIR]", "write a working criterion and its test to DIR (default: NAME)", new
    ),
    "check": Subcommand(
        "check PATH",
        "load a folder or .py file and run the conformance kit on what it registers",
        check,
    ),
    "index": Subcommand(
        "index [PACKAGE]...",
        "write the index of a package's names beside its code (default: cache those of fwk)",
        index,
        least=0,
        most=99,
    ),
}


def parser() -> Parser:
    """Return the grammar of the command line."""
    lines = [f"  {job.usage:<22} {job.summary}" for job in COMMANDS.values()]
    p = Parser(
        NAME,
        words="words",
        usage=USAGE,
        description="\n".join(["commands:", *lines]),
    )
    p.add_argument(
        "--user-dir",
        action=Append,
        default=[],
        metavar="DIR",
        help="load your own components from a folder or a .py file; repeatable",
    )
    p.add_argument(
        "--allow-broken-plugins",
        action="store_true",
        help="warn about a plugin that cannot be loaded, and ignore it",
    )
    p.add_argument("--dir", action=StoreOnce, metavar="DIR", help="with new: the folder to write")
    return p


@command(NAME, parser)
def main(arguments: argparse.Namespace) -> int:
    """Run one of the commands. Return 0: done, 1: a rule is broken (`check`), 2: the input was wrong."""
    if not arguments.words:
        print(parser().format_help().rstrip())
        return 0
    name, *arguments.words = arguments.words
    if name not in COMMANDS:
        raise UnknownName(f"command of {NAME}", name, COMMANDS)
    job = COMMANDS[name]
    if not job.least <= len(arguments.words) <= job.most:
        number = "one argument" if job.least else "at most one argument"
        raise UserError(f"'{name}' takes {number}: {NAME} {job.usage}")
    if job.run is not new:
        discover(arguments.user_dir, arguments.allow_broken_plugins)
    return job.run(arguments)


def _relative(place: str) -> str:
    """Return a path below the current folder without it, any other path as it is."""
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place


if __name__ == "__main__":
    sys.exit(main())
