"""Cross-view training (Clark et al. 2018, section 2).

Auxiliary prediction modules see less of a sentence than the primary module, and learn to predict for unlabelled
sentences what the primary module predicts.

    L_sup = mean over labelled words of CE(y, p(y | x))                                               the primary module
    L_CVT = mean over unlabelled words of sum over auxiliary modules j of KL( p(y | x) || p_j(y | x) )

No gradient flows into p. It is computed without dropout on the view `teacher`, the auxiliary modules with dropout
on the view `unlabelled`; both views have the same words. Two criteria of this plugin share this file; they differ
in how a module turns states into logits.

`targets`: what is imitated, the distribution or only its likeliest value (`hard`). `threshold`: words do not count
where the primary module gives its likeliest value less probability. `students`: who imitates, the auxiliary modules
or the primary module itself, which is consistency training under noise: the noise of the view `unlabelled` (word
dropout, mean teachers), or virtual adversarial noise (see `fwk/nn/adversarial.py`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, LossTerm, Output, Read, View, option
from fwk.contracts.alignment import require_same_positions
from fwk.contracts.keyed import fold
from fwk.errors import ConfigError, did_you_mean
from fwk.nn.adversarial import adversarial_view
from fwk.nn.imitation import Targets, TeacherTargets, at_least_float32
from fwk.nn.softmax import token_losses


class PredictionModule(Protocol):
    """A module that turns an encoded view into logits [B, T, C]."""

    reads: tuple[str, ...]  # names of the encoder states that it reads; empty: the features


Students = Literal["auxiliary", "primary", "adversarial", "none"]
CrossViewConfig = TypeVar("CrossViewConfig", bound="CrossView.Config")


class CrossView(Criterion[CrossViewConfig]):
    """The common part of taggers and parsers: views, counts and losses.

    A subclass names its auxiliary modules in `Config.module_names`. It sets `primary` and `students`, which are
    prediction modules, and defines the four abstract methods.
    """

    primary: nn.Module
    students: nn.ModuleDict
    smoothing: float = 0.0  # label smoothing

    @dataclass(frozen=True, kw_only=True)
    class Config:
        module_names: ClassVar[tuple[str, ...]] = ()  # of all auxiliary modules
        label: str = option("label", "the label that is predicted")
        hidden: int = option(128, "hidden units of a prediction module", low=1, high=1_000_000)
        modules: tuple[str, ...] = option((), "auxiliary modules")
        students: Students = option(
            "auxiliary",
            "who imitates on unlabelled sentences: the auxiliary modules (CVT), the primary module "
            "under the view's noise (consistency) or under virtual adversarial noise, or nobody (supervised)",
        )
        targets: Targets = option(
            "soft", "what is imitated: the primary module's distribution, or its likeliest value"
        )
        threshold: float = option(
            0.0,
            "words whose likeliest value has less probability than this are not imitated",
            low=0,
            high=1,
        )
        auxiliary_labels: bool = option(
            False,
            "auxiliary modules learn from labels, too (purely supervised cross-view training)",
        )
        labelled: str = option("labelled", "the view of labelled sentences")
        unlabelled: str = option("unlabelled", "the view of unlabelled sentences that students see")
        teacher: str = option(
            "teacher", "the view of the same sentences, without dropout, that is imitated"
        )
        adversarial_norm: float = option(
            5.0,
            "students: adversarial: length of the noise on the word vectors of a sentence, in units of their root mean "
            "square (Miyato et al. 2017: 5)",
            low=0,
            high=1e6,
        )
        turns: int = option(
            1,
            "number of criteria that take turns at random on unlabelled updates (1: all imitate in all of them, as in "
            "CVT)",
            low=1,
        )
        turn: int = option(0, "number of this criterion among those that take turns, from 0", low=0)
        cvt_weight: float = option(1.0, "weight of the imitation (CVT: 1)", low=0)
        ramp_up: float = option(
            0.0,
            "share of the run over which this weight rises from 0 (CVT: 0; mean teachers need a ramp)",
            low=0,
            high=1,
        )

        def __post_init__(self) -> None:
            for name in self.modules:
                if name not in self.module_names:
                    remedy = did_you_mean(name, self.module_names)
                    raise ConfigError("modules", f"there is no module '{name}'{remedy}")
            if self.turn >= self.turns:
                raise ConfigError(
                    "turn",
                    f"is {self.turn}, but turns are counted from 0; expected less than turns, {self.turns}",
                )

    def __init__(self, config: CrossViewConfig, build: BuildContext) -> None:
        super().__init__(config, build)
        self.name = build.name
        embedding = build.require_encoder().embedding()
        if config.students == "adversarial" and embedding is None:
            raise ConfigError(
                f"{build.key}.students",
                "'adversarial' changes word vectors, and this encoder has none",
            )
        # it belongs to the encoder; in a list, torch does not take it for a part of this module
        self.embeddings = [] if embedding is None else [embedding]
        learn = config.students == "auxiliary" or config.auxiliary_labels
        self.needed = config.modules if learn else ()  # names of the auxiliary modules to build

    @classmethod
    def reads(cls, config: CrossViewConfig) -> dict[str, Read]:
        """Return the views, the same for every criterion of this plugin, so that they are encoded once for all."""
        views = {config.labelled: Read({"noiser": "rows", "without": ["unlabelled"]})}
        if config.students != "none":
            # the adversary changes the unlabelled sentences, and encodes them itself
            views[config.unlabelled] = Read(
                {"noiser": "rows", "sources": ["unlabelled"]},
                encoded=config.students != "adversarial",
            )
            views[config.teacher] = Read(
                {"noiser": "identity", "of": config.unlabelled, "mode": "teacher"}
            )
        return views

    def states(self) -> tuple[str, ...]:
        """Return the encoder states that auxiliary modules read."""
        modules = cast(Iterable[PredictionModule], self.students.values())
        return tuple(dict.fromkeys(name for module in modules for name in module.reads))

    @abstractmethod
    def has_label(self, view: View) -> Tensor:
        """Return where a word carries the label, even with a value unseen in training; bool [B, T]."""
        raise NotImplementedError

    @abstractmethod
    def targets(self, view: View) -> Tensor:
        """Return the right column of the logits, int64 [B, T]; any column where `target_known` is false."""
        raise NotImplementedError

    @abstractmethod
    def target_known(self, view: View) -> Tensor:
        """Return where a word carries the label with a value that training has seen, bool [B, T]."""
        raise NotImplementedError

    @abstractmethod
    def statistics(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        """Return statistics of the primary module's logits [B, T, C] for labelled sentences."""
        raise NotImplementedError

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the number of words with a known target, and of unlabelled words in this criterion's turn."""
        known = self.target_known(views[self.config.labelled]).sum()
        counts = {"supervised": known}
        if self.config.auxiliary_labels:
            counts["auxiliary"] = known
        if self.config.students != "none":
            student, teacher = views[self.config.unlabelled], views[self.config.teacher]
            require_same_positions(student, teacher, f"views.{student.name}")
            words = student.content.sum()
            counts["cvt"] = words if self.has_turn(context) else torch.zeros_like(words)
        return counts

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        """Return the terms supervised, auxiliary (`auxiliary_labels`) and cvt (unless `students: none`)."""
        labelled = views[self.config.labelled]
        zero = at_least_float32(labelled.encoded.features.new_zeros(()))
        loss = self._supervised_loss(labelled, context)

        # an update draws its sentences from one source: most modules have nothing to learn from it
        taught = bool(self.has_label(labelled).any())
        logits = self.primary(labelled) if taught else zero.expand(*labelled.content.shape, 1)
        terms = {"supervised": LossTerm(loss(logits) if taught else zero)}
        if self.config.auxiliary_labels:
            modules = self.students.values() if taught else ()
            terms["auxiliary"] = LossTerm(sum((loss(module(labelled)) for module in modules), zero))
        if self.config.students != "none":
            imitates = self.has_turn(context) and len(views[self.config.unlabelled])
            divergence = self.divergence(views, context) if imitates else zero
            terms["cvt"] = LossTerm(divergence, weight=self.cvt_weight(context))
        return Output(terms=terms, statistics=self.statistics(logits.detach(), labelled, context))

    def _supervised_loss(self, view: View, context: Context) -> Callable[[Tensor], Tensor]:
        """Return a function of logits [B, T, C]: the sum of cross-entropies over words with a known target, 0-d."""
        targets, known = self.targets(view), self.target_known(view)
        smoothing = self.smoothing if context.training else 0.0

        def loss(logits: Tensor) -> Tensor:
            return token_losses(logits, targets, smoothing).masked_fill(~known, 0.0).sum()

        return loss

    def cvt_weight(self, context: Context) -> float:
        """Return the weight of the imitation at this point of the run."""
        ramp_up = self.config.ramp_up
        return self.config.cvt_weight * min(1.0, context.progress / ramp_up if ramp_up else 1.0)

    def has_turn(self, context: Context) -> bool:
        """Return whether this criterion imitates in this update: the same for all micro-batches and ranks."""
        turns = self.config.turns
        return turns == 1 or fold(context.seed, "turn", context.update) % turns == self.config.turn

    def divergence(self, views: Mapping[str, View], context: Context) -> Tensor:
        """Return the divergence from the primary module, summed over students and unlabelled words, 0-d."""
        student, teacher = views[self.config.unlabelled], views[self.config.teacher]
        with torch.no_grad():
            primary: Callable[[View], Tensor] = self.primary
            if (
                teacher.ema
            ):  # averaged weights in the encoder belong with averaged weights in the module
                primary = context.head(f"{self.name}.primary", mode="teacher", ema=True)
            targets = TeacherTargets(primary(teacher), student.content, self.config.threshold)

        imitate = self.config.students
        students = self.students.values() if imitate == "auxiliary" else [self.primary]
        if imitate == "adversarial":
            norm = self.config.adversarial_norm
            embedding = self.embeddings[0]
            student = adversarial_view(student, targets, self.primary, embedding, norm, context)
        divergences = [
            targets.divergence(module(student), self.config.targets) for module in students
        ]
        return cast(Tensor, sum(divergences))
