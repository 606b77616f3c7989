"""Virtual adversarial training of a classifier (Miyato et al. 2018, section 3; for text Miyato et al. 2017).

    L = KL( p(y | x) || p(y | v + r) ),    r = eps g / |g|,    g = gradient of this KL at a small random d

v are the token vectors of a row, r has the length eps over all of them. p(y | x) is computed without dropout and
gradient, g without dropout, and the last pass with both, as equation 8 has it. L is summed over rows and divided by
their number. Rows without a label count, too. The noise is that of `fwk/nn/adversarial.py`: lengths are in units of
the root mean square of the token embedding.

The head is that of another criterion, such as `classification`. An update makes three encoder calls more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.alignment import require_same_positions
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.criteria.consistency import HEAD, require_classes
from fwk.errors import ConfigError
from fwk.nn.adversarial import adversarial_view
from fwk.nn.imitation import TeacherTargets


@register("criterion", "virtual_adversarial")
class VirtualAdversarial(Criterion["VirtualAdversarial.Config"]):
    """Classes that stay the same under the small change of the token vectors that moves them most."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        head: str = HEAD
        view: str = option("text", "the view whose token vectors are changed")
        teacher: str = option(
            "unchanged", "the same view without dropout, whose classes are imitated"
        )
        norm: float = option(
            5.0,
            "length of the change of a row, in units of the root mean square of the token embedding (Miyato et al. "
            "2017: 5)",
            low=0,
            high=1e6,
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        self.key = build.key
        embedding = build.require_encoder().embedding()
        if embedding is None:
            raise ConfigError(self.key, "changes token vectors, and this encoder has none")
        self.embeddings = [
            embedding
        ]  # of the encoder; in a list, torch does not take it for a part

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {
            config.view: Read({"noiser": "identity"}, encoded=False),
            config.teacher: Read({"noiser": "identity", "of": config.view, "mode": "teacher"}),
        }

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        view, teacher = views[self.config.view], views[self.config.teacher]
        require_same_positions(view, teacher, f"views.{self.config.teacher}")
        return {"virtual_adversarial": torch.tensor(float(len(view)), device=view.draws.device)}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view, teacher = views[self.config.view], views[self.config.teacher]
        if not len(view):
            zero = teacher.encoded.features.new_zeros((), dtype=torch.float32)
            return Output(terms={"virtual_adversarial": LossTerm(zero)})
        head = context.head(self.config.head)
        logits = context.head(self.config.head, mode="teacher", ema=teacher.ema)(teacher)  # [R, C]
        require_classes(logits, f"{self.key}.head")
        everywhere = torch.ones(len(view), dtype=torch.bool, device=logits.device)
        targets = TeacherTargets(logits, everywhere)
        changed = adversarial_view(
            view,
            targets,
            head,
            self.embeddings[0],
            self.config.norm,
            context,
            quiet_module=context.head(self.config.head, mode="quiet"),
        )
        return Output(terms={"virtual_adversarial": LossTerm(targets.divergence(head(changed)))})
