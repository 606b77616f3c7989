"""Sequence contrastive learning (COCO-LM, Meng et al. 2021, section 3.3).

    L = - mean over anchors s of log [ e(s, s+) / (e(s, s+) + sum over s- of e(s, s-)) ]
    e(s, s') = exp(cos(s, s') / tau)

s    the feature at the first position, [CLS], of each of the 2N sequences of both `views`
s+   that of the same sequence in the other view
s-   those of all 2N - 2 others, in both views
tau  `temperature` (1 in the paper)

In the paper, one view is corrupted (samples of the auxiliary network) and the other is cropped out
of the original. There is no projection between the encoder and the cosine.

**Negatives.** N is the number of sequences of the whole update (`negatives: update`), of this
micro-batch on all ranks (`ranks`), or of this micro-batch on this rank (`micro_batch`). With the
last two, the loss depends on how a batch is cut, as any contrast within a micro-batch does. With
the first it does not: where an update has several micro-batches, each is encoded twice, first
without gradient so that all vectors are known, then with the gradient of the whole loss by the
micro-batch's own vectors (the two passes of Gao et al. 2021, "Scaling Deep Contrastive Learning
Batch Size under Memory Limited Setup"). With one micro-batch, vectors are gathered from all ranks
as for `ranks`. In evaluation, N is the number of sequences in the micro-batch of one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option, register
from fwk.contracts.alignment import require_same_rows
from fwk.contracts.plain import PlainDict
from fwk.contracts.sizes import SequenceShape, Transformer
from fwk.errors import ConfigError
from fwk_plugins.coco_lm.default_views import AUXILIARY

DEFAULT_VIEWS: dict[str, PlainDict] = {
    "corrupted": AUXILIARY,
    "cropped": {"noiser": "crop"},
    "masked": {"noiser": "bert_mask"},
}
# where nothing is differentiated, the cosines of this many anchors with all others are held at once
ROWS = 1024


def log_sums(vectors: Tensor, temperature: float) -> Tensor:
    """Return log sum over all other vectors of exp(cos / tau) for each vector, [M], no gradient.

    vectors: [M, D], of length 1.
    """
    parts = []
    for rows in torch.arange(len(vectors), device=vectors.device).split(ROWS):
        logits = vectors[rows] @ vectors.T / temperature
        parts.append(logits.scatter_(1, rows[:, None], -torch.inf).logsumexp(1))
    return torch.cat(parts)


def contrast(logits: Tensor, anchor: Tensor, positive: Tensor) -> Tensor:
    """Return the losses of A anchors, [A].

    logits: [A, M], with every vector. anchor, positive: int64 [A], the columns of the anchor and of
    its other view.
    """
    others = logits.scatter(1, anchor[:, None], -torch.inf)
    return F.cross_entropy(others, positive, reduction="none")


def share_of_the_whole(logits: Tensor, log_sum: Tensor, anchor: Tensor, positive: Tensor) -> Tensor:
    """Return the sum of these anchors' losses, 0-d, with the gradient of the sum of all M losses.

    logits: [A, M] = anchors . everyone / tau, where only the first factor has a gradient. log_sum:
    [M], of all vectors. anchor, positive: as in `contrast`.

    Vector i occurs in its own loss and, as a positive or a negative, in every other. The derivative
    of the sum of all losses by the logit of i and j is therefore

        p_ij + p_ji - 2 [j = i+]        p_ij = exp(logit_ij - log_sum_i)
    """
    fixed = logits.detach()
    slopes = (fixed - log_sum[anchor][:, None]).exp() + (fixed - log_sum).exp()  # p_ij + p_ji
    slopes = slopes.scatter(1, anchor[:, None], 0.0)
    minus_two = torch.full_like(fixed[:, :1], -2.0)
    slopes = slopes.scatter_add(1, positive[:, None], minus_two)

    # only the gradient of `linear` is used: its value is replaced by that of the losses
    linear = (slopes * logits).sum()
    value = (log_sum[anchor] - fixed.gather(1, positive[:, None])[:, 0]).sum()
    return linear - linear.detach() + value


def cosine_statistics(cosines: Tensor, anchor: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Return additive statistics of positive and negative pairs, from which metrics are computed.

    cosines: [A, M]. anchor, positive: as in `contrast`.
    """
    A, M = cosines.shape
    of_positives = cosines.gather(1, positive[:, None]).sum()
    of_themselves = cosines.gather(1, anchor[:, None]).sum()
    nearest = anchor  # without any sequence there is no column to choose
    if M:
        nearest = cosines.scatter(1, anchor[:, None], -torch.inf).argmax(1)
    anchors = torch.tensor(A, device=cosines.device)
    return {
        "positive": of_positives,
        "negative": cosines.sum() - of_positives - of_themselves,
        "right": (nearest == positive).sum(),
        "anchors": anchors,
        "negatives": anchors * (M - 2),
    }


