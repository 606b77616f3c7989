"""`fwk-score`: (pseudo-)log-likelihoods of lines, minimal pairs and n-best lists."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwk.cli.common import command, disk_errors, json_line
from fwk.cli.parsing import Parser, add_model, chosen_checkpoint, one_of, whole_number
from fwk.contracts.plain import PlainDict
from fwk.errors import ConfigError, UserError
from fwk.files import expand_user

if TYPE_CHECKING:
    from fwk.data.progress import Progress
    from fwk.scoring.scorer import Scored, ScoredText, Scorer
    from fwk.scoring.stream import Journal

NAME = "fwk-score"
EPILOG = """\
examples:
  fwk-score runs/electric --text corpus.txt.gz --output scores.jsonl
  fwk-score runs/bert --pairs blimp.jsonl
  fwk-score runs/electra-tt --dev clean.json other.json --test clean-test.json other-test.json --set estimate=exact

Scores are sums over tokens in nats, without [CLS] and [SEP]. To continue an interrupted command with --output, run it
again. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""
TOGETHER = 512  # sentences of pairs and lists that are sorted by length and scored together


def parser() -> Parser:
    """Return the grammar of the command line."""
    p = Parser(NAME, description="Report how likely text is under a trained model.", epilog=EPILOG)
    add_model(p)
    _add_input(p)
    _add_scoring(p)
    _add_computation(p)
    return p


def _add_input(p: Parser) -> None:
    kind = p.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        type=expand_user,
        help="text, one piece per line (.gz, .xz, .zst; - for standard input); writes one JSON object per line",
    )
    kind.add_argument(
        "--pairs",
        nargs="+",
        metavar="FILE",
        type=expand_user,
        help="JSON lines with sentence_good and sentence_bad, as BLiMP's: prints the share of pairs whose good "
        "sentence is more likely",
    )
    kind.add_argument(
        "--dev",
        nargs="+",
        metavar="FILE",
        type=expand_user,
        help="n-best lists with references, for choosing the weight of log p",
    )
    p.add_argument(
        "--test",
        nargs="+",
        metavar="FILE",
        type=expand_user,
        default=[],
        help="n-best lists to re-rank with that weight, one file for each dev file",
    )
    p.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        type=expand_user,
        help="write scores to this file (--text: JSON lines; else one JSON object)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output file")


def _add_scoring(p: Parser) -> None:
    p.add_argument(
        "--by",
        metavar="NAME",
        help="the criterion that gives probabilities of tokens, or the view whose noiser does (default: the only one)",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of its scoring, as in estimate=exact",
    )
    p.add_argument(
        "--per-token", action="store_true", help="with --text: write every token with its log p"
    )
    p.add_argument("--normalise", action="store_true", help="divide scores by the number of tokens")
    p.add_argument(
        "--weights",
        default="0.05:1.0:0.05",
        metavar="FROM:TO:STEP",
        help="with --dev: the weights to try (default: 0.05:1.0:0.05)",
    )
    p.add_argument(
        "--cut",
        action="store_true",
        help="cut text that is longer than the model reads (default: refuse it)",
    )
    p.add_argument(
        "--lenient",
        action="store_true",
        help="with --text: score null for empty and too long text (default: refuse it); with --dev: choose such a "
        "hypothesis only where no other is listed, and count the words at an empty reference as errors",
    )


def _add_computation(p: Parser) -> None:
    p.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)"
    )
    p.add_argument(
        "--precision",
        default="fp32",
        type=one_of("fp32", "bf16", "fp16"),
        metavar="NAME",
        help="fp32, bf16 or fp16 (default: fp32)",
    )
    p.add_argument(
        "--tokens",
        type=whole_number(1),
        default=16384,
        metavar="N",
        help="tokens in one call of the encoder (default: 16384)",
    )
    p.add_argument(
        "--threads",
        type=whole_number(1, 1024),
        metavar="N",
        help="threads of torch (default: chosen by torch)",
    )
    p.add_argument("--quiet", action="store_true", help="print neither progress nor tables")


@command(NAME, parser)
@disk_errors()
def main(arguments: argparse.Namespace) -> int:
    """Score text. Return 0: done, 1: something failed, 2: the input was wrong, 130: interrupted."""
    weights = _weights(arguments.weights)
    options = _scoring_options(arguments.set)
    _check_input(arguments)
    from fwk.data.progress import Progress

    try:
        with Progress(arguments.quiet) as progress:
            if arguments.text:
                _score_lines(arguments, options, progress)
            elif arguments.pairs:
                _score_pairs(arguments, options, progress)
            else:
                _rerank_lists(arguments, options, weights, progress)
    except KeyboardInterrupt:
        resumable = arguments.output and "-" not in (arguments.text or ())
        advice = ["Run the same command again to continue"] if resumable else []
        raise KeyboardInterrupt(*advice) from None
    return 0


