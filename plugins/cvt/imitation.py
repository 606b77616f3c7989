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
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk import Criterion, View, option

Targets = Literal["soft", "hard"]
Students = Literal["auxiliary", "primary", "none"]
TARGETS = option("soft", "what the modules imitate: the primary module's distribution, or its likeliest value")
THRESHOLD = option(0.0, "words whose likeliest value has less probability than this are not imitated", low=0, high=1)
STUDENTS = option("auxiliary", "who imitates on unlabelled sentences: the auxiliary modules (CVT), the primary module (consistency under "
                               "noise), or nobody (supervised)")
AUXILIARY_LABELS = option(False, "auxiliary modules learn from labels too (purely supervised cross-view training)")
SMOOTHING = option(0.1, "label smoothing of the supervised loss (CVT: 0.1)", low=0, high=1)
UNLABELLED = option("unlabelled", "the view of unlabelled sentences that students see")
LABELLED = option("labelled", "the view of labelled sentences")
TEACHER = option("teacher", "the view of the same sentences, without dropout, that is imitated")


def divergence(teacher: Tensor, student: Tensor, counted: Tensor, targets: Targets = "soft", threshold: float = 0.0) -> Tensor:
    """Sum over counted words of KL(teacher || student), 0-d, in fp32 or wider: logits [..., C] of both, the teacher's without
    gradient; bool counted [...]. hard: cross-entropy with the teacher's likeliest value."""
    wide = torch.promote_types(student.dtype, torch.float32)
    log_q = student.to(wide).log_softmax(-1)
    log_p = teacher.detach().to(wide).log_softmax(-1)
    if targets == "hard":
        losses = F.nll_loss(log_q.flatten(0, -2), log_p.argmax(-1).flatten(), reduction="none").view(counted.shape)
    else:
        losses = (log_p.exp() * (log_p - log_q)).nan_to_num(0.0).sum(-1)  # a value that cannot be: 0 (-inf + inf)
    return losses.masked_fill(~confident(log_p, counted, threshold), 0.0).sum()


def confident(log_p: Tensor, counted: Tensor, threshold: float) -> Tensor:
    return counted if not threshold else counted & (log_p.amax(-1).exp() >= threshold)


def views_of(config: Any) -> dict[str, dict[str, Any]]:
    """The views that every criterion of this plugin reads, so that they are encoded once for all of them."""
    found: dict[str, dict[str, Any]] = {config.labelled: {"noiser": "rows", "without": ["unlabelled"]}}
    if config.students != "none":
        found[config.unlabelled] = {"noiser": "rows", "sources": ["unlabelled"]}
        found[config.teacher] = {"noiser": "identity", "of": config.unlabelled, "mode": "teacher"}
    return found


class CrossView(Criterion):
    """What taggers and parsers have in common. A subclass has `primary`, a module, and `students`, auxiliary ones by name, and
    says what any of them makes of an encoded view (`logits`, [B, T, C])."""

    primary: nn.Module
    students: nn.ModuleDict

    def states(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for module in self.students.values() for name in module.reads))

    def logits(self, module: nn.Module, view: View) -> Tensor:
        raise NotImplementedError

    def imitation(self, views: Mapping[str, View]) -> Tensor:
        """Sum over students and words of what divides them from the primary module, 0-d."""
        student, teacher = views[self.config.unlabelled], views[self.config.teacher]
        with torch.no_grad():
            target = self.logits(self.primary, teacher)
        modules = [self.primary] if self.config.students == "primary" else self.students.values()
        return sum(divergence(target, self.logits(module, student), student.content, self.config.targets, self.config.threshold)
                   for module in modules)
