"""`fwk-evaluate`: a checkpoint on a split of its task -> metrics as JSON, and what the model said."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from fwk.cli.common import Parser, add_model, disk_errors, first_rank, run_command

NAME = "fwk-evaluate"
_EPILOG = """\
examples:
  fwk-evaluate runs/parser
  fwk-evaluate runs/parser --split test --predictions parsed.conllu
  fwk-evaluate runs/bert task.valid=held-out.txt

Metrics go to standard output as one JSON object. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(prog=NAME, description="Evaluate a checkpoint on a split of its task.", epilog=_EPILOG,
               formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add_model(p)
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="task.KEY=VALUE, train.batch=N, train.device=... over the run's config")
    p.add_argument("--split", default="valid", metavar="NAME", help="(default: valid)")
    p.add_argument("--predictions", metavar="FILE", type=Path, help="write what the model says, in a form that the task knows")
    p.add_argument("--output", metavar="FILE", type=Path, help="write the metrics here too")
    return p


def _main(argv: list[str]) -> int:
    a = parser().parse_args(argv)
    from fwk.engine.api import evaluate_run
    from fwk.files import write_atomically

    with disk_errors():
        found = evaluate_run(a.model, a.split, overrides=a.overrides, user_dirs=tuple(a.user_dir), average=a.average,
                             predictions=a.predictions)
        if not first_rank():
            return 0
        text = json.dumps(found, indent=1)
        if a.output:
            write_atomically(a.output, (text + "\n").encode())
        print(text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong."""
    return run_command(NAME, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