# -- arguments -------------------------------------------------------------------------------------------------------


def _weights(text: str) -> list[float]:
    """Return the numbers FROM, FROM + STEP, ... up to TO."""
    try:
        low, high, step = map(float, text.split(":"))
        if not (0 <= low <= high < 1e6 and step > 0 and (high - low) / step < 10_000):
            raise ValueError
    except ValueError:
        raise ConfigError(
            "--weights", f"expected FROM:TO:STEP, as in 0.05:1.0:0.05, got '{text}'"
        ) from None
    count = int((high - low) / step + 1e-6) + 1
    return [round(low + number * step, 10) for number in range(count)]


def _scoring_options(texts: Sequence[str]) -> PlainDict:
    """Return the values of --set by key."""
    from fwk.config.yaml_text import scalar

    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError("--set", f"expected KEY=VALUE, got '{text}'")
        options[key] = scalar(value)
    return options


def _check_input(arguments: argparse.Namespace) -> None:
    """Raise UserError for flags that do not belong together and files that do not exist."""
    for flag, needed in (
        ("test", ("dev",)),
        ("per_token", ("text",)),
        ("lenient", ("text", "dev")),
    ):
        if getattr(arguments, flag) and not any(getattr(arguments, name) for name in needed):
            modes = " or ".join(f"--{name}" for name in needed)
            raise ConfigError(
                f"--{flag.replace('_', '-')}", f"belongs to {modes}, which is missing"
            )
    from fwk.data.text import path_not_found

    files = [
        *(arguments.text or ()),
        *(arguments.pairs or ()),
        *(arguments.dev or ()),
        *arguments.test,
    ]
    for file in files:
        if file != "-" and not os.path.isfile(file):
            raise path_not_found(file)


# -- scoring ---------------------------------------------------------------------------------------------------------


def load_scorer(arguments: argparse.Namespace, options: PlainDict) -> Scorer:
    """Load the model, and return the scorer of its --by component."""
    import torch

    from fwk.engine.ranks.joining import choose_device
    from fwk.runs.loaded import load
    from fwk.scoring.scorer import Scorer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    loaded = load(
        arguments.model,
        user_dirs=tuple(arguments.user_dir),
        average=arguments.average or None,
        checkpoint=chosen_checkpoint(arguments),
    )
    device = choose_device(arguments.device, 0)
    return Scorer(loaded, arguments.by, options, arguments.tokens, device, arguments.precision)


def open_journal(arguments: argparse.Namespace, scorer: Scorer, files: Sequence[str]) -> Journal:
    """Open the journal of --output, which resumes an interrupted command of the same identity."""
    from fwk.files import digest
    from fwk.scoring.stream import Journal, file_identity

    identity = {
        "format": 1,
        "mode": next(name for name in ("text", "pairs", "dev") if getattr(arguments, name)),
        "model": digest(scorer.loaded.folder / "manifest.json"),
        "by": scorer.by,
        "options": asdict(scorer.options),
        "files": [file_identity(file) for file in files],
        "average": arguments.average or scorer.loaded.config.train.evaluate_average,
        "precision": arguments.precision,
        "cut": arguments.cut,
        "normalise": arguments.normalise,
        "per_token": arguments.per_token,
        "tokens": arguments.tokens,
    }
    if arguments.lenient and arguments.dev:
        identity["lenient"] = True
    reads = [Path(file) for file in files if file != "-"]
    return Journal(Path(arguments.output), identity, arguments.overwrite, reads)


@contextmanager
def _discarded_on_wrong_input(journal: Journal) -> Iterator[None]:
    """Delete the journal where the input is wrong; keep it after an interrupt or a full disk, to continue from."""
    try:
        yield
    except UserError:
        journal.discard()
        raise
    except BaseException:
        journal.close()
        raise


def _record(scored: Scored, arguments: argparse.Namespace) -> PlainDict:
    """Return the JSON record of one scored text."""
    score = scored.score
    if score is not None and arguments.normalise:
        score /= len(scored.tokens)
    record: PlainDict = {"score": score, "tokens": len(scored.tokens)}
    if arguments.per_token:
        record["per_token"] = [list(pair) for pair in zip(scored.tokens, scored.log_probs)]
    return record


def _score_lines(arguments: argparse.Namespace, options: PlainDict, progress: Progress) -> None:
    """Write the score of every line of the --text files."""
    scorer = load_scorer(arguments, options)
    files = arguments.text
    sizes = [os.path.getsize(file) for file in files if file != "-"]
    progress.stage("scoring", sum(sizes) or None)
    if arguments.output is None:
        for record in _line_records(arguments, scorer, progress, 0):
            print(json_line(record))
        return

    journal = open_journal(arguments, scorer, files)
    if journal.done:
        progress.say(f"continuing after {journal.done:,} lines")
    with _discarded_on_wrong_input(journal):
        journal.write(_line_records(arguments, scorer, progress, journal.done))
    journal.finish()


