"""`fwk-evaluate`: a checkpoint on a split of its task -> metrics as JSON, and what the model said; or on raw text -> what it says."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from fwk.cli.common import Parser, add_model, disk_errors, first_rank, run_command
from fwk.errors import ConfigError, UserError

NAME = "fwk-evaluate"
_EPILOG = """\
examples:
  fwk-evaluate runs/parser
  fwk-evaluate runs/parser --split test --predictions parsed.conllu
  fwk-evaluate runs/bert task.valid=held-out.txt
  fwk-evaluate runs/parser --text raw.txt --predictions parsed.jsonl

Metrics go to standard output as one JSON object; with --text, what the model says of each line that is not empty, as a JSON
object a line. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog=NAME,
        description="Evaluate a checkpoint on a split of its task.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model(p)
    p.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="task.KEY=VALUE, train.batch=N, train.device=... over the run's config",
    )
    p.add_argument("--split", metavar="NAME", help="(default: valid)")
    p.add_argument(
        "--text",
        metavar="FILE",
        help="instead of a split: raw text, one piece a line (.gz, .xz, .zst; - for standard input)",
    )
    p.add_argument(
        "--predictions",
        metavar="FILE",
        type=Path,
        help="write what the model says, in a form that the task knows (--text: JSON lines)",
    )
    p.add_argument("--output", metavar="FILE", type=Path, help="write the metrics here too")
    return p


def _main(argv: list[str]) -> int:
    a = parser().parse_intermixed_args(argv)  # overrides may stand after flags
    from fwk.files import check_target, write_atomically

    if a.predictions:  # told before the work, not after it
        check_target("--predictions", a.predictions, *([Path(a.text)] if a.text else []))
    if a.output:
        check_target("--output", a.output, *([a.predictions] if a.predictions else []))
    with disk_errors():
        if a.text is not None:
            said = _said(a)
            if a.predictions:
                write_atomically(
                    a.predictions.resolve(), "".join(f"{line}\n" for line in said).encode()
                )
            else:
                for line in said:
                    print(line)
            return 0
        from fwk.runs.evaluating import evaluate_run

        found = evaluate_run(
            a.model,
            a.split or "valid",
            overrides=a.overrides,
            user_dirs=tuple(a.user_dir),
            average=a.average,
            predictions=a.predictions,
        )
        if not first_rank():
            return 0
        text = json.dumps(found, indent=1)
        if a.output:
            write_atomically(a.output.resolve(), (text + "\n").encode())
        print(text)
    return 0


def _said(a: argparse.Namespace) -> Iterator[str]:
    """What the model says of every line of a file that is not empty, as JSON."""
    for flag, given in (
        ("--split", a.split),
        ("--output", a.output),
        (a.overrides[0].split("=")[0] if a.overrides else "", a.overrides),
    ):
        if given:
            raise ConfigError(flag, "goes with a split of the task, not with --text")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--text: is read by one process; start it without torchrun")
    from fwk.data.text import numbered_lines, path_not_found
    from fwk.engine.predict import predict_texts
    from fwk.runs.loaded import load

    if a.text != "-" and not os.path.exists(a.text):
        raise path_not_found(a.text)
    loaded = load(a.model, user_dirs=tuple(a.user_dir), average=a.average or None)
    lines = (
        (line, f"{a.text}:{number}") for number, line in numbered_lines(a.text) if line.strip()
    )
    while some := list(islice(lines, 1024)):  # among which like lengths find each other
        for said in predict_texts(loaded.module, loaded.task, *zip(*some)):
            yield json.dumps(said, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong."""
    return run_command(NAME, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
