"""One screen when a run has finished: what was learned, and what to try next.

It is shown for a criterion whose head guesses tokens (`GuessesTokens`), on a task with a tokenizer: the validation loss
beside the unigram and bigram cross-entropy of the same text, masked validation sentences filled in, the run's files and
commands that continue. The numbers are also in RUN/summary.json.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from fwk.components.registry import register
from fwk.config.spec import TrainConfig
from fwk.contracts.guesses import GuessesTokens
from fwk.contracts.hooks import hookimpl
from fwk.contracts.options import option
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data.tokenizers import Tokenizer
from fwk.engine.module import ObjectiveModule
from fwk.engine.run import Run
from fwk.errors import printable
from fwk.files import write_atomically
from fwk.hooks.baselines import text_baselines
from fwk.hooks.blanks import GUESSES, Sentence, fill_in
from fwk.hooks.examples import documents
from fwk.hooks.lines import skips
from fwk.hooks.terminal import Screen

logger = logging.getLogger(__name__)


@register("hook", "summary")
class Summary:
    """One closing screen: losses against unigram and bigram, masked sentences filled in, what to try next."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sentences: int = option(3, "masked validation sentences that are filled in", low=0)
        baseline_tokens: int = option(
            2_000_000, "training tokens that the unigram and bigram models count", low=1
        )

    listens_only = True  # a run may resume with it or without it

    def __init__(self, config: Config) -> None:
        self.config = config

    @hookimpl(trylast=True)
    def fwk_run_end(self, run: Run, status: str) -> None:
        if run.rank != 0 or status != "finished":
            return
        guessing = guessing_criterion(run.module)
        tokenizer = getattr(run.task, "tokenizer", None)
        if guessing is None or tokenizer is None or "valid" not in run.task.splits():
            return
        label, term = guessing
        summary = self.summarise(run, label, term, tokenizer)
        _write(Path(run.folder) / "summary.json", summary)

        console = Screen()
        width = max(20, min(100, console.width)) if console.is_terminal else 100
        schema = run.config.task.entry.schema
        reads_text = any(spec.name == "data" and spec.type.startswith("str") for spec in schema)
        longer = "train.patience=0" if run.out_of_patience else twice_as_long(run.config.train)
        for line in screen(summary, Path(run.folder), longer, width, reads_text):
            console.print(Text(printable(line)), soft_wrap=True)

    def summarise(self, run: Run, label: str, term: str, tokenizer: Tokenizer) -> PlainDict:
        """Return the content of summary.json.

        label: of the criterion whose head guesses tokens. term: its loss term that compares with the baselines.
        """
        vocabulary = run.task.vocabulary()
        assert vocabulary is not None  # the task has a tokenizer
        # [UNK] stands for text, so it is masked and predicted like any word
        special = [token for token in vocabulary.special if token != vocabulary.unk]
        return {
            "update": run.update,
            "skipped": run.skipped,
            "term": term,
            term: run.last_metrics.get("valid", {}).get(f"{label}/{term}"),
            **text_baselines(
                documents(run.task, "train", self.config.baseline_tokens),
                documents(run.task, "valid"),
                vocabulary.size,
                special,
            ),
            "sentences": fill_in(
                run.module, label, run.task, tokenizer, self.config.sentences, run.update
            ),
        }


def guessing_criterion(module: ObjectiveModule) -> tuple[str, str] | None:
    """Return the label of the first criterion whose head guesses tokens, and the name of that loss term."""
    for label, criterion in module.criteria.items():
        head = getattr(criterion, "head", None)
        if isinstance(head, GuessesTokens):
            return label, head.loss_term
    return None