@register("criterion", "sequence_contrastive")
class SequenceContrastive(Criterion["SequenceContrastive.Config"]):
    """Two views of a sequence are closer to each other than to any other sequence at hand."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        views: tuple[str, ...] = option(("corrupted", "cropped"), "the two views of each sequence")
        temperature: float = option(1.0, "divides the cosines (COCO-LM: 1)", low=1e-4)
        negatives: Literal["micro_batch", "ranks", "update"] = option(
            "update",
            "other sequences of the micro-batch, of the micro-batches of all ranks, or of the whole "
            "update (which encodes twice where it has several micro-batches)",
        )

        def __post_init__(self) -> None:
            if len(self.views) != 2 or self.views[0] == self.views[1]:
                raise ValueError(f"views names {list(self.views)}; expected two different views")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.label = build.name
        build.require_encoder().check_first_position(f"criterion '{build.name}'")

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        views = {name: Read(DEFAULT_VIEWS.get(name)) for name in config.views}
        if "corrupted" in views:  # made from the masked view, which this criterion does not encode
            views.setdefault("masked", Read({"noiser": "bert_mask"}, encoded=False))
        return views

    @classmethod
    def flops(cls, config: Config, encoder: tuple[Transformer, ...], shape: SequenceShape) -> float:
        # two rows of cosines, whose length is the number of sequences at hand: nothing beside an encoder
        return 0.0

    @classmethod
    def prepares(cls, config: Config, micro_batches: int) -> bool:
        return config.negatives == "update" and micro_batches > 1

    def prepare(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"vectors": torch.stack(self._vectors(views), 1)}  # [B, 2, D]

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        return {"contrast": 2 * torch.tensor(len(views[self.config.views[0]]))}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        first, second = self._vectors(views)  # [B, D] each
        pairs, rows = self._sequences_at_hand(first, second, context)  # [N, 2, D], [B]
        N, tau = len(pairs), self.config.temperature
        anchors = torch.cat([first, second])  # [2B, D]
        everyone = torch.cat([pairs[:, 0], pairs[:, 1]])  # [2N, D]
        anchor = torch.cat([rows, rows + N])  # [2B], the column of each anchor
        positive = torch.cat([rows + N, rows])  # [2B], the column of its other view

        with torch.autocast(anchors.device.type, enabled=False):
            logits = anchors @ everyone.T / tau  # [2B, 2N]
            if "vectors" in context.prepared:
                total = share_of_the_whole(logits, log_sums(everyone, tau), anchor, positive)
            else:
                total = contrast(logits, anchor, positive).sum()
        return Output(
            terms={"contrast": LossTerm(total)},
            statistics=cosine_statistics(logits.detach() * tau, anchor, positive),
        )

    def _sequences_at_hand(
        self, first: Tensor, second: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Return the vectors of all N sequences, [N, 2, D], and this micro-batch's rows, int64 [B].

        first, second: [B, D], this micro-batch's vectors.
        """
        if "vectors" in context.prepared:
            return context.over_update("vectors")
        pairs = torch.stack([first, second], 1)  # [B, 2, D]
        if self.config.negatives == "micro_batch":
            return pairs, torch.arange(len(first), device=first.device)
        return context.gather(pairs)

    def _vectors(self, views: Mapping[str, View]) -> list[Tensor]:
        """Return the vectors of both views, [B, D] each, of length 1, in fp32 or wider.

        Raises ConfigError where the views have different sequences or widths.
        """
        pair = [views[name] for name in self.config.views]
        first, second = pair
        key = f"criterion.{self.label}.views"
        require_same_rows(first, second, key)
        features = [self._first_position(view) for view in pair]  # [B, D] each
        widths = [vectors.shape[1] for vectors in features]
        if widths[0] != widths[1]:
            raise ConfigError(
                key,
                f"'{first.name}' and '{second.name}' are encoded {widths[0]} and {widths[1]} wide; "
                "cosines need one width",
            )
        return [
            F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
            for vectors in features
        ]

    def _first_position(self, view: View) -> Tensor:
        features = view.encoded.features  # [B, T, D]
        # a view without rows may have no positions either
        return features[:, 0] if len(view) else features.sum(1)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Return mean cosines of positive and negative pairs, and how often the positive is nearest."""
        if not sums["anchors"] > 0:
            return {}
        values = {
            "positive_cosine": float(sums["positive"] / sums["anchors"]),
            "accuracy": float(sums["right"] / sums["anchors"]),
        }
        if sums["negatives"] > 0:
            values["negative_cosine"] = float(sums["negative"] / sums["negatives"])
        return values
