"""Dependency parsing by cross-view training (Clark et al. 2018, section 3.3).

    p((u, t, r) | x) proportional to exp( ReLU(W_head h_u) . (W_r + W) ReLU(W_dep h_t) )

over heads u and relations r of word t. u = 0 is ROOT, for which a vector of its own replaces ReLU(W_head h_0). The
primary module reads [h1 ; h2] for both words; an auxiliary module reads one direction of layer 1 for the head and
one for the dependent (`forward_backward`: h1> of the head, h1< of the dependent), and `full` reads the same as the
primary module, under the student's dropout. The losses are those of `cross_view.py`, with each distribution over
all pairs of head and relation; a word is not its own head.

In evaluation, the tree is the maximum spanning arborescence with one child of ROOT, where an arc has the score log
sum over r of p; its relation is the likeliest one of the arc. UAS and LAS leave punctuation out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, View, option, register
from fwk_plugins.cvt.corpora.label_spaces import ABSENT
from fwk_plugins.cvt.corpora.trees import decode
from fwk_plugins.cvt.criteria.checks import check_kind, check_modules, check_states
from fwk_plugins.cvt.criteria.cross_view import CrossView
from fwk_plugins.cvt.scoring.scores import attachment_counts, attachment_scores, without_subtypes

# auxiliary module -> the states of the head and of the dependent (empty: the features)
MODULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "forward_forward": (("forward_1",), ("forward_1",)),
    "forward_backward": (("forward_1",), ("backward_1",)),
    "backward_forward": (("backward_1",), ("forward_1",)),
    "backward_backward": (("backward_1",), ("backward_1",)),
    "full": ((), ()),
}


class Biaffine(nn.Module):
    """A prediction module: encoded words [B, T, D] -> logits of relations and heads, [B, T, R (T + 1)].

    Head 0 is ROOT.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        hidden: int,
        relations: int,
        heads: tuple[str, ...] = (),
        dependents: tuple[str, ...] = (),
    ) -> None:
        """Build the layers. heads, dependents: states to read, empty for the features. widths: D of both."""
        super().__init__()
        self.heads, self.dependents, self.reads = heads, dependents, (*heads, *dependents)
        self.head, self.dependent = nn.Linear(widths[0], hidden), nn.Linear(widths[1], hidden)
        # the names of these parameters are keys of checkpoints
        self.root = nn.Parameter(torch.randn(hidden) * hidden**-0.5)
        self.shared = nn.Parameter(torch.randn(hidden, hidden) / hidden)
        self.own = nn.Parameter(torch.randn(relations, hidden, hidden) / hidden)

    def forward(self, view: View) -> Tensor:
        heads = F.relu(self.head(_states(view, self.heads)))  # [B, T, P]
        root = self.root.expand(len(heads), 1, -1).to(heads.dtype)
        heads = torch.cat([root, heads], 1)  # [B, T + 1, P]
        dependents = F.relu(self.dependent(_states(view, self.dependents)))  # [B, T, P]

        B, T, P = dependents.shape
        R = len(self.own)
        bilinear = (self.own + self.shared).permute(2, 0, 1).reshape(P, R * P)
        products = (dependents @ bilinear).view(B, T * R, P)
        scores = (products @ heads.transpose(1, 2)).view(B, T, R, T + 1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))

        # a term that is added in place: masked_fill would take one more pass over the scores, forward and backward
        possible = possible_heads(view)[:, :, None]  # [B, T, 1, T + 1]
        barrier = torch.zeros_like(possible, dtype=scores.dtype)
        barrier.masked_fill_(~possible, torch.finfo(scores.dtype).min / 4)
        return scores.add_(barrier).flatten(2)


def _states(view: View, names: tuple[str, ...]) -> Tensor:
    """Return states that are concatenated, [B, T, D]; the features if no state is named."""
    if not names:
        return view.encoded.features
    return torch.cat([view.encoded.states[name] for name in names], -1)


def possible_heads(view: View) -> Tensor:
    """Return which words may be the head of which, bool [B, T, T + 1].

    These are ROOT and all other words outside the padding.
    """
    content = view.content
    B, T = content.shape
    heads = F.pad(content, (1, 0), value=True)[:, None, :].expand(B, T, T + 1)
    itself = torch.eye(T, dtype=torch.bool, device=content.device)
    return heads & ~F.pad(itself, (1, 0), value=False)


