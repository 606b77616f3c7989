"""Two causal encoders whose features let no position see its own token (Baevski et al. 2019; Clark et al. 2020b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fwk import BuildContext, Encoded, Encoder, register
from fwk.contracts.sizes import Transformer
from fwk.models.bert import Bert


def as_bert(config: Bert.Config) -> Bert.Config:
    """The options of a tower."""
    return Bert.Config(**{field.name: getattr(config, field.name) for field in fields(Bert.Config)})


@register("model", "two_tower")
class TwoTower(Encoder):
    """Two causal encoders, one reading left to right and one right to left.

    Baevski et al. 2019; Clark et al. 2020b.

        features_t = [h>_{t-1}; h<_{t+1}]          [B, T, 2D]; zeros where there is no neighbour

    h>_{t-1} has seen x_1 ... x_{t-1} and h<_{t+1} has seen x_{t+1} ... x_n, so no position sees its own token. The options
    are those of a tower; both have the same embeddings.
    """

    sees_itself = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Bert.Config):
        def __post_init__(self):
            super().__post_init__()
            if self.direction != "both":
                raise ValueError(
                    f"direction: two towers read both ways, got {self.direction}; name a 'bert' for one way"
                )

    def __init__(self, config: Config, build: BuildContext):
        super().__init__(config, build)
        self.rightwards, self.leftwards = (
            Bert(replace(as_bert(config), direction=direction), build)
            for direction in ("left_to_right", "right_to_left")
        )
        mine, theirs = self.leftwards.embeddings, self.rightwards.embeddings
        mine.token, mine.position, mine.segment = theirs.token, theirs.position, theirs.segment
        self.layers = torch.nn.ModuleList(
            [*self.rightwards.layers, *self.leftwards.layers]
        )  # of both, for whoever lists them
        self.width, self.longest = 2 * self.rightwards.width, self.rightwards.longest

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        return 2 * Bert.transformers(config, main)

    @property
    def embeddings(self) -> torch.nn.Module:
        return self.rightwards.embeddings

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        before = self.rightwards(inputs, mask, embedding_change).features  # [B, T, D]
        after = self.leftwards(inputs, mask, embedding_change).features
        if mask is not None:
            after = after.masked_fill(~mask[..., None], 0.0)  # padding is nobody's neighbour
        return Encoded(
            features=torch.cat([F.pad(before, (0, 0, 1, -1)), F.pad(after, (0, 0, -1, 1))], dim=-1)
        )

    def embedding(self) -> torch.nn.Embedding:
        return self.rightwards.embedding()

    def parts(self) -> dict[str, str]:
        return {"embedding": "rightwards.embeddings.token", "layers": "layers"}
