"""Two causal encoders whose features let no position see its own token.

Baevski et al. 2019: "Cloze-driven pretraining of self-attention networks"; Clark et al. 2020b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Encoded, Encoder, register
from fwk.contracts.options import Plain
from fwk.contracts.sizes import Transformer
from fwk.models.bert import Bert


def tower_options(config: Bert.Config) -> Bert.Config:
    """Return the options of one tower, which are those of a BERT encoder."""
    return Bert.Config(**{field.name: getattr(config, field.name) for field in fields(Bert.Config)})


@register("model", "two_tower")
class TwoTower(Encoder["TwoTower.Config"]):
    """Two causal encoders, one reading left to right and one right to left.

    Baevski et al. 2019; Clark et al. 2020b.

        features_t = [h>_{t-1}; h<_{t+1}]          [B, T, 2D]; zeros where there is no neighbour

    h>_{t-1} has seen x_1 ... x_{t-1} and h<_{t+1} has seen x_{t+1} ... x_n, so no position sees its
    own token. The options are those of one tower; both towers have the same embeddings.
    """

    sees_itself = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Bert.Config):
        def __post_init__(self) -> None:
            super().__post_init__()
            if self.direction != "both":
                raise ValueError(
                    f"direction: two towers read both ways, got {self.direction}; name a 'bert' for one way"
                )
            if self.pooler:
                raise ValueError("pooler: two towers have none, expected false")

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        options = tower_options(config)
        self.rightwards = Bert(replace(options, direction="left_to_right"), build)
        self.leftwards = Bert(replace(options, direction="right_to_left"), build)
        to, of = self.leftwards.embeddings, self.rightwards.embeddings
        to.token, to.position, to.segment = of.token, of.position, of.segment
        # the layers of both, for callers that list them
        self.layers = nn.ModuleList([*self.rightwards.layers, *self.leftwards.layers])
        self.width, self.longest = 2 * self.rightwards.width, self.rightwards.longest

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        return 2 * Bert.transformers(config, main)

    @property
    def embeddings(self) -> nn.Module:
        return self.rightwards.embeddings

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        before = self.rightwards(inputs, mask, embedding_change).features  # [B, T, D]
        after = self.leftwards(inputs, mask, embedding_change).features  # [B, T, D]
        if mask is not None:
            # padding is no neighbour
            after = after.masked_fill(~mask[..., None], 0.0)
        left, right = F.pad(before, (0, 0, 1, -1)), F.pad(after, (0, 0, -1, 1))
        return Encoded(features=torch.cat([left, right], dim=-1))  # [B, T, 2D]

    def options_of_task(self) -> dict[str, Plain]:
        return self.rightwards.options_of_task()

    def embedding(self) -> nn.Embedding | None:
        return self.rightwards.embedding()

    def parts(self) -> dict[str, str]:
        return {"embedding": "rightwards.embeddings.token", "layers": "layers"}