def _line_records(
    arguments: argparse.Namespace, scorer: Scorer, progress: Progress, done: int
) -> Iterator[PlainDict]:
    """Yield the record of every line but the first `done`."""
    from fwk.data.text import text_lines
    from fwk.scoring.scorer import ScoredText
    from fwk.scoring.stream import score_texts

    texts = (
        ScoredText(line, file, number)
        for file in arguments.text
        for number, line in text_lines(file, progress.advance)
    )
    for text, result in score_texts(
        scorer, texts, done, cut=arguments.cut, lenient=arguments.lenient
    ):
        file = {"file": text.file} if len(arguments.text) > 1 else {}
        yield {**file, "line": text.line, **_record(result, arguments)}


def _score_texts(
    arguments: argparse.Namespace,
    scorer: Scorer,
    texts: Sequence[ScoredText],
    files: Sequence[str],
    progress: Progress,
) -> tuple[dict[str, float], Journal | None]:
    """Return the score of every text, and the journal that holds them (None without --output).

    Text that only --lenient lets pass has the score -inf.
    """
    from fwk.scoring.stream import score_texts

    progress.stage("scoring", len(texts))
    journal = open_journal(arguments, scorer, files) if arguments.output is not None else None
    done = journal.done if journal else 0
    if done:
        progress.say(f"continuing after {done:,} texts")
        progress.advance(done)

    def records() -> Iterator[PlainDict]:
        for text, result in score_texts(
            scorer,
            texts,
            done,
            window=TOGETHER,
            cut=arguments.cut,
            lenient=arguments.lenient,
        ):
            progress.advance(1)
            yield {"text": text.text, **_record(result, arguments)}

    if journal is None:
        return _by_text(records()), None
    with _discarded_on_wrong_input(journal):
        journal.write(records(), every=TOGETHER)
    return _by_text(journal.records()), journal


def _by_text(records: Iterable[PlainDict]) -> dict[str, float]:
    return {
        record["text"]: -math.inf if record["score"] is None else record["score"]
        for record in records
    }


def _score_pairs(arguments: argparse.Namespace, options: PlainDict, progress: Progress) -> None:
    """Print and write how often the good sentence of a pair is the more likely one."""
    from fwk.scoring.pairs import accuracies, describe, read_pairs

    pairs = read_pairs(arguments.pairs)  # before the model: a wrong file is found at once
    scorer = load_scorer(arguments, options)
    texts = {text.text: text for pair in pairs for text in (pair.good, pair.bad)}
    scores, journal = _score_texts(
        arguments, scorer, list(texts.values()), arguments.pairs, progress
    )

    of_pairs = [(scores[pair.good.text], scores[pair.bad.text]) for pair in pairs]
    result = accuracies(pairs, of_pairs)
    if journal is not None:
        items = [
            {"paradigm": pair.paradigm, "good": good, "bad": bad}
            for pair, (good, bad) in zip(pairs, of_pairs)
        ]
        journal.finish(_document(scorer, **result, items=items))
    if not arguments.quiet:
        print("\n".join(describe(result)))


def _rerank_lists(
    arguments: argparse.Namespace,
    options: PlainDict,
    weights: Sequence[float],
    progress: Progress,
) -> None:
    """Choose the weight of log p on each --dev file, and re-rank its --test file with it."""
    from fwk.scoring import nbest

    nbest.jiwer()  # a missing package is found before the work
    files = [*arguments.dev, *arguments.test]
    lists = {file: nbest.read_lists(file, arguments.lenient) for file in files}
    nbest.check_portions(arguments.dev, arguments.test, lists)
    scorer = load_scorer(arguments, options)
    scores, journal = _score_texts(arguments, scorer, nbest.texts_of(lists), files, progress)

    portions = []
    for number, dev in enumerate(arguments.dev):
        test = arguments.test[number] if arguments.test else None
        result = nbest.rerank(lists[dev], lists[test] if test else None, scores, weights)
        portions.append({"dev_file": dev, "test_file": test, **result})
        if not arguments.quiet:
            print("\n".join(nbest.describe(dev, test, result)))
    if journal is not None:
        journal.finish(_document(scorer, portions=portions))


def _document(scorer: Scorer, **results: Any) -> bytes:
    """Return the JSON document of --output."""
    content = {"by": scorer.by, "model": str(scorer.loaded.folder), **results}
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    sys.exit(main())
