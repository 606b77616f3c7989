"""`fwk-preprocess`: turn text into a tokenizer and a token store."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from fwk.cli.common import command, disk_errors
from fwk.cli.messages import warn
from fwk.cli.parsing import Parser, number, one_of, whole_number
from fwk.errors import ConfigError, did_you_mean, printable
from fwk.files import expand_user

if TYPE_CHECKING:
    from fwk.data.preprocess import Options, TokenizerSpec
    from fwk.data.tokenizers import Tokenizer

NAME = "fwk-preprocess"
EPILOG = """\
examples:
  fwk-preprocess book.txt --output store
  fwk-preprocess 'wiki/*.txt.xz' news/ --output store --tokenizer bpe --vocabulary 16000 --cased
  zcat dump.jsonl.gz | fwk-preprocess - --format jsonl --field body --output store --tokenizer other-store/tokenizer

To continue after an interruption, run the same command again. The store does not depend on --processes.
Exit status: 0 done, 2 the input was wrong, 1 something else failed."""
MILLION = 1e6
VOCABULARY = 32000  # tokens in a trained vocabulary, by default
DOCUMENTS = "empty-line"  # what separates documents, by default
SAMPLE_SIZE = 32  # million characters that a tokenizer is trained on, by default


def parser() -> Parser:
    """Return the grammar of the command line."""
    p = Parser(
        NAME,
        description="Turn text into a tokenizer and a token store that fwk-train reads (task.data=STORE).",
        epilog=EPILOG,
    )
    p.add_argument(
        "input",
        nargs="+",
        metavar="INPUT",
        help="text files, globs, folders, .gz/.xz/.zst, .jsonl; - for standard input",
    )
    p.add_argument(
        "--output", "-o", required=True, metavar="STORE", help="folder to write the token store to"
    )
    _add_tokenizer(p)
    _add_documents(p)
    _add_sizes(p)
    p.add_argument("--overwrite", action="store_true", help="replace an existing token store")
    p.add_argument("--quiet", action="store_true", help="print neither progress nor a summary")
    return p


def _add_tokenizer(p: Parser) -> None:
    p.add_argument(
        "--tokenizer",
        default="unigram",
        metavar="KIND|PATH",
        help="kind to train: unigram, bpe (sentencepiece), wordpiece, byte_bpe (Hugging Face tokenizers); or an "
        "existing tokenizer: a folder, a .model, tokenizer.json or vocab.txt file (default: unigram)",
    )
    p.add_argument(
        "--vocabulary",
        type=whole_number(16, 10_000_000),
        default=None,
        metavar="N",
        help="tokens in a trained vocabulary (default: 32000)",
    )
    p.add_argument(
        "--cased",
        action="store_true",
        default=None,
        help="keep upper case (default: lower-case the text)",
    )


def _add_documents(p: Parser) -> None:
    p.add_argument(
        "--documents",
        default=None,
        type=one_of("empty-line", "line", "file"),
        metavar="KIND",
        help="what separates documents: empty-line, line or file (default: empty-line)",
    )
    p.add_argument(
        "--format",
        default="auto",
        type=one_of("auto", "text", "jsonl"),
        metavar="KIND",
        help="auto, text or jsonl, that is JSON lines (default: auto: jsonl for .jsonl, and for .json with an object "
        "per line)",
    )
    p.add_argument(
        "--field",
        default=None,
        metavar="NAME",
        help="field of JSONL records with the text; a.b is field b of field a (default: text)",
    )
    held_out = p.add_mutually_exclusive_group()
    held_out.add_argument(
        "--valid-share",
        type=number("a share from 0 to below 1", lambda share: 0 <= share < 1),
        default=0.01,
        metavar="X",
        help="share of the documents held out for validation (default: 0.01)",
    )
    held_out.add_argument(
        "--valid",
        nargs="+",
        default=[],
        metavar="INPUT",
        help="text for validation, instead of a share of the input",
    )


def _add_sizes(p: Parser) -> None:
    p.add_argument(
        "--processes",
        type=whole_number(1, 1024),
        default=None,
        metavar="N",
        help="processes that tokenize (default: one per core)",
    )
    size = number("million characters, above 0", lambda millions: 0 < millions < MILLION)
    p.add_argument(
        "--shard-size",
        type=size,
        default=16,
        metavar="M",
        help="million characters of text per shard (default: 16)",
    )
    p.add_argument(
        "--sample-size",
        type=size,
        default=None,
        metavar="M",
        help="million characters of text that the tokenizer is trained on (default: 32)",
    )
    p.add_argument(
        "--seed",
        type=whole_number(),
        default=1,
        metavar="N",
        help="seed of the choice of held-out documents and of the tokenizer's sample (default: 1)",
    )


@command(NAME, parser)
@disk_errors()
def main(arguments: argparse.Namespace) -> int:
    """Build a token store. Return 0: done, 1: something failed, 2: the input was wrong, 130: interrupted."""
    from fwk.data.preprocess import build_store
    from fwk.data.progress import Progress

    tokenizer = _tokenizer(arguments)
    try:
        with Progress(arguments.quiet) as progress:
            folder = build_store(
                arguments.input,
                arguments.output,
                tokenizer,
                options=_options(arguments),
                valid=arguments.valid,
                processes=arguments.processes or _cores(),
                overwrite=arguments.overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Run the same command again to continue") from None
    if not arguments.quiet:
        _print_summary(str(folder), arguments)
    return 0


def _tokenizer(arguments: argparse.Namespace) -> TokenizerSpec | Tokenizer:
    """Return the specification of the tokenizer to train, or an existing one."""
    from fwk.data.preprocess import TokenizerSpec
    from fwk.data.tokenizers import KINDS, load

    choice = expand_user(arguments.tokenizer)
    if choice in KINDS:
        size = arguments.vocabulary or VOCABULARY
        return TokenizerSpec(kind=choice, size=size, lower=not arguments.cased)
    if os.path.exists(choice) or os.sep in choice or "." in choice:
        _refuse_options_of_training(arguments)
        return load(choice)
    raise ConfigError(
        "--tokenizer", f"'{choice}' is neither a kind nor a path{did_you_mean(choice, KINDS)}"
    )


def _refuse_options_of_training(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for an option that acts only on a tokenizer that is trained."""
    for name in ("vocabulary", "cased", "sample_size"):
        if getattr(arguments, name) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}",
                f"has no effect, because --tokenizer {arguments.tokenizer} exists already; leave it out, or name a "
                "kind to train",
            )


