"""`fwk-import`: a BERT or ELECTRA of Hugging Face `transformers` -> a run's folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fwk.cli.common import Parser, disk_errors, run_command

NAME = "fwk-import"
_EPILOG = """\
example:
  fwk-import bert-folder runs/bert

Reads config.json, model.safetensors and the tokenizer; pickled weights are refused. The run can be loaded (fwk.load), scored with
and exported again. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog=NAME,
        description="Read an encoder, its head and its tokenizer from a folder of transformers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "folder",
        metavar="FOLDER",
        help="of a BertModel, BertForMaskedLM, ElectraModel, ElectraForMaskedLM or "
        "ElectraForPreTraining",
    )
    p.add_argument("run", metavar="RUN", help="run's folder to write")
    p.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


def _main(argv: list[str]) -> int:
    a = parser().parse_args(argv)
    from fwk.hf.importing import import_folder

    with disk_errors():
        made = import_folder(a.folder, a.run, a.overwrite)
    if not a.quiet:
        print(f"{a.run}: {made['class']}, its head under '{made['by']}'")
        if made["left"]:
            print(f"  left behind: {', '.join(made['left'])}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong."""
    return run_command(NAME, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
