"""Virtual adversarial training of a classifier (Miyato et al. 2018, section 3; for text Miyato et al. 2017).

    L = KL( p(y | x) || p(y | v + r) ),    r = eps g / |g|,    g = gradient of this KL at a small random d

v are the token vectors of a row, r has the length eps over all of them. p(y | x) is computed without dropout and
gradient, g without dropout, and the last pass with both, as equation 8 has it. L is summed over rows and divided by
their number, or over examples where one has several rows and one answer (`multiple_choice`). Rows without a label count
too. The noise is that of `fwk/nn/adversarial.py`: lengths are in units of the root mean square of the token embedding.

The head is that of another criterion, such as `classification`. An update makes three encoder calls more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fwk.components.registry import register
from fwk.contracts.alignment import first_rows, require_same_positions
from fwk.contracts.context import BuildContext, Context, Mode
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.criteria.consistency import HEAD, require_classes
from fwk.errors import ConfigError
from fwk.nn.adversarial import adversarial_view
from fwk.nn.imitation import TeacherTargets, finite_logits


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
        return {"virtual_adversarial": first_rows(view.draws).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view, teacher = views[self.config.view], views[self.config.teacher]
        if not len(view):
            zero = teacher.encoded.features.new_zeros((), dtype=torch.float32)
            return Output(terms={"virtual_adversarial": LossTerm(zero)})
        head = self._head(context)
        logits = self._head(context, mode="teacher", ema=teacher.ema)(teacher)  # [R, C]
        require_classes(logits, f"{self.key}.head")
        everywhere = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        targets = TeacherTargets(logits, everywhere)
        changed = adversarial_view(
            view,
            targets,
            head,
            self.embeddings[0],
            self.config.norm,
            context,
            quiet_module=self._head(context, mode="quiet"),
        )
        return Output(terms={"virtual_adversarial": LossTerm(targets.divergence(head(changed)))})

    def _head(
        self, context: Context, mode: Mode = "train", ema: bool = False
    ) -> Callable[[View], Tensor]:
        """Return the head: view -> finite logits [R, C], or [B, C] of the choices of B examples."""
        head = context.head(self.config.head, mode=mode, ema=ema)
        return lambda view: finite_logits(head(view))
