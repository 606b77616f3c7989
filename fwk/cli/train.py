"""fwk-train: any task x criterion x model x optimizer. Thin: grammar and help; the work is `fwk.runs.start.train`."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fwk.cli.common import component_lines, field_lines, first_rank, run_command, width
from fwk.errors import UserError, did_you_mean
from fwk.version import __version__

NAME = "fwk-train"
USAGE = """\
fwk-train [--config FILE]... [--user-dir DIR]... [--task NAME] [--model NAME] [--criterion NAME]...
          [--optimizer NAME] [--schedule NAME] [--run DIR] [--seed N] [--print-config] [key.path=value]..."""

FLAGS = {  # flag -> (what it takes, what it does)
    "--config": ("FILE", "YAML with any of the keys; repeatable, later files win"),
    "--user-dir": ("DIR", "load your own components from a folder or a .py file; repeatable"),
    "--task": ("NAME", "what is trained on"),
    "--model": ("NAME", "the main encoder"),
    "--criterion": ("NAME", "the objective; repeatable: objectives are combined"),
    "--optimizer": ("NAME", "the optimizer"),
    "--schedule": ("NAME", "the learning rate over the run"),
    "--run": (
        "DIR",
        "the run's folder (default: runs/TASK-CRITERIA-HASH); an unfinished run there goes on",
    ),
    "--seed": ("N", "of everything that is random (default: 1)"),
    "--print-config": ("", "print the resolved YAML, with where each value came from, and stop"),
    "--overwrite": ("", "start a run anew in a folder that holds another"),
    "--allow-broken-plugins": ("", "warn about a plugin that does not load, and go on without it"),
    "--version": ("", "print the version and stop"),
    "--help": ("", "this text; with components chosen, their options too"),
}
REPEATABLE = ("--config", "--user-dir", "--criterion")
CHOSEN = {
    "--task": "task",
    "--model": "model",
    "--criterion": "criterion",
    "--optimizer": "optimizer",
    "--schedule": "schedule",
}


@dataclass
class Arguments:
    """The command line: values by flag (a list where it may be repeated), and the overrides."""

    values: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def flags(self) -> dict[str, Any]:
        return {name[2:]: self.values.get(name) for name in (*CHOSEN, "--run", "--seed")}


def parse(argv: Sequence[str]) -> Arguments:
    """Raises UserError for an unknown flag, a flag without its value, or a word that is no key.path=value."""
    found = Arguments()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "-h":
            word = "--help"
        if not word.startswith("-") or word == "-":
            found.overrides.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in FLAGS:
            hint = did_you_mean(flag, FLAGS, everything_up_to=0)
            raise UserError(f"there is no flag '{flag}'{hint or '; --help lists them'}")
        if not FLAGS[flag][0]:
            if equals:
                raise UserError(f"{flag} takes no value, got '{value}'")
            found.values[flag] = True
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                raise UserError(f"{flag} needs a value: {flag} {FLAGS[flag][0]}")
            value = words.pop(0)
        if not value:
            raise UserError(f"{flag} needs a value: {flag} {FLAGS[flag][0]}")
        if flag in REPEATABLE:
            found.values.setdefault(flag, []).append(value)
        elif found.values.get(flag, value) != value:
            raise UserError(f"{flag} is given twice, as '{found.values[flag]}' and '{value}'")
        else:
            found.values[flag] = value
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 the run failed, 2 the input was wrong, 75 stopped after saving."""
    # torch reads this when it is imported; below errors it says on every rank that no unused parameter was found
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return run_command(NAME, _main, argv)


