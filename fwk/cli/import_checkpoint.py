"""`fwk-import`: read a BERT or ELECTRA folder of Hugging Face `transformers` into a run's folder."""

from __future__ import annotations

import argparse
import sys

from fwk.cli.common import command, disk_errors
from fwk.cli.parsing import Parser
from fwk.errors import printable

NAME = "fwk-import"
EPILOG = """\
example:
  fwk-import bert-folder runs/bert
  fwk-import nli-folder runs/nli --texts premise,hypothesis

The command reads config.json, model.safetensors and the tokenizer; it refuses pickled weights. The run can be loaded
(fwk.load), used to score text, and exported again.
Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> Parser:
    """Return the grammar of the command line."""
    p = Parser(
        NAME,
        description="Read an encoder, its head and its tokenizer from a folder of transformers.",
        epilog=EPILOG,
    )
    p.add_argument(
        "folder",
        metavar="FOLDER",
        help="the folder of a BertModel, BertForMaskedLM, ElectraModel, ElectraForMaskedLM, ElectraForPreTraining, or "
        "a BertFor... or ElectraFor... SequenceClassification, MultipleChoice or QuestionAnswering",
    )
    p.add_argument("run", metavar="RUN", help="the run's folder to write")
    p.add_argument(
        "--texts",
        metavar="NAME[,NAME]",
        default="",
        help="names of the texts that a head for a task reads, in the order of a sequence (default: text; "
        "question,context for answers; context for choices)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    p.add_argument("--quiet", action="store_true", help="print nothing")
    return p


@command(NAME, parser)
@disk_errors()
def main(arguments: argparse.Namespace) -> int:
    """Import. Return 0: done, 1: something failed, 2: the input was wrong."""
    from fwk.hf.importing import import_folder

    texts = arguments.texts.split(",") if arguments.texts else ()
    imported = import_folder(arguments.folder, arguments.run, arguments.overwrite, texts)
    if not arguments.quiet:
        head = "an encoder" if imported.untrained else f"its head under '{imported.by}'"
        print(f"{arguments.run}: {imported.class_name}, {head}")
        for name in imported.untrained:
            print(
                f"  '{name}' has a new head, which cannot score or be exported before it is trained"
            )
        if imported.left_behind:
            print(printable(f"  not imported: {', '.join(imported.left_behind)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
