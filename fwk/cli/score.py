"""`fwk-score`: (pseudo-)log-likelihoods of lines, minimal pairs and n-best lists."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fwk.cli.common import Parser, add_model, disk_errors, run_command
from fwk.errors import ConfigError, UserError

NAME = "fwk-score"
_EPILOG = """\
examples:
  fwk-score runs/electric --text corpus.txt.gz --output scores.jsonl
  fwk-score runs/bert --pairs blimp.jsonl
  fwk-score runs/electra-tt --dev clean.json other.json --test clean-test.json other-test.json --set estimate=exact

Scores are sums over tokens in nats, [CLS] and [SEP] left out. With --output an interrupted command goes on where it was
when it is given again. Exit status: 0 done, 2 the input was wrong, 1 something else failed."""


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog=NAME,
        description="Say how likely text is under a trained model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_model(p)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        help="text, one piece per line (.gz, .xz, .zst; - for standard input); "
        "writes one JSON object per line",
    )
    what.add_argument(
        "--pairs",
        nargs="+",
        metavar="FILE",
        help="JSON lines with sentence_good and sentence_bad, as BLiMP's: the "
        "share of pairs whose good sentence is likelier",
    )
    what.add_argument(
        "--dev",
        nargs="+",
        metavar="FILE",
        help="n-best lists with references, to choose the weight of log p on",
    )
    p.add_argument(
        "--test",
        nargs="+",
        metavar="FILE",
        default=[],
        help="n-best lists to re-rank with that weight, one for each dev file",
    )
    p.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        help="write scores (--text: JSON lines; else one JSON object) here",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output file")
    p.add_argument(
        "--by",
        metavar="NAME",
        help="the criterion that says how likely a token is, or the view whose noiser does "
        "(default: the only one)",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of its scoring, as in estimate=exact",
    )
    p.add_argument(
        "--per-token", action="store_true", help="with --text: every token with its log p"
    )
    p.add_argument("--normalise", action="store_true", help="divide scores by the number of tokens")
    p.add_argument(
        "--weights",
        default="0.05:1.0:0.05",
        metavar="FROM:TO:STEP",
        help="with --dev: the weights that are tried (default: 0.05:1.0:0.05)",
    )
    p.add_argument(
        "--cut",
        action="store_true",
        help="cut text that is longer than the model reads (default: refuse it)",
    )
    p.add_argument(
        "--lenient",
        action="store_true",
        help="with --text: score null for empty and too long text (default: refuse it)",
    )
    p.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 (default: auto)"
    )
    p.add_argument(
        "--precision", default="fp32", choices=("fp32", "bf16", "fp16"), help="(default: fp32)"
    )
    p.add_argument(
        "--tokens",
        type=int,
        default=16384,
        metavar="N",
        help="tokens in one call of the encoder (default: 16384)",
    )
    p.add_argument(
        "--threads", type=int, metavar="N", help="threads of torch (default: its own choice)"
    )
    p.add_argument("--quiet", action="store_true", help="no progress, no tables")
    return p


def run(a: argparse.Namespace) -> None:
    weights = _weights(a.weights)
    settings = _settings(a.set)
    if a.tokens < 1:
        raise ConfigError("--tokens", f"expected at least 1, got {a.tokens}")
    if a.threads is not None and not 1 <= a.threads <= 1024:
        raise ConfigError("--threads", f"expected from 1 to 1024, got {a.threads}")
    for flag, only in (("test", "dev"), ("per_token", "text"), ("lenient", "text")):
        if getattr(a, flag) and not getattr(a, only):
            raise ConfigError(
                f"--{flag.replace('_', '-')}", f"belongs to --{only}, which is not given"
            )
    from fwk.data.text import path_not_found

    for file in [*(a.text or ()), *(a.pairs or ()), *(a.dev or ()), *a.test]:
        if file != "-" and not os.path.isfile(file):
            raise path_not_found(file)
    from fwk.data.progress import Progress

    with Progress(a.quiet) as progress:
        if a.text:
            _lines(a, settings, progress)
        elif a.pairs:
            _pairs(a, settings, progress)
        else:
            _lists(a, settings, weights, progress)


def _weights(text: str) -> list[float]:
    try:
        low, high, step = map(float, text.split(":"))
        if not (0 <= low <= high < 1e6 and 0 < step and (high - low) / step < 10_000):
            raise ValueError
    except ValueError:
        raise ConfigError(
            "--weights", f"expected FROM:TO:STEP, as in 0.05:1.0:0.05, got '{text}'"
        ) from None
    return [round(low + number * step, 10) for number in range(int((high - low) / step + 1e-6) + 1)]


def _settings(said: Sequence[str]) -> dict[str, Any]:
    from fwk.config.yaml_text import scalar

    found = {}
    for entry in said:
        key, equals, text = entry.partition("=")
        if not equals or not key:
            raise ConfigError("--set", f"expected KEY=VALUE, got '{entry}'")
        found[key] = scalar(text)
    return found


def _scorer(a: argparse.Namespace, settings: dict[str, Any]) -> Any:
    import torch

    from fwk.engine.ranks.joining import choose_device
    from fwk.runs.loaded import load
    from fwk.scoring.scorer import Scorer

    if a.threads:
        torch.set_num_threads(a.threads)
    return Scorer(
        load(a.model, user_dirs=tuple(a.user_dir), average=a.average or None),
        a.by,
        settings,
        a.tokens,
        choose_device(a.device, 0),
        a.precision,
    )


def _identity(a: argparse.Namespace, scorer: Any, files: Sequence[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from fwk.files import digest
    from fwk.scoring.stream import file_identity

    mode = next(name for name in ("text", "pairs", "dev") if getattr(a, name))
    return {
        "format": 1,
        "mode": mode,
        "model": digest(scorer.loaded.folder / "manifest.json"),
        "by": scorer.by,
        "options": asdict(scorer.options),
        "files": [file_identity(file) for file in files],
        "average": a.average or scorer.loaded.config.train.evaluate_average,
        "precision": a.precision,
        "cut": a.cut,
        "normalise": a.normalise,
        "per_token": a.per_token,
        "tokens": a.tokens,
    }


def _lines(a: argparse.Namespace, settings: dict[str, Any], progress: Any) -> None:
    from fwk.data.text import numbered_lines
    from fwk.scoring.scorer import ScoredText
    from fwk.scoring.stream import Journal, scored

    scorer = _scorer(a, settings)

    def records(done: int) -> Iterator[dict[str, Any]]:
        texts = (
            ScoredText(line, file, number)
            for file in a.text
            for number, line in numbered_lines(file, progress.advance)
        )
        for text, one in scored(scorer, texts, done, cut=a.cut, lenient=a.lenient):
            yield {
                **({"file": text.file} if len(a.text) > 1 else {}),
                "line": text.line,
                **_record(one, a),
            }

    progress.stage("scoring", sum(os.path.getsize(file) for file in a.text if file != "-") or None)
    if a.output is None:
        for record in records(0):
            print(json.dumps(record, ensure_ascii=False))
        return
    journal = Journal(Path(a.output), _identity(a, scorer, a.text), a.overwrite)
    if journal.done:
        progress.say(f"going on after {journal.done:,} lines")
    with _nothing_half_written(journal):
        journal.write(records(journal.done))
    journal.finish()


@contextmanager
def _nothing_half_written(journal: Any) -> Iterator[None]:
    """Input that is wrong leaves nothing behind; an interrupt or a full disk leaves what there is to go on from."""
    try:
        yield
    except UserError:
        journal.discard()
        raise


def _record(one: Any, a: argparse.Namespace) -> dict[str, Any]:
    score = one.score
    if score is not None and a.normalise:
        score /= len(one.tokens)
    tokens = (
        {"per_token": [list(pair) for pair in zip(one.tokens, one.log_probs)]}
        if a.per_token
        else {}
    )
    return {"score": score, "tokens": len(one.tokens), **tokens}


def _scores(
    a: argparse.Namespace, scorer: Any, texts: Sequence[Any], files: Sequence[str], progress: Any
) -> tuple[dict, Any]:
    """Score by text, and the journal that they are in (None without --output)."""
    from fwk.scoring.stream import Journal, scored

    progress.stage("scoring", len(texts))
    journal = (
        Journal(Path(a.output), _identity(a, scorer, files), a.overwrite)
        if a.output is not None
        else None
    )
    done = journal.done if journal else 0
    if done:
        progress.say(f"going on after {done:,} texts")
        progress.advance(done)

    def records() -> Iterator[dict[str, Any]]:
        for text, one in scored(scorer, texts, done, window=512, cut=a.cut):
            progress.advance(1)
            yield {"text": text.text, **_record(one, a)}

    if journal is None:
        return {record["text"]: record["score"] for record in records()}, None
    with _nothing_half_written(journal):
        journal.write(records(), every=512)
    return {record["text"]: record["score"] for record in journal.records()}, journal


def _pairs(a: argparse.Namespace, settings: dict[str, Any], progress: Any) -> None:
    from fwk.scoring.pairs import accuracies, read_pairs, shown

    pairs = read_pairs(a.pairs)
    scorer = _scorer(a, settings)
    texts = {text.text: text for pair in pairs for text in (pair.good, pair.bad)}
    scores, journal = _scores(a, scorer, list(texts.values()), a.pairs, progress)
    both = [(scores[pair.good.text], scores[pair.bad.text]) for pair in pairs]
    about = accuracies(pairs, both)
    if journal is not None:
        items = [
            {"paradigm": pair.paradigm, "good": good, "bad": bad}
            for pair, (good, bad) in zip(pairs, both)
        ]
        journal.finish(
            _document(
                {"by": scorer.by, "model": str(scorer.loaded.folder), **about, "items": items}
            )
        )
    if not a.quiet:
        print("\n".join(shown(about)))


def _lists(
    a: argparse.Namespace, settings: dict[str, Any], weights: Sequence[float], progress: Any
) -> None:
    from fwk.scoring import nbest

    nbest.jiwer()  # before the work, not after it
    files = [*a.dev, *a.test]
    lists = {file: nbest.read_lists(file) for file in files}
    nbest.check_portions(a.dev, a.test, lists)
    scorer = _scorer(a, settings)
    scores, journal = _scores(a, scorer, nbest.texts_of(lists), files, progress)
    portions = []
    for number, dev in enumerate(a.dev):
        test = a.test[number] if a.test else None
        made = nbest.rerank(lists[dev], lists[test] if test else None, scores, weights)
        portions.append({"dev_file": dev, "test_file": test, **made})
        if not a.quiet:
            print("\n".join(nbest.shown(dev, test, made)))
    if journal is not None:
        journal.finish(
            _document({"by": scorer.by, "model": str(scorer.loaded.folder), "portions": portions})
        )


def _document(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 something failed, 2 the input was wrong, 130 interrupted."""
    return run_command(NAME, _main, argv)


def _main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    try:
        with disk_errors():
            run(arguments)
    except KeyboardInterrupt:
        again = arguments.output and "-" not in (arguments.text or ())
        print(
            f"{NAME}: interrupted" + ("; give the same command again to go on" if again else ""),
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
