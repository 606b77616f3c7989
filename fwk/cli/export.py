"""`fwk-export`: write a checkpoint as a folder that Hugging Face `transformers` loads."""

from __future__ import annotations

import argparse
import sys

from fwk.cli.common import command, disk_errors
from fwk.cli.parsing import Parser, add_model, chosen_checkpoint, one_of

NAME = "fwk-export"
EPILOG = """\
examples:
  fwk-export runs/bert bert-folder
  fwk-export runs/electra discriminator
  fwk-export runs/electra generator --by corrupted
  fwk-export runs/bert vectors --sentence-transformers

The command loads the folder again with transformers and compares features, logits and tokens; where they differ, it
writes nothing. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> Parser:
    """Return the grammar of the command line."""
    p = Parser(
        NAME,
        description="Write an encoder, its head and its tokenizer for transformers.",
        epilog=EPILOG,
    )
    add_model(p)
    p.add_argument("folder", metavar="FOLDER", help="the folder to write")
    p.add_argument(
        "--by",
        metavar="NAME",
        help="whose head to export: a criterion, a view whose noiser has a network, or 'encoder' for no head "
        "(default: the only criterion with a trained head)",
    )
    p.add_argument(
        "--family",
        default="auto",
        type=one_of("auto", "bert", "electra"),
        metavar="NAME",
        help="auto, bert or electra (default: auto, the family that can hold the model)",
    )
    p.add_argument(
        "--sentence-transformers",
        action="store_true",
        help="write an encoder of sentence vectors that the library sentence-transformers reads",
    )
    p.add_argument(
        "--pooling",
        type=one_of("cls", "mean", "max", "last"),
        metavar="NAME",
        help="of these vectors: cls, mean, max or last (default: that of the criterion that compares vectors, "
        "otherwise mean)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


@command(NAME, parser)
@disk_errors()
def main(arguments: argparse.Namespace) -> int:
    """Export. Return 0: done, 1: something failed, 2: the input was wrong."""
    from fwk.hf.exporting import export
    from fwk.runs.loaded import load

    loaded = load(
        arguments.model,
        user_dirs=tuple(arguments.user_dir),
        average=arguments.average or None,
        checkpoint=chosen_checkpoint(arguments),
    )
    exported = export(
        loaded,
        arguments.folder,
        arguments.by,
        arguments.family,
        arguments.overwrite,
        arguments.sentence_transformers,
        arguments.pooling,
    )
    if not arguments.quiet:
        head = "" if exported.by == "encoder" else f", with the head of '{exported.by}'"
        if exported.pooling is not None:
            head = f", sentence vectors by the pooling '{exported.pooling}'"
        print(f"{arguments.folder}: {exported.class_name}{head}")
        for quantity, value in exported.differences.items():
            print(f"  {quantity}: largest difference {value:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
