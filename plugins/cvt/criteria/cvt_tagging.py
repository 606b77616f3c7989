"""Sequence tagging by cross-view training (Clark et al. 2018, section 3.2).

    p(y_t | x)        = softmax(U ReLU(W [h1_t ; h2_t]) + b)                                       the primary module
    p_forward(y_t)    reads h1>_t        p_backward(y_t) reads h1<_t        up to the word, and from it on
    p_future(y_t)     reads h1>_{t-1}    p_past(y_t)     reads h1<_{t+1}    everything before the word, and after it
    p_full(y_t)       reads [h1_t ; h2_t] under the student's dropout

h1, h2 are the states of the encoder's two layers, [h1 ; h2] its features; beyond the edges of a sentence a state is zero.
Losses are those of `imitation.py`; the supervised one has label smoothing. Where the values are BIOES tags, evaluation scores spans:
precision, recall and F1. A gold tag that training never saw is wrong in the accuracy, and a span that is missed there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, View, option, register
from fwk_plugins.cvt.corpora.tags import Span, spans
from fwk_plugins.cvt.criteria.checks import check_kind, check_modules, check_states
from fwk_plugins.cvt.criteria.cross_view import CrossView
from fwk_plugins.cvt.scoring.scores import (
    ABSENT,
    UNSEEN,
    span_counts,
    span_scores,
    token_counts,
    token_scores,
)

# auxiliary module: the states it reads (none: the features), and by how many words they are shifted to the right
MODULES: dict[str, tuple[tuple[str, ...], int]] = {
    "forward": (("forward_1",), 0),
    "backward": (("backward_1",), 0),
    "future": (("forward_1",), 1),
    "past": (("backward_1",), -1),
    "full": ((), 0),
}


def shifted(states: Tensor, by: int) -> Tensor:
    """[B, T, D] moved to the right (or, below 0, to the left), zeros at the edge."""
    return F.pad(states, (0, 0, by, -by)) if by else states


class TagModule(nn.Module):
    """states [B, T, D] -> logits [B, T, C]. reads: names of encoder states; none: the features."""

    def __init__(
        self, width: int, hidden: int, values: int, reads: tuple[str, ...] = (), shift: int = 0
    ):
        super().__init__()
        self.reads, self.shift = reads, shift
        self.hidden, self.output = nn.Linear(width, hidden), nn.Linear(hidden, values)

    def forward(self, view: View) -> Tensor:
        encoded = view.encoded
        states = (
            torch.cat([encoded.states[name] for name in self.reads], -1)
            if self.reads
            else encoded.features
        )
        if self.shift < 0 and view.mask is not None:
            states = states.masked_fill(
                ~view.mask[..., None], 0.0
            )  # what comes after the last word is nothing, not padding
        return self.output(F.relu(self.hidden(shifted(states, self.shift))))


def span_types(values: Sequence[str]) -> tuple[str, ...]:
    """The types of spans that tags mark, where all of them are BIOES tags; else none."""
    kinds = {value[2:] for value in values if value != "O"}
    tags = {f"{prefix}-{kind}" for prefix in "BIES" for kind in kinds}
    return tuple(sorted(kinds)) if "O" in values and kinds and set(values) <= tags | {"O"} else ()


@register("criterion", "cvt_tagging")
class CvtTagging(CrossView):
    """A tagger, and auxiliary modules on parts of the sentence that imitate it where there are no labels."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossView.Config):
        known: ClassVar[tuple[str, ...]] = tuple(MODULES)
        label: str = option("label", "the label that is predicted, one for each word")
        modules: tuple[str, ...] = option(
            tuple(MODULES), f"auxiliary modules: {', '.join(MODULES)}"
        )
        smoothing: float = option(
            0.1, "label smoothing of the supervised loss (CVT: 0.1)", low=0, high=1
        )

        def __post_init__(self):
            super().__post_init__()
            check_modules(self)

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.values = build.labels[config.label]
        self.types, self.smoothing = span_types(self.values), config.smoothing
        encoder, C = build.encoder, len(self.values)
        check_states(build, {module: MODULES[module][0] for module in self.needed})
        self.primary = TagModule(encoder.width, config.hidden, C)
        self.students = nn.ModuleDict(
            {
                f"{name}_module": TagModule(
                    sum(map(encoder.state_width, MODULES[name][0])) or encoder.width,
                    config.hidden,
                    C,
                    *MODULES[name],
                )
                for name in self.needed
            }
        )

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (config.label,)

    @classmethod
    def check_labels(cls, config: Config, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        check_kind(config.label, labels, key, tree=False)

    def here(self, view: View) -> Tensor:
        return view.labels[self.config.label] != ABSENT

    def gold(self, view: View) -> tuple[Tensor, Tensor]:
        values = view.labels[self.config.label]
        return values.clamp(min=0), values >= 0

    def judged(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        best, values = logits.argmax(-1), view.labels[self.config.label]  # [B, T] each
        here = self.here(view)
        found = {
            "tokens": token_counts(best, values, here),  # of an unknown value no answer is right
            "spans": torch.zeros(3, len(self.types) + 1, dtype=torch.int64, device=logits.device),
        }  # the last: other types
        if self.types and not context.training and here.any():
            told = [
                self._spans(rows, here)
                for rows in (best, torch.where(values < 0, self.values.index("O"), values))
            ]
            found["spans"][:, :-1] = span_counts(*told, self.types).to(logits.device)
            found["spans"][2, -1] = (
                values == UNSEEN
            ).sum()  # the words that begin a span of another type
        return found

    def _spans(self, rows: Tensor, here: Tensor) -> list[list[Span]]:
        """Of each sentence; rows int64 and here bool [B, T]."""
        return [
            spans([self.values[value] for value in row[real].tolist()], "BIOES")
            for row, real in zip(rows, here)
        ]

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.labelled]
        return {self.config.label: self.primary(view).argmax(-1)}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return token_scores(sums["tokens"]) | span_scores(sums["spans"])
