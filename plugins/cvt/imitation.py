"""Cross-view training (Clark et al. 2018, section 2): auxiliary prediction modules see less of a sentence than the primary one,
and learn to say of unlabelled sentences what it says.

    L_sup = mean over labelled words of CE(y, p(y | x))                                                     the primary module
    L_CVT = mean over unlabelled words of sum over auxiliary modules j of KL( p(y | x) || p_j(y | x) )      no gradient into p

p is computed without dropout on the view `teacher`, the auxiliary modules with dropout on the view `unlabelled`; both are
the same words. Two criteria of this plugin share this file: what is different is how a module turns states into logits.

`targets`: the distribution, or its likeliest value alone (`hard`). `threshold`: words of whose likeliest value the primary module
is less sure count nothing. `students`: the auxiliary modules, or the primary one itself, for consistency under noise (word
dropout, mean teachers, virtual adversarial noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, View, option
from fwk.criteria.softmax import token_losses
from fwk.errors import ConfigError, nearest

Targets = Literal["soft", "hard"]
Students = Literal["auxiliary", "primary", "none"]


def divergence(teacher: Tensor, student: Tensor, counted: Tensor, targets: Targets = "soft", threshold: float = 0.0) -> Tensor:
    """Sum over counted words of KL(teacher || student), 0-d, in fp32 or wider: logits [..., C] of both, the teacher's without
    gradient; bool counted [...]. hard: cross-entropy with the teacher's likeliest value."""
    wide = torch.promote_types(student.dtype, torch.float32)
    log_q = student.to(wide).log_softmax(-1)
    log_p = teacher.detach().to(wide).log_softmax(-1)
    if targets == "hard":
        losses = F.nll_loss(log_q.flatten(0, -2), log_p.argmax(-1).flatten(), reduction="none").view(counted.shape)
    else:
        losses = (log_p.exp() * (log_p - log_q)).sum(-1)
    return losses.masked_fill(~confident(log_p, counted, threshold), 0.0).sum()


def confident(log_p: Tensor, counted: Tensor, threshold: float) -> Tensor:
    return counted if not threshold else counted & (log_p.amax(-1).exp() >= threshold)


class CrossView(Criterion):
    """What taggers and parsers have in common: views, counts and losses.

    A subclass names its auxiliary modules in `Config.known` and makes `primary` and `students`, modules that turn an encoded view
    into logits [B, T, C] and name the states that they read (`reads`); `gold` says what is right, and `judged` adds statistics.
    """

    primary: nn.Module
    students: nn.ModuleDict

    @dataclass(frozen=True, kw_only=True)
    class Config:
        known: ClassVar[tuple[str, ...]] = ()  # names of auxiliary modules
        label: str = option("label", "the label that is predicted")
        hidden: int = option(128, "hidden units of a prediction module", low=1, high=1_000_000)
        modules: tuple[str, ...] = option((), "auxiliary modules")
        students: Students = option("auxiliary", "who imitates on unlabelled sentences: the auxiliary modules (CVT), the primary module "
                                                 "(consistency under noise), or nobody (supervised)")
        targets: Targets = option("soft", "what is imitated: the primary module's distribution, or its likeliest value")
        threshold: float = option(0.0, "words whose likeliest value has less probability than this are not imitated", low=0, high=1)
        auxiliary_labels: bool = option(False, "auxiliary modules learn from labels too (purely supervised cross-view training)")
        smoothing: float = option(0.0, "label smoothing of the supervised loss", low=0, high=1)
        labelled: str = option("labelled", "the view of labelled sentences")
        unlabelled: str = option("unlabelled", "the view of unlabelled sentences that students see")
        teacher: str = option("teacher", "the view of the same sentences, without dropout, that is imitated")
        cvt_weight: float = option(1.0, "weight of the imitation (CVT: 1)", low=0)

        def __post_init__(self):
            for name in self.modules:
                if name not in self.known:
                    raise ConfigError("modules", f"there is no module '{name}'{nearest(name, self.known)}")

    def __init__(self, config: Any, build: BuildContext):
        super().__init__(config, build)
        self.needed = config.modules if config.students == "auxiliary" or config.auxiliary_labels else ()

    @classmethod
    def views(cls, config: Any) -> dict[str, dict[str, Any]]:
        """Those that every criterion of this plugin reads, so that they are encoded once for all of them."""
        found: dict[str, dict[str, Any]] = {config.labelled: {"noiser": "rows", "without": ["unlabelled"]}}
        if config.students != "none":
            found[config.unlabelled] = {"noiser": "rows", "sources": ["unlabelled"]}
            found[config.teacher] = {"noiser": "identity", "of": config.unlabelled, "mode": "teacher"}
        return found

    def states(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for module in self.students.values() for name in module.reads))

    def gold(self, view: View) -> tuple[Tensor, Tensor]:
        """The right column of the logits, int64 [B, T], and where training knows it, bool [B, T]."""
        raise NotImplementedError

    def judged(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        """Statistics of the primary module's logits [B, T, C] of labelled sentences."""
        raise NotImplementedError

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        known = self.gold(views[self.config.labelled])[1].sum()
        counts = {"supervised": known}
        if self.config.auxiliary_labels:
            counts["auxiliary"] = known
        if self.config.students != "none":
            counts["cvt"] = views[self.config.unlabelled].content.sum()
        return counts

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        labelled = views[self.config.labelled]
        target, known = self.gold(labelled)
        smoothing = self.config.smoothing if context.training else 0.0

        def supervised(logits: Tensor) -> Tensor:
            return token_losses(logits, target, smoothing).masked_fill(~known, 0.0).sum()

        logits = self.primary(labelled)
        terms = {"supervised": LossTerm(supervised(logits))}
        if self.config.auxiliary_labels:
            terms["auxiliary"] = LossTerm(sum(supervised(module(labelled)) for module in self.students.values()))
        if self.config.students != "none":
            terms["cvt"] = LossTerm(self.imitation(views), weight=self.config.cvt_weight)
        return Output(terms=terms, statistics=self.judged(logits.detach(), labelled, context))

    def imitation(self, views: Mapping[str, View]) -> Tensor:
        """Sum over students and words of what divides them from the primary module, 0-d."""
        student = views[self.config.unlabelled]
        with torch.no_grad():
            target = self.primary(views[self.config.teacher])
        modules = [self.primary] if self.config.students == "primary" else self.students.values()
        return sum(divergence(target, module(student), student.content, self.config.targets, self.config.threshold) for module in modules)
