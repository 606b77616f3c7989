"""One screen when a run has finished: what was learned. For runs with a masked-LM head on a task with a tokenizer.

It says the validation masked-LM loss beside the unigram and bigram cross-entropy of the same text, fills in a few
masked validation sentences, says where the run lies and what to try next. The numbers are also in RUN/summary.json.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.text import Text

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.options import option
from fwk.contracts.task import Task
from fwk.contracts.views import Batch
from fwk.engine.module import ObjectiveModule
from fwk.engine.update import Update
from fwk.hooks.baselines import text_baselines
from fwk.hooks.terminal import Screen
from fwk.nn.masked_lm_head import MaskedLMHead

WINDOW, BLANKS = 24, 3  # tokens and blanks of a sentence that are shown at most
GUESSES = 3


@register("hook", "summary")
class Summary:
    """One closing screen: losses against unigram and bigram, masked sentences filled in, what to try next."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        sentences: int = option(3, "masked validation sentences that are filled in", low=0)
        baseline_tokens: int = option(
            2_000_000, "training tokens that the unigram and bigram models count", low=1
        )

    listens_only = True  # a run is the same run with and without it

    def __init__(self, config: Any):
        self.config = config

    @hookimpl(trylast=True)
    def fwk_run_end(self, run: Any, status: str) -> None:
        if run.rank != 0 or status != "finished":
            return
        label = masked_lm_label(run.module)
        tokenizer = getattr(run.task, "tokenizer", None)
        if label is None or tokenizer is None or "valid" not in run.task.splits():
            return
        vocabulary = run.task.vocabulary()
        loss = masked_lm_loss(run.last_metrics.get("valid", {}), label)
        found: dict[str, Any] = {"update": run.update, "masked_lm": loss}
        found |= text_baselines(
            documents(run.task, "train", self.config.baseline_tokens),
            documents(run.task, "valid"),
            vocabulary.size,
            [
                token for token in vocabulary.special if token != vocabulary.unk
            ],  # [UNK] stands for text: it is masked
        )
        found["sentences"] = fill_in(
            run.module, label, run.task, tokenizer, self.config.sentences, run.update
        )
        text = (
            json.dumps(
                {key: _finite(value) for key, value in found.items()}, indent=2, ensure_ascii=False
            )
            + "\n"
        )
        try:
            (Path(run.folder) / "summary.json").write_text(text, encoding="utf-8")
        except OSError as error:  # the run has ended well, and all else is written
            warnings.warn(f"cannot write summary.json: {error.strerror}", stacklevel=2)
        console = Screen()
        width = max(20, min(100, console.width)) if console.is_terminal else 100
        for line in screen(found, Path(run.folder), run.total_updates, width):
            console.print(Text(line), soft_wrap=True)


def masked_lm_label(module: ObjectiveModule) -> str | None:
    """The first criterion that has a masked-LM head."""
    for label, criterion in module.criteria.items():
        if isinstance(getattr(criterion, "head", None), MaskedLMHead):
            return label
    return None


def masked_lm_loss(metrics: Mapping[str, float], label: str) -> float | None:
    """The mean masked-LM loss of an evaluation, in nats per predicted token; None when it has none of that name."""
    return metrics.get(f"{label}/masked_lm")


def documents(task: Task, split: str, limit: float = math.inf) -> Iterator[np.ndarray]:
    """Token ids [T] of each example of a split, padding left out, up to `limit` tokens."""
    for batch in _batches(task, split, 256):
        for row, mask in zip(batch.tokens.numpy(), _content(batch).numpy(), strict=True):
            if limit <= 0:
                return
            yield row[mask]
            limit -= int(mask.sum())


def _batches(task: Task, split: str, size: int) -> Iterator[Batch]:
    names = task.source_names()
    for name, source in task.sources(split).items():
        number = names.index(name)
        for start in range(0, len(source), size):
            yield _collated(task, source, number, range(start, min(len(source), start + size)))


def _collated(task: Task, source: Any, number: int, indices: Sequence[int]) -> Batch:
    return task.collate(
        [source[index] for index in indices],
        np.asarray(indices, dtype=np.int64),
        np.full(len(indices), number, dtype=np.int64),
    )


def _content(batch: Batch) -> torch.Tensor:
    return torch.ones_like(batch.tokens, dtype=torch.bool) if batch.mask is None else batch.mask


