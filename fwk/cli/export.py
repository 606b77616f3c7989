"""`fwk-export`: a checkpoint -> a folder that Hugging Face `transformers` loads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from fwk.cli.common import Parser, add_model, disk_errors, run_command

NAME = "fwk-export"
_EPILOG = """\
examples:
  fwk-export runs/bert bert-folder
  fwk-export runs/electra discriminator
  fwk-export runs/electra generator --by corrupted

The folder is loaded again with transformers before the command ends; where features, logits or tokens differ, nothing is
written. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog=NAME,
        description="Write an encoder, its head and its tokenizer for transformers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model(p)
    p.add_argument("folder", metavar="FOLDER", help="folder to write")
    p.add_argument(
        "--by",
        metavar="NAME",
        help="whose head: a criterion, a view whose noiser has a network, or 'encoder' for none "
        "(default: the only criterion with a head)",
    )
    p.add_argument(
        "--family",
        default="auto",
        choices=("auto", "bert", "electra"),
        help="(default: auto, the one that holds it)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace a folder that is there")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


def _main(argv: list[str]) -> int:
    a = parser().parse_args(argv)
    from fwk.hf.exporting import export
    from fwk.runs.loaded import load

    with disk_errors():
        made = export(
            load(a.model, user_dirs=tuple(a.user_dir), average=a.average or None),
            a.folder,
            a.by,
            a.family,
            a.overwrite,
        )
    if not a.quiet:
        by = made.pop("by")
        print(
            f"{a.folder}: {made.pop('class')}"
            + ("" if by == "encoder" else f", with the head of '{by}'")
        )
        print(
            "\n".join(f"  {what}: largest difference {value:.1e}" for what, value in made.items())
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong."""
    return run_command(NAME, _main, argv)


if __name__ == "__main__":
    sys.exit(main())
