"""Rules for noisers. A static noiser is called by itself; a learned one keeps the rules of criteria."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fwk.components.registry import registry
from fwk.config.resolve import build as build_config
from fwk.contracts.context import BuildContext
from fwk.contracts.keyed import Key
from fwk.contracts.noiser import LearnedNoiser, Noiser
from fwk.contracts.plain import PlainMapping
from fwk.contracts.views import View
from fwk.engine.feed.joined import JoinedViews
from fwk.testing.config import TINY, TINY_ENCODER, tiny_config
from fwk.testing.criteria import CRITERION_RULES
from fwk.testing.subject import Rule, Subject

EXAMPLES = 24


def _noise(name: str, options: PlainMapping, rows: slice = slice(None)) -> tuple[View, View]:
    """Return a view of `rows` of the first 24 examples, and what the noiser makes of it."""
    config = tiny_config()
    task = config.task.cls(config.task.config, 1)
    source = task.sources("train")["a"]
    draws = np.arange(EXAMPLES)[rows]
    examples = [source[i] for i in draws]
    batch = task.collate(examples, draws, np.zeros(len(draws), dtype=np.int64))

    cls = registry.get("noiser", name).cls
    build = BuildContext(name="view", vocabulary=task.vocabulary())
    noiser = cls(build_config(cls, options), build)
    view = View.from_batch(batch)
    return view, noiser.apply(view, Key(1, "view", view.draws))


def _equal(a: View, b: View) -> bool:
    left, right = _tensors(a), _tensors(b)
    return len(left) == len(right) and all(map(torch.equal, left, right))


def _tensors(view: View) -> list[Tensor]:
    optional = (view.target, view.positions, view.valid, view.changed, view.mask)
    return [*view.inputs.values(), *(tensor for tensor in optional if tensor is not None)]


def noiser_is_repeatable(name: str, options: PlainMapping) -> str:
    """Check that the same key gives the same view."""
    if _equal(_noise(name, options)[1], _noise(name, options)[1]):
        return ""
    return "two calls with one key differ"


def noiser_ignores_the_batch(name: str, options: PlainMapping) -> str:
    """Check that an example's noise does not depend on the other examples of the batch."""
    rows = slice(5, 13)
    whole, part = _noise(name, options)[1], _noise(name, options, rows)[1]
    for batch, alone in zip(_tensors(whole), _tensors(part)):
        # a smaller batch may be narrower, and is not comparable then
        if batch.shape[1:] == alone.shape[1:] and not torch.equal(batch[rows], alone):
            return "rows 5 to 12 differ when they are noised alone"
    return ""


def noiser_keeps_rows_apart(name: str, options: PlainMapping) -> str:
    """Check that a noiser that declares `by_row` noises micro-batches together as it noises each alone."""
    cls: type[Noiser] = registry.get("noiser", name).cls
    if not cls.by_row:
        return ""
    cuts = (slice(0, 5), slice(5, 6), slice(6, EXAMPLES))
    numbers = [np.arange(EXAMPLES)[rows] for rows in cuts]
    joined = JoinedViews.joining({"view": _noise(name, options)[1]}, numbers)

    for rows, views in zip(cuts, joined):
        if not _equal(views["view"], _noise(name, options, rows)[1]):
            return (
                f"rows {rows.start} to {rows.stop - 1} differ when they are noised alone; "
                "set by_row = False"
            )
    return ""


def noiser_keeps_its_source(name: str, options: PlainMapping) -> str:
    """Check that the source view is not modified."""
    clean, _ = _noise("identity", {})
    source, _ = _noise(name, options)
    return "" if _equal(clean, source) else "the source was changed in place"


def noiser_keeps_special_tokens(name: str, options: PlainMapping) -> str:
    """Check that [CLS], [SEP] and padding are unchanged, where the view has the source's shape."""
    source, view = _noise(name, options)
    if view.tokens.shape != source.tokens.shape:
        return ""
    assert source.special is not None and source.mask is not None  # as `View.from_batch` sets them
    fixed = source.special | ~source.mask
    if torch.equal(view.tokens[fixed], source.tokens[fixed]):
        return ""
    return "special tokens or padding were changed"


def noiser_keeps_to_the_vocabulary(name: str, options: PlainMapping) -> str:
    """Check that every token id of the view belongs to the vocabulary."""
    _, view = _noise(name, options)
    if "tokens" not in view.inputs:
        return ""
    low, high = int(view.tokens.min()), int(view.tokens.max())
    size = TINY["task"]["vocabulary"]
    if low >= 0 and high < size:
        return ""
    return f"the view has token ids from {low} to {high}, and the vocabulary those from 0 to {size - 1}"


NOISER_RULES: dict[str, Callable[[str, PlainMapping], str]] = {
    "repeatable": noiser_is_repeatable,
    "independent of the batch": noiser_ignores_the_batch,
    "rows apart": noiser_keeps_rows_apart,
    "source untouched": noiser_keeps_its_source,
    "special tokens untouched": noiser_keeps_special_tokens,
    "ids of the vocabulary": noiser_keeps_to_the_vocabulary,
}


def noiser_rules(subject: Subject) -> dict[str, Rule]:
    """Return the rules for a noiser; a learned one makes the view that a masked LM reads."""
    if not issubclass(subject.cls, LearnedNoiser):
        return {
            name: partial(rule, subject.name, subject.options)
            for name, rule in NOISER_RULES.items()
        }
    network = {**TINY_ENCODER, "layers": 1}
    noised = {"noiser": subject.name, "of": "masked", "network": network, **subject.options}
    settings = {
        "criterion": {"masked_lm": {"view": "noised"}},
        "views": {"masked": {"noiser": "bert_mask"}, "noised": noised},
    }
    return subject.rules(CRITERION_RULES, settings)
