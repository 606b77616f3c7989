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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, LossTerm, Output, View, option, register
from fwk.criteria.softmax import token_losses
from fwk.errors import ConfigError, nearest
from fwk_plugins.cvt.imitation import (
    AUXILIARY_LABELS,
    LABELLED,
    STUDENTS,
    TARGETS,
    TEACHER,
    THRESHOLD,
    UNLABELLED,
    CrossView,
    Students,
    Targets,
    views_of,
)
from fwk_plugins.cvt.scores import attachment_counts, attachment_scores
from fwk_plugins.cvt.trees import decode

# auxiliary module: the states of the head and of the dependent (none: the features)
MODULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **{f"{head}_{dependent}": ((f"{head}_1",), (f"{dependent}_1",))
       for head in ("forward", "backward") for dependent in ("forward", "backward")},
    "full": ((), ()),
}


class Biaffine(nn.Module):
    """Encoded words [B, T, D] -> scores of heads and relations, [B, T, (T + 1) R]; head 0 is ROOT."""

    def __init__(self, widths: tuple[int, int], hidden: int, relations: int, heads: tuple[str, ...] = (), dependents: tuple[str, ...] = ()):
        super().__init__()
        self.heads, self.dependents, self.reads = heads, dependents, (*heads, *dependents)
        self.head, self.dependent = nn.Linear(widths[0], hidden), nn.Linear(widths[1], hidden)
        self.root = nn.Parameter(torch.randn(hidden) * hidden**-0.5)
        self.shared = nn.Parameter(torch.randn(hidden, hidden) / hidden)
        self.own = nn.Parameter(torch.randn(relations, hidden, hidden) / hidden)

    def forward(self, view: View) -> Tensor:
        def read(names: tuple[str, ...]) -> Tensor:
            return torch.cat([view.encoded.states[name] for name in names], -1) if names else view.encoded.features

        heads = F.relu(self.head(read(self.heads)))  # [B, T, P]
        heads = torch.cat([self.root.expand(len(heads), 1, -1).to(heads.dtype), heads], 1)  # [B, T + 1, P]
        dependents = F.relu(self.dependent(read(self.dependents)))  # [B, T, P]
        B, T, P = dependents.shape
        R = len(self.own)
        turned = dependents @ (self.own + self.shared).permute(2, 0, 1).reshape(P, R * P)  # [B, T, R P]
        scores = turned.view(B, T * R, P) @ heads.transpose(1, 2)  # [B, T R, T + 1]
        scores = scores.view(B, T, R, T + 1).transpose(2, 3)  # [B, T, T + 1, R]
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return scores.masked_fill(~possible(view)[..., None], torch.finfo(scores.dtype).min / 4).flatten(2)


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
    class Config:
        label: str = option("tree", "the label that is predicted: its heads and relations")
        hidden: int = option(64, "width of the projections of heads and dependents", low=1, high=100_000)
        modules: tuple[str, ...] = option(tuple(MODULES), f"auxiliary modules: {', '.join(MODULES)}")
        students: Students = STUDENTS
        targets: Targets = TARGETS
        threshold: float = THRESHOLD
        auxiliary_labels: bool = AUXILIARY_LABELS
        labelled: str = LABELLED
        unlabelled: str = UNLABELLED
        teacher: str = TEACHER
        cvt_weight: float = option(1.0, "weight of the imitation (CVT: 1)", low=0)

        def __post_init__(self):
            for name in self.modules:
                if name not in MODULES:
                    raise ConfigError("modules", f"there is no module '{name}'{nearest(name, MODULES)}")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        relations, encoder = len(build.labels[f"{config.label}_relation"]), build.encoder

        def made(heads: tuple[str, ...] = (), dependents: tuple[str, ...] = ()) -> Biaffine:
            widths = tuple(sum(map(encoder.state_width, names)) or encoder.width for names in (heads, dependents))
            return Biaffine(widths, config.hidden, relations, heads, dependents)

        needed = config.modules if config.students == "auxiliary" or config.auxiliary_labels else ()
        encoder.check_states([name for module in needed for part in MODULES[module] for name in part], f"criterion '{build.name}'")
        self.relations = relations
        self.primary = made()
        self.students = nn.ModuleDict({f"{name}_module": made(*MODULES[name]) for name in needed})

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any]]:
        return views_of(config)

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (f"{config.label}_head", f"{config.label}_relation")

    def logits(self, module: nn.Module, view: View) -> Tensor:
        return module(view)

    def _gold(self, views: Mapping[str, View]) -> tuple[Tensor, Tensor, Tensor]:
        """Heads and relations int64 [B, T], and where training knows both, bool [B, T]."""
        labels = views[self.config.labelled].labels
        heads, relations = labels[f"{self.config.label}_head"], labels[f"{self.config.label}_relation"]
        return heads, relations, (heads >= 0) & (relations >= 0)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        known = self._gold(views)[2].sum()
        counts = {"supervised": known}
        if self.config.auxiliary_labels:
            counts["auxiliary"] = known
        if self.config.students != "none":
            counts["cvt"] = views[self.config.unlabelled].content.sum()
        return counts

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        labelled, terms = views[self.config.labelled], {}
        heads, relations, known = self._gold(views)
        target = heads.clamp(min=0) * self.relations + relations.clamp(min=0)  # [B, T]
        logits = self.primary(labelled)  # [B, T, (T + 1) R]

        def supervised(logits: Tensor) -> Tensor:
            return token_losses(logits, target).masked_fill(~known, 0.0).sum() if len(logits) else logits.sum()

        terms["supervised"] = LossTerm(supervised(logits))
        if self.config.auxiliary_labels:
            terms["auxiliary"] = LossTerm(sum(supervised(module(labelled)) for module in self.students.values()))
        if self.config.students != "none":
            terms["cvt"] = LossTerm(self.imitation(views), weight=self.config.cvt_weight)
        attached = torch.zeros(3, dtype=torch.int64, device=logits.device)
        if not context.training and len(labelled):
            found = self.trees(logits.detach(), labelled)
            scored = labelled.labels.get(f"{self.config.label}_scored", heads.ge(0).long()) > 0
            attached = attachment_counts(*found, heads, relations, scored & (heads >= 0))
        return Output(terms=terms, statistics={"attached": attached})

    def trees(self, logits: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """Heads and relations of the best trees, int64 [B, T] each."""
        B, T, _ = logits.shape
        scores = logits.view(B, T, T + 1, self.relations)
        arcs = F.pad(scores.logsumexp(-1), (0, 0, 1, 0))  # [B, T + 1, T + 1]: the row of ROOT says nothing
        heads = decode(arcs, view.content.sum(1))  # [B, T]
        of_arc = scores.gather(2, heads[..., None, None].expand(-1, -1, 1, self.relations))[:, :, 0]
        return heads, of_arc.argmax(-1)

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view = views[self.config.labelled]
        heads, relations = self.trees(self.primary(view), view)
        return {f"{self.config.label}_head": heads, f"{self.config.label}_relation": relations}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return attachment_scores(sums["attached"]) if sums["attached"].any() else {}
