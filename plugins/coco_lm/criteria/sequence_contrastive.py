"""Sequence contrastive learning (COCO-LM, Meng et al. 2021, section 3.3).

    L = - mean over anchors s of log [ exp(cos(s, s+) / tau) / (exp(cos(s, s+) / tau) + sum over s- of exp(cos(s, s-) / tau)) ]

s    the feature at the first position, [CLS], of each of the 2N sequences of both `views`
s+   that of the same sequence in the other view
s-   those of all 2N - 2 others, in both views
tau  `temperature` (1 in the paper)

In the paper the views are a corrupted one (samples of the auxiliary network) and one that is cropped out of the original. There
is no projection between the encoder and the cosine.

**Negatives.** N counts the sequences of the whole update (`update`), those of this micro-batch on all ranks (`ranks`), or those of
this micro-batch on this rank (`micro_batch`). With the last two the loss depends on how a batch is cut, as any loss between
the sequences at hand does. With the first it does not: where there are several micro-batches, each is encoded twice, first
without gradient to know all vectors, then with the gradient of the whole loss by its own vectors (the two passes of Gao et
al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). With one, vectors are gathered from all
ranks as for `ranks`. In evaluation N counts the micro-batch of a rank alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option, register
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk_plugins.coco_lm.criteria.corrective_lm import AUXILIARY

DEFAULTS = {
    "corrupted": AUXILIARY,
    "cropped": {"noiser": "crop"},
    "masked": {"noiser": "bert_mask"},
}
ROWS = (
    1024  # anchors whose cosines with all others are held at once, where nothing is differentiated
)


def log_sums(vectors: Tensor, temperature: float) -> Tensor:
    """log sum over all others of exp(cos / tau), for each of M vectors [M, D] of length 1 -> [M], without gradient."""
    found = []
    for own in torch.arange(len(vectors), device=vectors.device).split(ROWS):
        logits = vectors[own] @ vectors.T / temperature
        found.append(logits.scatter_(1, own[:, None], -torch.inf).logsumexp(1))
    return torch.cat(found)


def contrast(logits: Tensor, own: Tensor, positive: Tensor) -> Tensor:
    """Losses of A anchors: logits [A, M] with every vector, own and positive int64 [A], the columns of the anchor itself and of
    its other view -> [A]."""
    return F.cross_entropy(logits.scatter(1, own[:, None], -torch.inf), positive, reduction="none")


def share_of_the_whole(logits: Tensor, log_sum: Tensor, own: Tensor, positive: Tensor) -> Tensor:
    """The sum of these anchors' losses, with the gradient by these anchors' vectors of the sum of all M losses; 0-d.

    logits [A, M] = vectors . everyone / tau, of which only the first factor has a gradient. An anchor i is in its own loss
    and, as a positive or negative, in every other: the derivative of the sum of all losses by the cosine of i and j is
    p_ij + p_ji - 2 [j = i+], p_ij = exp(logit_ij - log_sum_i). log_sum: [M], of all vectors.
    """
    fixed = logits.detach()
    slopes = (fixed - log_sum[own][:, None]).exp() + (fixed - log_sum).exp()
    slopes = slopes.scatter(1, own[:, None], 0.0).scatter_add(
        1, positive[:, None], torch.full_like(fixed[:, :1], -2.0)
    )
    change = (slopes * logits).sum()
    return (
        change - change.detach() + (log_sum[own] - fixed.gather(1, positive[:, None])[:, 0]).sum()
    )


@register("criterion", "sequence_contrastive")
class SequenceContrastive(Criterion):
    """Two views of a sequence are closer to each other than to any other sequence at hand."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        views: tuple[str, ...] = option(("corrupted", "cropped"), "the two views of each sequence")
        temperature: float = option(1.0, "divides the cosines (COCO-LM: 1)", low=1e-4)
        negatives: Literal["micro_batch", "ranks", "update"] = option(
            "update",
            "other sequences of the micro-batch, of that on all ranks, or of the whole update (which encodes twice where it has "
            "several micro-batches)",
        )

        def __post_init__(self):
            if len(self.views) != 2 or self.views[0] == self.views[1]:
                raise ValueError(f"views names {list(self.views)}; expected two different views")

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.label = build.name
        if build.encoder.innermost().direction == "left_to_right":
            raise ConfigError(
                "model.direction",
                f"criterion '{build.name}' reads the first position, which sees nothing but itself in an "
                "encoder that reads left to right; expected both",
            )

    @classmethod
    def views(cls, config: Config) -> dict[str, dict[str, Any] | None]:
        names = [*config.views, *(["masked"] if "corrupted" in config.views else [])]
        return {name: DEFAULTS.get(name) for name in names}

    @classmethod
    def encoded(cls, config: Config) -> tuple[str, ...]:
        return config.views

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        return 0.0  # two rows of cosines, which grow with the others at hand: nothing beside an encoder

    @classmethod
    def prepares(cls, config: Config, micro_batches: int) -> bool:
        return config.negatives == "update" and micro_batches > 1

    def prepare(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"vectors": torch.stack(self._vectors(views), 1)}  # [B, 2, D]

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"contrast": 2 * torch.tensor(len(views[self.config.views[0]]))}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        first, second = self._vectors(views)  # [B, D] each
        rows, mine = torch.stack([first, second], 1), torch.arange(len(first), device=first.device)
        cached = "vectors" in context.prepared
        if cached:
            rows, mine = context.over_update("vectors")
        elif self.config.negatives != "micro_batch":
            rows, mine = context.gather(rows)
        N, tau = len(rows), self.config.temperature
        anchors, everyone = (
            torch.cat([first, second]),
            torch.cat([rows[:, 0], rows[:, 1]]),
        )  # [2B, D], [2N, D]
        own, positive = torch.cat([mine, mine + N]), torch.cat([mine + N, mine])  # [2B] each
        with torch.autocast(anchors.device.type, enabled=False):
            logits = anchors @ everyone.T / tau  # [2B, 2N]
            if cached:
                total = share_of_the_whole(logits, log_sums(everyone, tau), own, positive)
            else:
                total = contrast(logits, own, positive).sum()
        cosines = logits.detach() * tau
        near, itself = (cosines.gather(1, where[:, None]).sum() for where in (positive, own))
        nearest = cosines.scatter(1, own[:, None], -torch.inf).argmax(1) if N else own
        count = torch.tensor(len(anchors), device=anchors.device)
        return Output(
            terms={"contrast": LossTerm(total)},
            statistics={
                "positive": near,
                "negative": cosines.sum() - near - itself,
                "right": (nearest == positive).sum(),
                "anchors": count,
                "negatives": count * (2 * N - 2),
            },
        )

    def _vectors(self, views: Mapping[str, View]) -> list[Tensor]:
        """Of each view, [B, D] of length 1, in fp32 or wider."""
        first, second = (views[name] for name in self.config.views)
        if not torch.equal(first.draws, second.draws):
            raise ConfigError(
                f"criterion.{self.label}.views",
                f"'{first.name}' and '{second.name}' have different sequences; expected two "
                "views of the same ones",
            )
        found = [
            view.encoded.features[:, 0] if len(view) else view.encoded.features.sum(1)
            for view in (first, second)
        ]
        if found[0].shape != found[1].shape:
            raise ConfigError(
                f"criterion.{self.label}.views",
                f"'{first.name}' and '{second.name}' are encoded {found[0].shape[1]} and "
                f"{found[1].shape[1]} wide; cosines need one width",
            )
        return [
            F.normalize(each.to(torch.promote_types(each.dtype, torch.float32)), dim=-1)
            for each in found
        ]

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean cosines of positive and of negative pairs; how often the positive is the nearest."""
        if not sums["anchors"] > 0:
            return {}
        found = {
            "positive_cosine": float(sums["positive"] / sums["anchors"]),
            "accuracy": float(sums["right"] / sums["anchors"]),
        }
        return found | (
            {"negative_cosine": float(sums["negative"] / sums["negatives"])}
            if sums["negatives"] > 0
            else {}
        )
