"""Masked sentences of the validation split, filled in by the model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, TypedDict

import torch
from torch import Tensor

from fwk.contracts.guesses import GuessesTokens
from fwk.contracts.task import Task
from fwk.contracts.views import Batch, View
from fwk.data.tokenizers import Tokenizer
from fwk.engine.module import ObjectiveModule
from fwk.engine.update import Update
from fwk.hooks.examples import evenly_spread

WINDOW = 24  # most tokens of a sentence that are shown
BLANKS = 3  # most blanks of a sentence that are shown
GUESSES = 3  # guesses per blank
_TRIES = 8  # examples per sentence, because some have no mask near their start


class Blank(TypedDict):
    """A masked token, and what the model guesses."""

    original: str
    guesses: list[tuple[str, float]]  # token and probability, the likeliest first


class Sentence(TypedDict):
    """A sentence with numbered blanks."""

    text: str
    blanks: list[Blank]


def fill_in(
    module: ObjectiveModule,
    label: str,
    task: Task[Any],
    tokenizer: Tokenizer,
    count: int,
    update: int = 0,
) -> list[Sentence]:
    """Return `count` sentences of evenly spread validation examples, as the criterion's first view masks them.

    label: of a criterion whose head guesses tokens. Examples without a mask near their start are left out.
    """
    batch = evenly_spread(task, "valid", _TRIES * count)
    views = (name for name in module.parts[label].roots if name in module.plan.static)
    name = next(views, None)
    if batch is None or name is None:
        return []
    view, probabilities = _guess(module, label, name, batch, update)
    if probabilities is None:
        return []
    rows = (_sentence(view, row, probabilities[row], tokenizer) for row in range(len(view)))
    sentences = (sentence for sentence in rows if sentence is not None)
    return list(islice(sentences, count))


@torch.no_grad()
def _guess(
    module: ObjectiveModule, label: str, name: str, batch: Batch, update: int
) -> tuple[View, Tensor | None]:
    """Return the view of a batch, and the probability of each token at its chosen positions, [B, K, V].

    The latter is None where the view has no chosen positions.
    """
    head = module.criteria[label].head
    assert isinstance(head, GuessesTokens)
    was_training = module.training
    module.eval()
    try:
        facts = Update(number=update, split="valid")
        static = module.static_of_this_phase(batch, facts.split)
        view = module.begin(static, 0, facts).views[name]
        if view.positions is None or view.target is None:
            return view, None
        features = module.encoding.encode([view], module.specs[name].encoder)[
            0
        ].features  # [B, T, D]
        return view, head.token_probabilities(view.at_positions(features))
    finally:
        module.train(was_training)


def _sentence(view: View, row: int, probabilities: Tensor, tokenizer: Tokenizer) -> Sentence | None:
    """Return one row of a view as a sentence; None where no blank lies near its start.

    probabilities: of each token at the chosen positions, [K, V].
    """
    tokens, target = view.tokens[row].tolist(), view.target[row].tolist()
    length = len(tokens) if view.mask is None else int(view.mask[row].sum())
    blanks = sorted(
        (position, slot)
        for slot, position in enumerate(view.positions[row].tolist())
        if view.valid[row, slot] and tokens[position] == tokenizer.mask
    )
    # the sentence ends before the first blank that is not shown
    end = min([WINDOW, length, *(position for position, _ in blanks[BLANKS:])])
    blanks = [(position, slot) for position, slot in blanks if position < end]
    if not blanks:
        return None
    return {
        "text": with_blanks(tokens[:end], tokenizer) + (" ..." if length > end else ""),
        "blanks": [
            {
                "original": readable(tokenizer, target[position]),
                "guesses": _best(probabilities[slot], tokenizer),
            }
            for position, slot in blanks
        ],
    }


def _best(probabilities: Tensor, tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """Return the likeliest tokens and their probabilities: probabilities [V]."""
    best, ids = probabilities.topk(GUESSES)
    return [
        (readable(tokenizer, int(token)), round(float(probability), 4))
        for token, probability in zip(ids, best, strict=True)
    ]


def with_blanks(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return the text of ids with numbered blanks in place of the masks."""
    parts: list[str] = []
    ordinary: list[int] = []  # ids since the last mask
    blanks = 0
    for token in ids:
        if token != tokenizer.mask:
            ordinary.append(token)
            continue
        blanks += 1
        parts += [tokenizer.decode(ordinary), f"[{blanks}]"]
        ordinary = []
    parts.append(tokenizer.decode(ordinary))
    return " ".join(part.strip() for part in parts if part.strip())


def readable(tokenizer: Tokenizer, token: int) -> str:
    """Return a token without the marks of its library; '-ing' for a piece that continues a word."""
    piece = tokenizer.token(token)
    if piece.startswith("##"):
        return "-" + piece[2:]
    if piece[:1] in ("▁", "Ġ"):
        return piece[1:] or "' '"
    continues = tokenizer.kind == "sentencepiece" and piece.isalnum()
    return f"-{piece}" if continues else piece