def _options(arguments: argparse.Namespace) -> Options:
    from fwk.data.preprocess import Options

    for flag, format in (("field", "text"), ("documents", "jsonl")):
        if getattr(arguments, flag) is not None and arguments.format == format:
            raise ConfigError(f"--{flag}", f"has no effect with --format {format}; leave it out")
    return Options(
        documents=arguments.documents or DOCUMENTS,
        field=arguments.field or "text",
        format=arguments.format,
        valid_share=0.0 if arguments.valid else arguments.valid_share,
        shard_size=max(int(arguments.shard_size * MILLION), 1),
        sample_size=max(int((arguments.sample_size or SAMPLE_SIZE) * MILLION), 1),
        seed=arguments.seed,
    )


def _print_summary(folder: str, arguments: argparse.Namespace) -> None:
    """Print what the store holds, and warn of what is not as the arguments ask for."""
    from fwk.data.findings import one_document, size_of_vocabulary
    from fwk.data.store import Store
    from fwk.data.tokenizers import KINDS

    store = Store(folder)
    for name in store.splits:
        split = store.split(name)
        noun = "document" if split.documents == 1 else "documents"
        print(f"{printable(name)}: {split.tokens:,} tokens in {split.documents:,} {noun}")
    size = store.manifest["vocabulary"]["size"]
    print(f"vocabulary: {size:,} tokens")
    print(f"train on it: fwk-train --task mlm task.data={folder}")

    wants_valid = arguments.valid_share and not arguments.valid
    if wants_valid and "valid" not in store.splits and store.split("train").documents == 1:
        warn(
            NAME,
            f"nothing can be held out for validation (--valid-share {arguments.valid_share:g}), because the input is "
            f"1 document: {one_document(arguments.documents or DOCUMENTS, '--documents ')}",
        )
    if arguments.vocabulary is not None and arguments.tokenizer in KINDS:
        for sentence in size_of_vocabulary(size, arguments.vocabulary, "--vocabulary"):
            warn(NAME, sentence)


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
