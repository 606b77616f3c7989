"""`fwk-train`: any task x criterion x model x optimizer. Grammar and help; `fwk.runs.start.train` does the work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fwk.cli.common import command
from fwk.cli.describing import component_lines, field_lines, wrapped
from fwk.cli.messages import warn
from fwk.cli.parsing import Append, Parser, StoreOnce, add_trust
from fwk.components.registry import registry
from fwk.config.resolve import resolve
from fwk.config.run_config import Resolved, RunConfig
from fwk.config.spec import DEFAULTS, EXTRAS, TRAIN_SCHEMA
from fwk.version import __version__

if TYPE_CHECKING:  # it imports torch
    from fwk.runs.origin import Origin

NAME = "fwk-train"
USAGE = """\
fwk-train [--config FILE]... [--user-dir DIR]... [--task NAME] [--model NAME] [--criterion NAME]...
          [--optimizer NAME] [--schedule NAME] [--run DIR] [--seed N] [--print-config] [key.path=value]..."""
CHOICES = ("task", "model", "criterion", "optimizer", "schedule")  # chosen by flags of these names


def parser(epilog: str = "") -> Parser:
    """Return the grammar of the command line; `epilog` stands below the flags in its help."""
    p = Parser(
        NAME,
        words="overrides",
        usage=USAGE,
        description="Train an encoder on any task, with one objective or several at once.\n"
        "Later settings win: defaults, --config files in order, flags, key.path=value.",
        epilog=epilog,
        add_help=False,  # it depends on the other arguments
    )
    p.add_argument(
        "--config",
        action=Append,
        default=[],
        metavar="FILE",
        help="YAML with any of the keys; repeatable, later files win; 'extends: BASE.yaml' in a file reads "
        "another one first, relative to the file's folder",
    )
    p.add_argument(
        "--user-dir",
        action=Append,
        default=[],
        metavar="DIR",
        help="load your own components from a folder or a .py file; repeatable",
    )
    add_trust(p)
    _add_choices(p)
    p.add_argument(
        "--run",
        action=StoreOnce,
        metavar="DIR",
        help="the run's folder (default: runs/TASK-CRITERIA-HASH); an unfinished run in it is resumed",
    )
    p.add_argument(
        "--seed", action=StoreOnce, metavar="N", help="seed of everything random (default: 1)"
    )
    _add_switches(p)
    return p


def _add_choices(p: Parser) -> None:
    """Add the flags that choose components."""
    texts = {
        "task": "what to train on",
        "model": "the main encoder",
        "criterion": "the objective; repeatable: objectives are combined",
        "optimizer": "the optimizer",
        "schedule": "the learning rate over the run",
    }
    for kind in CHOICES:
        action = Append if kind == "criterion" else StoreOnce
        p.add_argument(f"--{kind}", action=action, metavar="NAME", help=texts[kind])


def _add_switches(p: Parser) -> None:
    """Add the flags that take no value."""
    for flag, text in (
        ("--print-config", "print the resolved YAML, with the origin of each value, and stop"),
        ("--overwrite", "start a new run in a folder that holds another"),
        ("--allow-broken-plugins", "warn about a plugin that cannot be loaded, and ignore it"),
    ):
        p.add_argument(flag, action="store_true", help=text)
    p.add_argument(
        "--version",
        action="version",
        version=f"fwk {__version__}",
        help="print the version and stop",
    )
    p.add_argument(
        "-h",
        "--help",
        action="store_true",
        help="print this text and stop; with components chosen, print their options",
    )


@command(NAME, parser)
def main(arguments: argparse.Namespace) -> int:
    """Train. Return 0: done, 1: the run failed, 2: the input was wrong, 75: stopped after saving."""
    # torch reads this when it is imported; at a lower level every rank reports that no unused parameter was found
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    resolved = _resolve(arguments)
    if arguments.help:
        print(help_text(arguments, resolved.config))
        return 0
    if arguments.print_config:
        print(_shown(resolved.config, arguments.overwrite), end="")
        return 0
    _train_needed(resolved.config, arguments)
    origin = _find_origin(resolved.config, arguments.overwrite)
    config = resolved.config if origin is None else origin.config
    for key in config.unused_keys():  # on every rank, because it raises where the config is wrong
        warn(NAME, f"{key} is read by nothing and has no effect")
    from fwk.runs.start import train

    finished = train(
        resolved.config,
        overwrite=arguments.overwrite,
        allow_broken_plugins=arguments.allow_broken_plugins,
        origin=origin,
    )
    return finished.exit_status


def _shown(config: RunConfig, overwrite: bool) -> str:
    """Return the config that is trained as YAML, with the origin of each value, and what it needs with its state."""
    from fwk.config.identity import needs_to_yaml, to_yaml

    if not config.needs.runs:
        origin = _find_origin(config, overwrite)
        config = config if origin is None else origin.config
        return to_yaml(config, config.provenance)
    from fwk.runs.needs import starts_from_missing, states

    if not starts_from_missing(config):
        origin = _find_origin(config, overwrite)
        config = config if origin is None else replace(origin.config, needs=config.needs)
    return to_yaml(config, config.provenance) + needs_to_yaml(config.needs, states(config))


def _train_needed(config: RunConfig, arguments: argparse.Namespace) -> None:
    """Train what the run needs and is missing, before it reads any of it."""
    if not config.needs.runs:
        return
    from fwk.runs.needs import train_needed

    train_needed(
        config,
        overwrite=arguments.overwrite,
        allow_broken_plugins=arguments.allow_broken_plugins,
    )


def _find_origin(config: RunConfig, overwrite: bool) -> Origin | None:
    """Return what the run starts from; None where that is nothing, which is known without importing torch."""
    if not config.weights_from():
        return None
    from fwk.runs.origin import find_origin

    return find_origin(config, overwrite)


def _resolve(arguments: argparse.Namespace) -> Resolved:
    flags = {name: getattr(arguments, name) for name in (*CHOICES, "run", "seed")}
    return resolve(
        arguments.config,
        flags,
        arguments.overrides,
        arguments.user_dir,
        arguments.allow_broken_plugins,
    )


# -- help ------------------------------------------------------------------------------------------------------------


def help_text(arguments: argparse.Namespace, config: RunConfig) -> str:
    """Return the general help, or the options of the components that the arguments choose."""
    kinds = [kind for kind in CHOICES if getattr(arguments, kind)]
    if not (kinds or arguments.config or arguments.overrides):
        return parser(epilog="\n".join(_overview())).format_help().rstrip()
    lines = [f"usage: {USAGE}", ""]
    for kind in kinds or CHOICES:
        lines += _separated(_components_of(kind, config))
    if not kinds:
        lines += _separated(_extra_networks(config))
    if not kinds or "criterion" in kinds:
        lines += _separated(_noisers(config))
    if not kinds:
        lines += _train_options()
    return "\n".join(lines).rstrip()


def _overview() -> Iterator[str]:
    """Yield the lines of the general help below the flags: names by kind, and the options of a run."""
    for kind in CHOICES:
        names = ", ".join(registry.names(kind))
        yield from wrapped(f"--{kind} (default: {DEFAULTS[kind]}): {names}", "    ")
    yield ""
    yield from wrapped(
        "model.from=PATH starts from the weights of a run, a checkpoint or a folder of Hugging Face, with its model "
        "and its tokenizer."
    )
    yield ""
    yield from wrapped(
        "needs: in a config names the runs that must exist first; what is missing is trained, up to runs.parallel=N at "
        "the same time."
    )
    yield ""
    yield from wrapped(
        "To see the options of a component, name it and ask for help, as in "
        f"'fwk-train --criterion {DEFAULTS['criterion']} --help'."
    )
    yield ""
    yield from _train_options()


def _train_options() -> list[str]:
    return ["length, precision and bookkeeping:", *field_lines(TRAIN_SCHEMA, "train.")]


def _components_of(kind: str, config: RunConfig) -> Iterator[list[str]]:
    """Yield the description of each component of a kind that the config uses."""
    if kind != "criterion":
        name = getattr(config, kind).name
        extras = field_lines(EXTRAS.get(kind, ()), f"{kind}.")
        yield [*component_lines(registry.get(kind, name), f"{kind}."), *extras]
        return
    for label, spec in config.criterion.items():
        prefix = f"criterion.{label}." if len(config.criterion) > 1 else "criterion."
        yield component_lines(spec.component.entry, prefix)


def _extra_networks(config: RunConfig) -> Iterator[list[str]]:
    """Yield the description of each encoder in `networks:`, once where several are of one name."""
    label_of = {spec.name: label for label, spec in config.networks.items()}
    for name, label in label_of.items():
        yield component_lines(registry.get("model", name), f"networks.{label}.")


def _noisers(config: RunConfig) -> Iterator[list[str]]:
    """Yield the description of each noiser, with the views that it makes."""
    noiser_of = {}
    for spec in config.criterion.values():
        noiser_of.update(spec.component.entry.brings)
    for view, settings in config.views.items():
        if "noiser" in settings:
            noiser_of[view] = settings["noiser"]

    views_of: dict[str, list[str]] = {}
    for view, noiser in noiser_of.items():
        views_of.setdefault(noiser, []).append(view)
    for noiser, views in views_of.items():
        several = wrapped(f"views {', '.join(views)}, each made by") if len(views) > 1 else []
        yield [*several, *component_lines(registry.get("noiser", noiser), f"views.{views[0]}.")]


def _separated(blocks: Iterator[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of blocks, with an empty line behind each block."""
    for block in blocks:
        yield from block
        yield ""


if __name__ == "__main__":
    sys.exit(main())