def _main(argv: list[str]) -> int:
    arguments = parse(argv)
    values = arguments.values
    if values.get("--version"):
        print(f"fwk {__version__}")
        return 0
    allow_broken = bool(values.get("--allow-broken-plugins"))
    if values.get("--help"):
        print(help_text(arguments, allow_broken))
        return 0
    from fwk.config.identity import to_yaml
    from fwk.config.resolve import resolve

    resolved = resolve(
        values.get("--config", ()),
        arguments.flags(),
        arguments.overrides,
        values.get("--user-dir", ()),
        allow_broken,
    )
    if values.get("--print-config"):
        print(to_yaml(resolved.config, resolved.provenance), end="")
        return 0
    for key in resolved.config.unused_keys():  # on every rank: what it refuses must stop them all
        if first_rank():
            print(f"{NAME}: warning: {key} is read by nothing and has no effect", file=sys.stderr)
    from fwk.runs.start import train

    done = train(
        resolved.config,
        overwrite=bool(values.get("--overwrite")),
        allow_broken_plugins=allow_broken,
    )
    return done.exit_status


def help_text(arguments: Arguments, allow_broken: bool = False) -> str:
    """General help; with anything chosen, the options of the chosen components."""
    from fwk.components.registry import registry
    from fwk.config.resolve import resolve
    from fwk.config.spec import DEFAULTS

    chosen = any(flag in arguments.values for flag in (*CHOSEN, "--config")) or arguments.overrides
    resolved = resolve(
        arguments.values.get("--config", ()),
        arguments.flags(),
        arguments.overrides,
        arguments.values.get("--user-dir", ()),
        allow_broken,
    ).config
    lines = [f"usage: {USAGE}", ""]
    if not chosen:
        lines += [
            *_wrapped(
                "Train an encoder: any task, with any objective, or several at once. Later wins: defaults, "
                "--config files in order, flags, key=value."
            ),
            "",
        ]
        for flag, (takes, doc) in FLAGS.items():
            lines.append(f"  {flag + ' ' + takes:<24} {doc}")
        lines.append("")
        for flag, kind in CHOSEN.items():
            default = f" (default: {DEFAULTS[kind]})"
            lines += _wrapped(f"{flag}{default}: {', '.join(registry.names(kind))}", "    ")
        lines += [
            "",
            *_wrapped(
                "Name a component and ask again to see its options, e.g. fwk-train --criterion "
                f"{DEFAULTS['criterion']} --help."
            ),
            "",
            *_train_lines(),
        ]
        return "\n".join(lines)
    only = {flag for flag in CHOSEN if flag in arguments.values}
    show = {kind for flag, kind in CHOSEN.items() if flag in only} or set(CHOSEN.values())
    for kind in ("task", "model", "criterion", "optimizer", "schedule"):
        if kind not in show:
            continue
        if kind != "criterion":
            lines += [
                *component_lines(registry.get(kind, getattr(resolved, kind).name), f"{kind}."),
                "",
            ]
            continue
        several = len(resolved.criterion) > 1
        for label, spec in resolved.criterion.items():
            lines += [
                *component_lines(
                    spec.component.entry, f"criterion.{label}." if several else "criterion."
                ),
                "",
            ]
    networks = {spec.name: label for label, spec in resolved.networks.items()} if not only else {}
    for name, label in networks.items():
        lines += [*component_lines(registry.get("model", name), f"networks.{label}."), ""]
    brought = {
        name: noiser
        for spec in resolved.criterion.values()
        for name, noiser in spec.component.entry.brings.items()
    }
    brought.update(
        {name: view["noiser"] for name, view in resolved.views.items() if "noiser" in view}
    )
    labels: dict[str, list[str]] = {}
    for name, noiser in brought.items():
        labels.setdefault(noiser, []).append(name)
    for noiser, names in labels.items() if not only or "criterion" in show else ():
        many = _wrapped(f"views {', '.join(names)}, each made by") if names[1:] else []
        lines += [*many, *component_lines(registry.get("noiser", noiser), f"views.{names[0]}."), ""]
    if not only:
        lines += _train_lines()
    return "\n".join(lines).rstrip()


def _train_lines() -> list[str]:
    from fwk.config.spec import TRAIN_SCHEMA

    return ["length, precision and bookkeeping:", *field_lines(TRAIN_SCHEMA, "train.")]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, width(), subsequent_indent=indent, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
