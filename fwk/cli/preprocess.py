"""`fwk-preprocess`: text -> tokenizer + token store."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fwk.cli.common import Parser, disk_errors, run_command

NAME = "fwk-preprocess"
_EPILOG = """\
examples:
  fwk-preprocess book.txt --output store
  fwk-preprocess 'wiki/*.txt.xz' news/ --output store --tokenizer bpe --vocabulary 16000 --cased
  zcat dump.jsonl.gz | fwk-preprocess - --format jsonl --field body --output store --tokenizer other-store/tokenizer

An interrupted run goes on where it was when the same command is given again. What is written does not depend on
--processes. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog=NAME,
        description="Turn text into a tokenizer and a token store that fwk-train reads "
        "(task.data=STORE).",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
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
    p.add_argument(
        "--tokenizer",
        default="unigram",
        metavar="KIND|PATH",
        help="kind to train: unigram, bpe "
        "(sentencepiece), wordpiece, byte_bpe (Hugging Face tokenizers); or an existing one: a folder, a "
        ".model, tokenizer.json or vocab.txt file (default: unigram)",
    )
    p.add_argument(
        "--vocabulary",
        type=int,
        default=32000,
        metavar="N",
        help="tokens in a trained vocabulary (default: 32000)",
    )
    p.add_argument(
        "--cased", action="store_true", help="keep upper case (default: lower-case the text)"
    )
    p.add_argument(
        "--documents",
        default="empty-line",
        choices=("empty-line", "line", "file"),
        help="what separates documents (default: empty-line)",
    )
    p.add_argument(
        "--format", default="auto", choices=("auto", "text", "jsonl"), help="auto: JSONL by suffix"
    )
    p.add_argument(
        "--field",
        default="text",
        metavar="NAME",
        help="field of JSONL records with the text; a.b goes deeper (default: text)",
    )
    held = p.add_mutually_exclusive_group()
    held.add_argument(
        "--valid-share",
        type=float,
        default=0.01,
        metavar="X",
        help="share of the documents held out for validation (default: 0.01)",
    )
    held.add_argument(
        "--valid", nargs="+", default=[], metavar="INPUT", help="text to validate on instead"
    )
    p.add_argument(
        "--processes",
        type=int,
        default=None,
        metavar="N",
        help="processes that tokenize (default: one per core)",
    )
    p.add_argument(
        "--shard-size",
        type=float,
        default=16,
        metavar="M",
        help="million characters of text per shard (default: 16)",
    )
    p.add_argument(
        "--sample-size",
        type=float,
        default=32,
        metavar="M",
        help="million characters of text the tokenizer is trained on (default: 32)",
    )
    p.add_argument(
        "--seed", type=int, default=1, help="of the held-out documents and the tokenizer's sample"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a token store that is there")
    p.add_argument("--quiet", action="store_true", help="no progress, no summary")
    return p


def run(arguments: argparse.Namespace) -> None:
    from fwk.contracts.options import shown
    from fwk.data.preprocess import Options, TokenizerSpec, build_store
    from fwk.data.progress import Progress
    from fwk.data.store import Store
    from fwk.data.tokenizers import KINDS, load
    from fwk.errors import ConfigError, did_you_mean

    a = arguments
    if not 16 <= a.vocabulary <= 10_000_000:
        raise ConfigError(
            "--vocabulary", f"expected from 16 to 10 million tokens, got {shown(a.vocabulary)}"
        )
    if a.processes is not None and not 1 <= a.processes <= 1024:
        raise ConfigError("--processes", f"expected from 1 to 1024, got {shown(a.processes)}")
    for flag in ("shard_size", "sample_size"):
        if not 0 < getattr(a, flag) < 1e6:
            raise ConfigError(
                f"--{flag.replace('_', '-')}",
                f"expected million characters, above 0, got {getattr(a, flag)}",
            )
    if not 0 <= a.valid_share < 1:
        raise ConfigError(
            "--valid-share", f"expected a share from 0 to below 1, got {a.valid_share}"
        )
    if a.tokenizer in KINDS:
        tokenizer = TokenizerSpec(kind=a.tokenizer, size=a.vocabulary, lower=not a.cased)
    elif os.path.exists(a.tokenizer) or os.sep in a.tokenizer or "." in a.tokenizer:
        tokenizer = load(a.tokenizer)
    else:
        raise ConfigError(
            "--tokenizer",
            f"'{a.tokenizer}' is neither a kind nor a path{did_you_mean(a.tokenizer, KINDS)}",
        )
    options = Options(
        documents=a.documents,
        field=a.field,
        format=a.format,
        valid_share=0.0 if a.valid else a.valid_share,
        shard_size=max(int(a.shard_size * 1e6), 1),
        sample_size=max(int(a.sample_size * 1e6), 1),
        seed=a.seed,
    )
    with Progress(a.quiet) as progress:
        folder = build_store(
            a.input,
            a.output,
            tokenizer,
            options=options,
            valid=a.valid,
            processes=a.processes or _cores(),
            overwrite=a.overwrite,
            progress=progress,
        )
    if not a.quiet:
        store = Store(folder)
        for name in store.splits:
            split = store.split(name)
            print(f"{name}: {split.tokens:,} tokens in {split.documents:,} documents")
        print(f"vocabulary: {store.manifest['vocabulary']['size']:,} tokens")
        print(f"train on it: fwk-train --task mlm task.data={folder}")


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong, 130 interrupted."""
    return run_command(NAME, _main, argv)


def _main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    try:
        with disk_errors():
            run(arguments)
    except KeyboardInterrupt:
        print(f"{NAME}: interrupted; give the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