def _write(path: Path, summary: PlainMapping) -> None:
    """Write a summary as JSON, with null for NaN. An error is logged: the run has ended, and all else is written."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in summary.items()
    }
    try:
        text = json.dumps(finite, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, text.encode())
    except OSError as error:
        logger.warning("cannot write %s: %s", path, error.strerror)


def screen(
    summary: PlainMapping, folder: Path, longer: str, width: int, reads_text: bool
) -> list[str]:
    """Return the lines of the closing screen, none wider than `width` except for paths and commands.

    longer: the settings of a longer run. reads_text: whether `task.data` may be a text file.
    """
    files = (
        "metrics.jsonl",
        "summary.json",
        "tensorboard",
        "checkpoints/latest",
        "checkpoints/best",
    )
    existing = ", ".join(file for file in files if (folder / file).exists())
    return [
        "",
        "What was learned",
        "",
        *_effect(summary, width),
        *_losses(summary, width),
        *_filled_in(summary["sentences"], width),
        "",
        f"The run is in {folder}: {existing}",
        "",
        "What to try next:",
        *_next_commands(folder, longer, reads_text),
    ]


def _effect(summary: PlainMapping, width: int) -> list[str]:
    """Return the lines that say how many updates had no effect, where there were some."""
    skipped, updates = summary.get("skipped", 0), summary.get("update", 0)
    if not skipped:
        return []
    if skipped == updates:
        return _wrapped(f"Nothing: all {updates:,} updates overflowed under fp16.", width)
    return _wrapped(f"{updates:,} updates{skips(skipped)}.", width)


def _losses(summary: PlainMapping, width: int) -> list[str]:
    """Return the table of losses: baselines, and the run."""
    best = summary["entropy"]
    rows = [
        (
            "unigram",
            summary["unigram"],
            f"knows how often each token occurs, reads nothing (at best, on this text: {best:.3f})",
        ),
        ("bigram", summary["bigram"], "reads the token before"),
    ]
    term = summary["term"]
    loss = summary[term]
    if loss is not None:
        side = "below" if best >= loss else "above"
        rows.append(("this run", loss, f"{term}, {abs(best - loss):.2f} {side} the best unigram"))
    lines = _wrapped("Nats per token of the validation text:", width)
    for name, value, description in rows:
        lines += _wrapped(f"{name:<9} {value:6.3f}   {description}", width, indent=2, hang=21)
    return lines


def _filled_in(sentences: Sequence[Sentence], width: int) -> list[str]:
    """Return the masked sentences with the model's guesses below each; '+' marks a first guess that is right."""
    if not sentences:
        return []
    title = f"Masked validation sentences, taken evenly, and the model's first {GUESSES} guesses:"
    lines = ["", *_wrapped(title, width)]
    for sentence in sentences:
        lines += _wrapped(sentence["text"], width, indent=2)
        widest = max(len(blank["original"]) for blank in sentence["blanks"])
        for number, blank in enumerate(sentence["blanks"], start=1):
            guesses = ", ".join(f"{token} {percent(share)}" for token, share in blank["guesses"])
            right = "+" if blank["guesses"][0][0] == blank["original"] else " "
            line = f"{right} [{number}] {blank['original']:<{widest}}  {guesses}"
            lines += _wrapped(line, width, indent=4, hang=6)
    return lines


def twice_as_long(train: TrainConfig) -> str:
    """Return the settings that double every limit of a run, which ends at the first one."""
    limits = {name: getattr(train, name) for name in ("updates", "epochs", "tokens", "minutes")}
    return " ".join(
        f"train.{name}={2 * limit}" for name, limit in limits.items() if limit is not None
    )


def _next_commands(folder: Path, longer: str, reads_text: bool) -> list[str]:
    """Return commands that continue, of those that this run supports."""
    run, config = shlex.quote(str(folder)), shlex.quote(str(folder / "config.yaml"))
    another = shlex.quote(f"{folder}-mine")
    curves = shlex.quote(str(folder / "tensorboard"))
    train = f"{command('fwk-train')} --config {config}"
    lines = [f"  {train} --run {run} {longer}   # continue from this state"]
    if reads_text:
        lines.append(f"  {train} --run {another} task.data=FILE.txt   # the same on your text")
    if (folder / "tensorboard").exists():
        lines.append(f"  {command('tensorboard')} --logdir {curves}   # the curves")
    return lines


def percent(share: float) -> str:
    """Return a share in per cent."""
    return f"{share:.0%}" if share > 0.005 else "<1%"  # 0.5% itself rounds to 0%


def command(name: str) -> str:
    """Return how to call a command of this environment: its name if it is on PATH, else its path."""
    path = Path(sys.executable).parent / name
    if shutil.which(name) or not path.exists():
        return name
    return shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


def _wrapped(text: str, width: int, indent: int = 0, hang: int | None = None) -> list[str]:
    """Return text as lines. indent: columns before the first line; hang: before all others (default: as the first)."""
    hang = min(indent if hang is None else hang, width // 2)
    return textwrap.wrap(
        " " * indent + text,
        max(20, width),
        subsequent_indent=" " * hang,
        replace_whitespace=False,
        drop_whitespace=True,
        break_on_hyphens=False,
    )
