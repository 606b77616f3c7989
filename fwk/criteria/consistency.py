"""R-Drop: two passes with different dropout agree (Wu et al. 2021, "R-Drop: regularized dropout for neural networks").

    L = 1/2 [ KL( p1 || p2 ) + KL( p2 || p1 ) ]  =  1/2 sum over classes c of (p1_c - p2_c) (log p1_c - log p2_c)

p1 and p2 are the distributions that one head, that of another criterion, gives for two views of the same rows; the
gradient flows into both. L is summed over rows and divided by their number. The paper's alpha (1 to 5 on GLUE) is the
weight of this criterion. By default both views are the text itself, and their encodings differ by dropout alone; a
noiser on the second view makes it consistency under that noise. Rows without a label count, too. Where one example has
several rows, as with `multiple_choice`, a head answers once for them, and L is divided by the number of examples.

Deviation: the paper averages the cross-entropy over both passes, and here the other criterion takes it from the first.
Its gradient has the same expectation.

`distance: binary` is the same for heads whose outputs are independent classes (`multilabel`), where it is the sum over
outputs of 1/2 (s1 - s2) (z1 - z2), s the sigmoid of z; `squared` is the sum of (z1 - z2)^2 (`regression.outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.alignment import first_rows, require_same_rows
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.errors import ConfigError
from fwk.nn.imitation import finite_logits

HEAD = option(
    "classification.logits", "the head that judges: LABEL.logits of a criterion that has one"
)


def symmetric_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Return 1/2 [KL(p || q) + KL(q || p)] of the distributions that two logits [R, C] give, [R]."""
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def binary_divergence(a: Tensor, b: Tensor) -> Tensor:
    """Return 1/2 [KL(p || q) + KL(q || p)] of the yes-or-no distributions that each pair of logits gives."""
    return 0.5 * (a.sigmoid() - b.sigmoid()) * (a - b)


@register("criterion", "consistency")
class Consistency(Criterion["Consistency.Config"]):
    """Two passes with different dropout, or two views, are to give the same classes (R-Drop)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        head: str = HEAD
        first: str = option("text", "the view of the first pass")
        second: str = option("text_again", "the view of the second pass, of the same rows")
        distance: Literal["divergence", "binary", "squared"] = option(
            "divergence",
            "symmetric KL divergence of class distributions (R-Drop), or of independent classes (multilabel), or "
            "squared difference of outputs (regression)",
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.key = build.key

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.first: Read({"noiser": "identity"}),
            config.second: Read({"noiser": "identity", "of": config.first}),
        }

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        first, second = views[self.config.first], views[self.config.second]
        require_same_rows(first, second, f"views.{self.config.second}")
        return {"consistency": first_rows(first.draws).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        head = context.head(self.config.head)
        first, second = (
            finite_logits(head(views[name])) for name in (self.config.first, self.config.second)
        )  # each [R, C], or [B, C] of the choices of B examples
        if self.config.distance == "squared":
            distances = (first - second).square().flatten(1).sum(1)  # [R]
        elif self.config.distance == "binary":
            distances = binary_divergence(first, second).flatten(1).sum(1)  # [R]
        else:
            require_classes(first, f"{self.key}.distance")
            distances = symmetric_divergence(first, second)  # [R]
        return Output(terms={"consistency": LossTerm(distances.sum())})


def require_classes(logits: Tensor, key: str) -> None:
    """Raise ConfigError at `key` unless there are logits of at least two classes for each row."""
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ConfigError(
            key,
            f"expected a head with logits of at least two classes per row, got outputs {list(logits.shape)}",
        )