@torch.no_grad()
def fill_in(
    module: ObjectiveModule, label: str, task: Task, tokenizer: Any, count: int, update: int = 0
) -> list[dict[str, Any]]:
    """The first `count` of evenly spread validation examples that have a mask near their start, as the criterion's
    first view masks them: {"text", "blanks": [{"original", "guesses": [[token, probability], ...]}, ...]}."""
    first, source = next(iter(task.sources("valid").items()))
    if not count or not len(source):
        return []
    spread = np.unique(np.linspace(0, len(source) - 1, 8 * count).astype(np.int64))
    batch = _collated(
        task, source, task.source_names().index(first), [int(index) for index in spread]
    )
    name = next((name for name in module.parts[label].roots if name in module.plan.static), None)
    if name is None:
        return []
    was_training = module.training
    module.eval()
    try:
        facts = Update(number=update, split="valid")
        static = module.static_of_this_phase(batch, facts.split)
        view = module.begin(static, 0, facts).views[name]
        features = module.encoding.encode([view], module.specs[name].encoder)[0].features
        chances = (
            module.criteria[label].head(view.at_positions(features)).float().softmax(-1)
        )  # [B, K, V]
    finally:
        module.train(was_training)
    likely, ids = chances.topk(GUESSES, -1)  # [B, K, GUESSES]

    found = []
    for row in range(len(view)):
        tokens, target = view.tokens[row].tolist(), view.target[row].tolist()
        length = len(tokens) if view.mask is None else int(view.mask[row].sum())
        blanks = sorted(
            (position, slot)
            for slot, position in enumerate(view.positions[row].tolist())
            if view.valid[row, slot] and tokens[position] == tokenizer.mask
        )
        shown = tokens[: min([WINDOW, length, *(position for position, _ in blanks[BLANKS:])])]
        blanks = [(position, slot) for position, slot in blanks if position < len(shown)]
        if not blanks or len(found) == count:
            continue
        found.append(
            {
                "text": sentence(shown, tokenizer) + (" ..." if length > len(shown) else ""),
                "blanks": [
                    {
                        "original": readable(tokenizer, target[position]),
                        "guesses": [
                            [readable(tokenizer, int(token)), round(float(chance), 4)]
                            for token, chance in zip(ids[row, slot], likely[row, slot], strict=True)
                        ],
                    }
                    for position, slot in blanks
                ],
            }
        )
    return found


def sentence(ids: Sequence[int], tokenizer: Any) -> str:
    """Text of `ids` with numbered blanks where the masks are."""
    parts, run, blanks = [], [], 0
    for token in ids:
        if token != tokenizer.mask:
            run.append(token)
            continue
        blanks += 1
        parts += [tokenizer.decode(run), f"[{blanks}]"]
        run = []
    return " ".join(part.strip() for part in [*parts, tokenizer.decode(run)] if part.strip())


def readable(tokenizer: Any, token: int) -> str:
    """A token without its library's marks; '-ing' for a piece that continues a word."""
    raw = tokenizer.token(token)
    if raw.startswith("##"):
        return "-" + raw[2:]
    if raw[:1] in ("▁", "Ġ"):
        return raw[1:] or "' '"
    continues = tokenizer.kind == "sentencepiece" and raw.isalnum()
    return f"-{raw}" if continues else raw


def percent(share: float) -> str:
    return f"{share:.0%}" if share > 0.005 else "<1%"  # 0.5% itself rounds to 0%


def screen(found: Mapping[str, Any], folder: Path, total: int | None, width: int) -> list[str]:
    """The lines of the closing screen, none wider than `width` unless a path or a command is."""
    lines = ["", "What was learned", "", *_wrapped("Nats per token of the validation text:", width)]
    rows = [
        (
            "unigram",
            found["unigram"],
            f"knows how often each token occurs, reads nothing (at best, on this text: {found['entropy']:.3f})",
        ),
        ("bigram", found["bigram"], "reads the token before"),
    ]
    loss = found["masked_lm"]
    if loss is not None:
        gain = found["entropy"] - loss
        side = "below" if gain >= 0 else "above"
        rows.append(("this run", loss, f"masked LM, {abs(gain):.2f} {side} the best unigram"))
    for name, value, what in rows:
        lines += _wrapped(f"{name:<9} {value:6.3f}   {what}", width, indent=2, hang=21)
    if found["sentences"]:
        title = (
            f"Masked validation sentences, taken evenly, and the model's first {GUESSES} guesses:"
        )
        lines += ["", *_wrapped(title, width)]
    for entry in found["sentences"]:
        lines += _wrapped(entry["text"], width, indent=2)
        widest = max(len(blank["original"]) for blank in entry["blanks"])
        for number, blank in enumerate(entry["blanks"], start=1):
            guesses = ", ".join(f"{token} {percent(chance)}" for token, chance in blank["guesses"])
            hit = "+" if blank["guesses"][0][0] == blank["original"] else " "
            lines += _wrapped(
                f"{hit} [{number}] {blank['original']:<{widest}}  {guesses}",
                width,
                indent=4,
                hang=6,
            )
    run, config = shlex.quote(str(folder)), shlex.quote(str(folder / "config.yaml"))
    another = shlex.quote(f"{folder}-mine")
    longer = f" train.updates={2 * total}" if total else ""
    return [
        *lines,
        "",
        f"The run is in {folder}: metrics.jsonl, summary.json, tensorboard/, checkpoints/best",
        "",
        "What to try next:",
        f"  {command('fwk-train')} --config {config} --run {run}{longer}   # go on from where it stands",
        f"  {command('fwk-train')} --config {config} --run {another} task.data=FILE.txt   # the same on your text",
        f"  {command('tensorboard')} --logdir {shlex.quote(str(folder / 'tensorboard'))}   # the curves",
    ]


def command(name: str) -> str:
    """How a command of this environment is called from where we are: by its path where it is not on PATH."""
    beside = Path(sys.executable).parent / name
    if shutil.which(name) or not beside.exists():
        return name
    return shlex.quote(
        os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    )


def _wrapped(text: str, width: int, indent: int = 0, hang: int | None = None) -> list[str]:
    hang = min(indent if hang is None else hang, width // 2)
    return textwrap.wrap(
        " " * indent + text,
        max(20, width),
        subsequent_indent=" " * hang,
        replace_whitespace=False,
        drop_whitespace=True,
        break_on_hyphens=False,
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
