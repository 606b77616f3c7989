"""Sequence tagging by cross-view training (Clark et al. 2018, section 3.2).

    p(y_t | x)        = softmax(U ReLU(W [h1_t ; h2_t]) + b)                                       the primary module
    p_forward(y_t)    reads h1>_t        p_backward(y_t) reads h1<_t        up to the word, and from the word on
    p_future(y_t)     reads h1>_{t-1}    p_past(y_t)     reads h1<_{t+1}    everything before the word, and after it
    p_full(y_t)       reads [h1_t ; h2_t] under the student's dropout

h1, h2 are the states of the encoder's two layers, [h1 ; h2] its features; beyond the edges of a sentence a state is
zero. The losses are those of `cross_view.py`; the supervised loss has label smoothing. Where the values are BIOES
tags, evaluation scores spans: precision, recall and F1. A gold tag that training never saw counts as wrong in the
accuracy, and as a missed span there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, View, option, register
from fwk_plugins.cvt.corpora.label_spaces import ABSENT, UNSEEN
from fwk_plugins.cvt.corpora.tags import Span, spans_of
from fwk_plugins.cvt.criteria.checks import check_kind, check_modules, check_states
from fwk_plugins.cvt.criteria.cross_view import CrossView
from fwk_plugins.cvt.scoring.scores import span_counts, span_scores, token_counts, token_scores

# auxiliary module -> the states it reads (empty: the features), and by how many words they are shifted to the right
MODULES: dict[str, tuple[tuple[str, ...], int]] = {
    "forward": (("forward_1",), 0),
    "backward": (("backward_1",), 0),
    "future": (("forward_1",), 1),
    "past": (("backward_1",), -1),
    "full": ((), 0),
}


def shifted(states: Tensor, by: int) -> Tensor:
    """Return [B, T, D] moved by some words to the right (to the left if negative), with zeros at the edge."""
    return F.pad(states, (0, 0, by, -by)) if by else states


class TagModule(nn.Module):
    """A prediction module: states [B, T, D] -> logits [B, T, C]."""

    def __init__(
        self, width: int, hidden: int, values: int, reads: tuple[str, ...] = (), shift: int = 0
    ) -> None:
        """Build the layers. reads: names of encoder states, empty for the features. shift: see `MODULES`."""
        super().__init__()
        self.reads, self.shift = reads, shift
        self.hidden, self.output = nn.Linear(width, hidden), nn.Linear(hidden, values)

    def forward(self, view: View) -> Tensor:
        states = view.encoded.features
        if self.reads:
            states = torch.cat([view.encoded.states[name] for name in self.reads], -1)
        if self.shift < 0 and view.mask is not None:
            # the last word must read zeros, not padding
            states = states.masked_fill(~view.mask[..., None], 0.0)
        return self.output(F.relu(self.hidden(shifted(states, self.shift))))


def span_types(values: Sequence[str]) -> tuple[str, ...]:
    """Return the types of spans, sorted, if all values are BIOES tags; otherwise none."""
    kinds = {value[2:] for value in values if value != "O"}
    tags = {f"{prefix}-{kind}" for prefix in "BIES" for kind in kinds} | {"O"}
    are_tags = "O" in values and kinds and set(values) <= tags
    return tuple(sorted(kinds)) if are_tags else ()


@register("criterion", "cvt_tagging")
class CvtTagging(CrossView["CvtTagging.Config"]):
    """A tagger, and auxiliary modules on parts of the sentence that imitate it where labels are missing."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossView.Config):
        module_names: ClassVar[tuple[str, ...]] = tuple(MODULES)
        label: str = option("label", "the label that is predicted, one value per word")
        modules: tuple[str, ...] = option(
            tuple(MODULES), f"auxiliary modules: {', '.join(MODULES)}"
        )
        smoothing: float = option(
            0.1, "label smoothing of the supervised loss (CVT: 0.1)", low=0, high=1
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            check_modules(self)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.values = build.labels[config.label]
        self.types, self.smoothing = span_types(self.values), config.smoothing
        encoder, hidden, C = build.require_encoder(), config.hidden, len(self.values)
        check_states(build, {name: MODULES[name][0] for name in self.needed})
        self.primary = TagModule(encoder.width, hidden, C)
        self.students = nn.ModuleDict()
        for name in self.needed:
            states, shift = MODULES[name]
            width = sum(encoder.state_width(state) for state in states) or encoder.width
            self.students[f"{name}_module"] = TagModule(width, hidden, C, states, shift)

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (config.label,)

    @classmethod
    def check_labels(cls, config: Config, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        check_kind(config.label, labels, key, tree=False)

    def has_label(self, view: View) -> Tensor:
        return view.labels[self.config.label] != ABSENT

    def targets(self, view: View) -> Tensor:
        return view.labels[self.config.label].clamp(min=0)

    def target_known(self, view: View) -> Tensor:
        return view.labels[self.config.label] >= 0

    def statistics(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        """Return counts of tokens, int64 [2], and of spans, int64 [3, types + 1].

        The last type stands for all types that training never saw.
        """
        predicted, gold = logits.argmax(-1), view.labels[self.config.label]  # [B, T] each
        has_label = self.has_label(view)
        spans = torch.zeros(3, len(self.types) + 1, dtype=torch.int64, device=logits.device)
        if self.types and not context.training and has_label.any():
            gold_tags = torch.where(gold < 0, self.values.index("O"), gold)
            counts = span_counts(
                self._spans(predicted, has_label), self._spans(gold_tags, has_label), self.types
            )
            spans[:, :-1] = counts.to(logits.device)
            spans[2, -1] = (gold == UNSEEN).sum()  # words where a span of an unseen type begins
        # an unseen gold value is negative, so no prediction equals it
        return {"tokens": token_counts(predicted, gold, has_label), "spans": spans}

    def _spans(self, numbers: Tensor, counted: Tensor) -> list[list[Span]]:
        """Return the spans of each sentence. numbers: int64 [B, T], tags. counted: bool [B, T]."""
        return [
            spans_of([self.values[number] for number in row[words].tolist()], "BIOES")
            for row, words in zip(numbers, counted)
        ]

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the likeliest value of each word, int64 [B, T]."""
        view = views[self.config.labelled]
        return {self.config.label: self.primary(view).argmax(-1)}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return token_scores(sums["tokens"]) | span_scores(sums["spans"])
