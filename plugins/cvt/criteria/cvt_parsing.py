"""Dependency parsing by cross-view training (Clark et al. 2018, section 3.3).

    p((u, t, r) | x) proportional to exp( ReLU(W_head h_u) . (W_r + W) ReLU(W_dep h_t) )      over heads u and relations r of word t

u = 0 is ROOT, whose ReLU(W_head h_0) is a vector of its own. The primary module reads [h1 ; h2] for both words; an auxiliary module
reads one direction of layer 1 for the head and one for the dependent (`forward_backward`: h1> of the head, h1< of the
dependent), and `full` reads what the primary one does, under the student's dropout. Losses are those of `imitation.py`, each
distribution being over all pairs of head and relation; a word is not its own head.

In evaluation the tree is the maximum spanning arborescence with one child of ROOT, of log sum over r of p; a relation is the
likeliest one of the arc. UAS and LAS leave punctuation out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, View, option, register
from fwk_plugins.cvt.corpora.trees import decode
from fwk_plugins.cvt.criteria.checks import check_kind, check_modules, check_states
from fwk_plugins.cvt.criteria.cross_view import CrossView
from fwk_plugins.cvt.scoring.scores import (
    ABSENT,
    attachment_counts,
    attachment_scores,
    without_subtypes,
)

# auxiliary module: the states of the head and of the dependent (none: the features)
MODULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **{
        f"{head}_{dependent}": ((f"{head}_1",), (f"{dependent}_1",))
        for head in ("forward", "backward")
        for dependent in ("forward", "backward")
    },
    "full": ((), ()),
}


class Biaffine(nn.Module):
    """Encoded words [B, T, D] -> scores of relations and heads, [B, T, R (T + 1)]; head 0 is ROOT."""

    def __init__(
        self,
        widths: tuple[int, int],
        hidden: int,
        relations: int,
        heads: tuple[str, ...] = (),
        dependents: tuple[str, ...] = (),
    ):
        super().__init__()
        self.heads, self.dependents, self.reads = heads, dependents, (*heads, *dependents)
        self.head, self.dependent = nn.Linear(widths[0], hidden), nn.Linear(widths[1], hidden)
        self.root = nn.Parameter(torch.randn(hidden) * hidden**-0.5)
        self.shared = nn.Parameter(torch.randn(hidden, hidden) / hidden)
        self.own = nn.Parameter(torch.randn(relations, hidden, hidden) / hidden)

    def forward(self, view: View) -> Tensor:
        def read(names: tuple[str, ...]) -> Tensor:
            return (
                torch.cat([view.encoded.states[name] for name in names], -1)
                if names
                else view.encoded.features
            )

        heads = F.relu(self.head(read(self.heads)))  # [B, T, P]
        heads = torch.cat(
            [self.root.expand(len(heads), 1, -1).to(heads.dtype), heads], 1
        )  # [B, T + 1, P]
        dependents = F.relu(self.dependent(read(self.dependents)))  # [B, T, P]
        B, T, P = dependents.shape
        R = len(self.own)
        turned = dependents @ (self.own + self.shared).permute(2, 0, 1).reshape(
            P, R * P
        )  # [B, T, R P]
        scores = (turned.view(B, T * R, P) @ heads.transpose(1, 2)).view(B, T, R, T + 1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # added, and in place, because there are many scores: filling them in would need a pass more, and another one back
        allowed = possible(view)[:, :, None]  # [B, T, 1, T + 1]
        return scores.add_(
            torch.zeros_like(allowed, dtype=scores.dtype).masked_fill_(
                ~allowed, torch.finfo(scores.dtype).min / 4
            )
        ).flatten(2)


def possible(view: View) -> Tensor:
    """Which words may be the head of which, bool [B, T, T + 1]: ROOT and every other word that is none of the padding."""
    content = view.content
    B, T = content.shape
    heads = F.pad(content, (1, 0), value=True)[:, None, :].expand(B, T, T + 1)
    itself = torch.eye(T, dtype=torch.bool, device=content.device)
    return heads & ~F.pad(itself, (1, 0), value=False)


@register("criterion", "cvt_parsing")
class CvtParsing(CrossView):
    """A biaffine dependency parser, and auxiliary modules on single directions that imitate it where there are no trees."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossView.Config):
        known: ClassVar[tuple[str, ...]] = tuple(MODULES)
        label: str = option("tree", "the label that is predicted: its heads and relations")
        hidden: int = option(
            64, "width of the projections of heads and dependents", low=1, high=100_000
        )
        modules: tuple[str, ...] = option(
            tuple(MODULES), f"auxiliary modules: {', '.join(MODULES)}"
        )
        subtypes: bool = option(
            True, "LAS tells subtypes of relations apart (nsubj:pass from nsubj)"
        )

        def __post_init__(self):
            super().__post_init__()
            check_modules(self)

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        relations, encoder = build.labels[f"{config.label}_relation"], build.encoder

        def made(heads: tuple[str, ...] = (), dependents: tuple[str, ...] = ()) -> Biaffine:
            widths = tuple(
                sum(map(encoder.state_width, names)) or encoder.width
                for names in (heads, dependents)
            )
            return Biaffine(widths, config.hidden, len(relations), heads, dependents)

        check_states(build, {module: sum(MODULES[module], ()) for module in self.needed})
        self.relations = len(relations)
        self.same = None if config.subtypes else without_subtypes(relations)
        self.primary = made()
        self.students = nn.ModuleDict(
            {f"{name}_module": made(*MODULES[name]) for name in self.needed}
        )

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (f"{config.label}_head", f"{config.label}_relation", f"{config.label}_scored")

    @classmethod
    def check_labels(cls, config: Config, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        check_kind(config.label, labels, key, tree=True)

    def here(self, view: View) -> Tensor:
        return view.labels[f"{self.config.label}_head"] != ABSENT

    def gold(self, view: View) -> tuple[Tensor, Tensor]:
        heads, relations = (
            view.labels[f"{self.config.label}_{part}"] for part in ("head", "relation")
        )  # [B, T] each
        return relations.clamp(min=0) * (heads.shape[1] + 1) + heads.clamp(min=0), (heads >= 0) & (
            relations >= 0
        )

    def judged(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        heads, relations, scored = (
            view.labels[f"{self.config.label}_{part}"] for part in ("head", "relation", "scored")
        )
        here = self.here(view).any(1)  # [B], the sentences that have a tree
        if context.training or not here.any():
            return {"attached": torch.zeros(3, dtype=torch.int64, device=logits.device)}
        found = self.trees(logits[here], view.content[here])
        return {
            "attached": attachment_counts(
                *found, heads[here], relations[here], scored[here] > 0, self.same
            )
        }

    def trees(self, logits: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """Heads and relations of the best trees, int64 [B, T] each; logits [B, T, C], content bool [B, T]."""
        B, T, _ = logits.shape
        scores = logits.view(B, T, self.relations, T + 1)
        arcs = F.pad(
            scores.logsumexp(2), (0, 0, 1, 0)
        )  # [B, T + 1, T + 1]: the row of ROOT says nothing
        heads = decode(arcs, content.sum(1))  # [B, T]
        of_arc = scores.gather(3, heads[..., None, None].expand(-1, -1, self.relations, 1))[
            ..., 0
        ]  # [B, T, R]
        return heads, of_arc.argmax(-1)

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.labelled]
        heads, relations = self.trees(self.primary(view), view.content)
        return {f"{self.config.label}_head": heads, f"{self.config.label}_relation": relations}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return attachment_scores(sums["attached"])
