"""fwk-plugins: what is registered, what its options are, a skeleton for something new, and the conformance kit."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from fwk.cli.common import component_lines, run_command
from fwk.errors import PluginError, UnknownName, UserError, did_you_mean

NAME = "fwk-plugins"
USAGE = """\
usage: fwk-plugins [--user-dir DIR]... [--allow-broken-plugins] COMMAND

  list [KIND]               every registered name: kind, name, plugin, place, summary
  show NAME                 options of what is registered under NAME
  new NAME [--dir DIR]      a working criterion and its test, in DIR (default: NAME)
  check PATH                load a folder or .py file and run the conformance kit on what it registers
  index [PACKAGE]...        write the index of names beside the code (default: fwk and installed packages that have one)"""
COMMANDS = {"list": (0, 1), "show": (1, 1), "new": (1, 1), "check": (1, 1), "index": (0, 99)}
KEY = {"noiser": "views.VIEW.", "hook": "hooks.LABEL."}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 a rule is broken (`check`), 2 the input was wrong."""
    return run_command(NAME, _main, argv)


def _main(argv: list[str]) -> int:
    words, options = [], {"--user-dir": [], "--dir": []}
    allow_broken = False
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            print(USAGE)
            return 0
        flag, equals, value = word.partition("=")
        if word == "--allow-broken-plugins":
            allow_broken = True
        elif flag in options:
            if not equals and not rest:
                raise UserError(f"{flag} needs a value")
            options[flag].append(value if equals else rest.pop(0))
        elif word.startswith("-"):
            raise UserError(
                f"there is no flag '{flag}'{did_you_mean(flag, [*options, '--allow-broken-plugins', '--help'], 0)}"
            )
        else:
            words.append(word)
    if not words:
        print(USAGE)
        return 0
    command, arguments = words[0], words[1:]
    if command not in COMMANDS:
        raise UnknownName("command of fwk-plugins", command, COMMANDS)
    low, high = COMMANDS[command]
    if not low <= len(arguments) <= high:
        line = next(text for text in USAGE.splitlines() if text.strip().startswith(command))
        raise UserError(
            f"'{command}' takes {'one argument' if low else 'at most one argument'}: "
            f"{NAME} {' '.join(line.split('  ')[1].split())}"
        )
    if command == "new":
        return new(arguments[0], options["--dir"][-1] if options["--dir"] else arguments[0])
    from fwk.components.discovery import discover

    discover(options["--user-dir"], allow_broken)
    if command == "list":
        return list_names(arguments[0] if arguments else None)
    if command == "show":
        return show(arguments[0])
    if command == "check":
        return check(arguments[0], options["--user-dir"])
    return index(arguments)


def list_names(kind: str | None) -> int:
    """One line per registered name."""
    from fwk.components.registry import KINDS, registry

    if kind is not None and kind not in KINDS:
        raise UnknownName("kind of component", kind, KINDS)
    rows = [(e.kind, e.name, e.plugin, e.place, e.summary) for e in registry.entries(kind)]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    for row in rows:
        head = "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths))
        print(f"{head}  {_short(row[3])}  {row[4]}".rstrip())
    return 0


def show(name: str) -> int:
    """Options of every component of that name ('criterion masked_lm' and 'noiser masked_lm' are two)."""
    from fwk.components.registry import KINDS, registry

    kind, _, only = name.rpartition("/")
    kinds = [kind] if kind else KINDS
    found = [registry.get(k, only) for k in kinds if kind or only in registry.names(k)]
    if not found:
        raise UnknownName("component", only, {n for k in KINDS for n in registry.names(k)})
    for number, entry in enumerate(found):
        if number:
            print()
        print("\n".join(component_lines(entry, KEY.get(entry.kind, f"{entry.kind}."))))
        print(f"  from {_short(entry.place)} ({entry.plugin})")
    return 0