@register("criterion", "cvt_parsing")
class CvtParsing(CrossView["CvtParsing.Config"]):
    """A biaffine parser, and auxiliary modules on single directions that imitate it where trees are missing."""

    @dataclass(frozen=True, kw_only=True)
    class Config(CrossView.Config):
        module_names: ClassVar[tuple[str, ...]] = tuple(MODULES)
        label: str = option("tree", "the label that is predicted: its heads and relations")
        hidden: int = option(
            64, "width of the projections of heads and dependents", low=1, high=100_000
        )
        modules: tuple[str, ...] = option(
            tuple(MODULES), f"auxiliary modules: {', '.join(MODULES)}"
        )
        subtypes: bool = option(
            True, "LAS distinguishes subtypes of relations (nsubj:pass from nsubj)"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            check_modules(self)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        relations, encoder = build.labels[f"{config.label}_relation"], build.require_encoder()
        self.relations = len(relations)
        self.universal = None if config.subtypes else without_subtypes(relations)
        check_states(build, {name: sum(MODULES[name], ()) for name in self.needed})

        def module(heads: tuple[str, ...] = (), dependents: tuple[str, ...] = ()) -> Biaffine:
            head_width, dependent_width = (
                sum(encoder.state_width(name) for name in names) or encoder.width
                for names in (heads, dependents)
            )
            widths = (head_width, dependent_width)
            return Biaffine(widths, config.hidden, len(relations), heads, dependents)

        self.primary = module()
        self.students = nn.ModuleDict(
            {f"{name}_module": module(*MODULES[name]) for name in self.needed}
        )

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return tuple(f"{config.label}_{part}" for part in ("head", "relation", "scored"))

    @classmethod
    def check_labels(cls, config: Config, labels: Mapping[str, tuple[str, ...]], key: str) -> None:
        check_kind(config.label, labels, key, tree=True)

    def _labels(self, view: View, part: str) -> Tensor:
        """Return one part of the gold trees, int64 [B, T]."""
        return view.labels[f"{self.config.label}_{part}"]

    def has_label(self, view: View) -> Tensor:
        return self._labels(view, "head") != ABSENT

    def targets(self, view: View) -> Tensor:
        heads, relations = self._labels(view, "head"), self._labels(view, "relation")
        return relations.clamp(min=0) * (heads.shape[1] + 1) + heads.clamp(min=0)

    def target_known(self, view: View) -> Tensor:
        return (self._labels(view, "head") >= 0) & (self._labels(view, "relation") >= 0)

    def statistics(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        """Return counts of attachment, int64 [3]; zero in training, where trees are not decoded."""
        with_tree = self.has_label(view).any(1)  # [B]
        if context.training or not with_tree.any():
            return {"attached": torch.zeros(3, dtype=torch.int64, device=logits.device)}
        heads, relations = self.trees(logits[with_tree], view.content[with_tree])
        attached = attachment_counts(
            heads,
            relations,
            self._labels(view, "head")[with_tree],
            self._labels(view, "relation")[with_tree],
            self._labels(view, "scored")[with_tree] > 0,
            self.universal,
        )
        return {"attached": attached}

    def trees(self, logits: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
        """Return heads and relations of the best trees, int64 [B, T] each. logits: [B, T, C]. content: bool [B, T]."""
        B, T, _ = logits.shape
        scores = logits.view(B, T, self.relations, T + 1)
        # [B, T + 1, T + 1]; the row of ROOT as a dependent is ignored
        arcs = F.pad(scores.logsumexp(2), (0, 0, 1, 0))
        heads = decode(arcs, content.sum(1))  # [B, T]
        index = heads[..., None, None].expand(-1, -1, self.relations, 1)
        of_arc = scores.gather(3, index)[..., 0]  # [B, T, R]
        return heads, of_arc.argmax(-1)

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return heads and relations of the best trees, int64 [B, T] each."""
        view = views[self.config.labelled]
        heads, relations = self.trees(self.primary(view), view.content)
        return {f"{self.config.label}_head": heads, f"{self.config.label}_relation": relations}

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return attachment_scores(sums["attached"])