def check(path: str, user_dirs: Sequence[str]) -> int:
    """Every rule of the conformance kit for everything that `path` registers."""
    from fwk.components import user_dirs as user_code
    from fwk.components.discovery import load_user_dirs
    from fwk.components.registry import registry

    package = load_user_dirs([path])[0]
    mine = [
        e
        for e in registry.live.values()
        if e.module == package or e.module.startswith(package + ".")
    ]
    if not mine:
        raise PluginError(
            f"{path} registers nothing; a component is a class with @register(kind, name) above it"
        )
    assert package.startswith(user_code.PREFIX)
    from fwk.testing import check as rules_of

    broken = 0
    for entry in sorted(mine, key=lambda e: (e.kind, e.name)):
        print(f"{entry.kind} {entry.name}")
        for result in rules_of(entry.kind, entry.name, user_dirs=[*user_dirs, path]):
            expected = getattr(result, "expected", "")
            word = (
                "ok"
                if result.passed
                else f"expected failure ({expected})"
                if expected
                else "BROKEN"
            )
            if result.passed and expected:
                word = f"BROKEN: declared to fail ({expected}), but holds"
            broken += word.startswith("BROKEN")
            print(
                f"  {result.name:<28} {word}{': ' + result.detail if result.detail and not expected else ''}"
            )
    print(f"{broken} broken" if broken else "all rules hold")
    return 1 if broken else 0


def index(packages: Sequence[str]) -> int:
    """Write `index.json` of the named packages beside their code, to be shipped in their wheels.

    Without a name, make the cached indexes of fwk and its own plugins, so that the next start finds them.
    """
    from fwk.components.index import OWN_PACKAGES, package_folder, read_index
    from fwk.components.write_index import write_index

    for package in packages:
        print(write_index(package))
    for package in () if packages else OWN_PACKAGES:
        read_index(package, package_folder(package))
    return 0


def new(name: str, folder: str) -> int:
    """A criterion that trains from the first minute, and a test that runs the conformance kit on it."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"'{name}' cannot be a criterion's name: expected lower-case letters, digits and '_', a letter first"
        )
    place = Path(folder)
    if place.exists() and any(place.iterdir() if place.is_dir() else [place]):
        raise UserError(f"'{folder}' exists already; choose another with --dir")
    place.mkdir(parents=True, exist_ok=True)
    made = {f"{name}.py": SKELETON, f"test_{name}.py": TEST}
    cls = "".join(part.capitalize() for part in name.split("_")) or "Mine"
    for file, text in made.items():
        (place / file).write_text(
            text.replace("NAME", name).replace("CLASS", cls), encoding="utf-8"
        )
        print(place / file)
    print(
        textwrap.dedent(f"""
        Next:
          fwk-plugins check {folder}
          fwk-train --user-dir {folder} --task synthetic --criterion {name} train.updates=20
          python -m pytest {folder}""")
    )
    return 0


def _short(place: str) -> str:
    try:
        return str(Path(place).relative_to(Path.cwd()))
    except ValueError:
        return place


SKELETON = '''\
"""NAME: one sentence on what this objective rewards. Paper: authors and year.

    L = - sum over chosen positions t of log p(x_t | corrupted x)  /  number of chosen positions

x is `view.target`, the chosen positions `view.positions`. Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fwk import Criterion, LossTerm, Output, Read, option, register


@register("criterion", "NAME")
class CLASS(Criterion):
    """Predict the chosen tokens of one masked view (replace this by your own objective)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("masked", "the view whose chosen positions are predicted")
        temperature: float = option(1.0, "divides the logits", low=0.01)

    def __init__(self, config, build):
        super().__init__(config, build)
        self.output = nn.Linear(build.encoder.width, build.vocabulary.size)  # heads live in the criterion

    @classmethod
    def reads(cls, config):
        # the view is made like this unless the user's `views:` says otherwise
        return {config.view: Read({"noiser": "bert_mask", "ratio": 0.15}, positions=True)}

    def normalizers(self, views, context):
        return {"NAME": views[self.config.view].valid.sum()}  # what the sum below is divided by, over all ranks

    def forward(self, views, context):
        view = views[self.config.view]
        features = view.at_positions(view.encoded.features)  # [B, K, D]
        logits = self.output(features) / self.config.temperature  # [B, K, V]
        target = view.at_positions(view.target)  # [B, K]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(wide.transpose(1, 2), target, reduction="none")  # [B, K]
        right = (logits.argmax(-1) == target) & view.valid
        return Output(
            terms={"NAME": LossTerm(losses.masked_fill(~view.valid, 0.0).sum())},  # a sum, never a mean
            statistics={"right": right.sum(), "positions": view.valid.sum()},
        )

    def metrics(self, sums):
        return {"accuracy": float(sums["right"] / sums["positions"].clamp(min=1))}
'''

TEST = """\
from pathlib import Path

from fwk.testing import assert_conforms


def test_it_keeps_the_rules():
    assert_conforms("criterion", "NAME", user_dirs=[str(Path(__file__).parent)])
"""

if __name__ == "__main__":
    sys.exit(main())
