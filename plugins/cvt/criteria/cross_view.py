"""Cross-view training (Clark et al. 2018, section 2): auxiliary prediction modules see less of a sentence than the primary one,
and learn to say of unlabelled sentences what it says.

    L_sup = mean over labelled words of CE(y, p(y | x))                                                     the primary module
    L_CVT = mean over unlabelled words of sum over auxiliary modules j of KL( p(y | x) || p_j(y | x) )      no gradient into p

p is computed without dropout on the view `teacher`, the auxiliary modules with dropout on the view `unlabelled`; both are
the same words. Two criteria of this plugin share this file: what is different is how a module turns states into logits.

`targets`: the distribution, or its likeliest value alone (`hard`). `threshold`: words of whose likeliest value the primary module
is less sure count nothing. `students`: the auxiliary modules, or the primary one itself, for consistency under noise: that of the
view `unlabelled` (word dropout, mean teachers), or virtual adversarial noise (Miyato et al. 2017, "Adversarial training methods
for semi-supervised text classification", equations 3 to 6 and 11):

    r = eps g / |g|,     g = gradient at d of KL( p(y | x) || p(y | v + d) ),     d random with |d| = xi
    L_VAT = mean over unlabelled words of KL( p(y | x) || p(y | v + r) )

v are the word vectors of a sentence, r has the length eps over all of them, and g is computed without dropout. Lengths are in units
of the root mean square of the table of word vectors, which is as if these were normalised: large vectors escape no noise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from fwk import BuildContext, Context, Criterion, Key, LossTerm, Output, View, option
from fwk.contracts.keyed import fold
from fwk.errors import ConfigError, did_you_mean
from fwk.nn.softmax import token_losses

Targets = Literal["soft", "hard"]
Students = Literal["auxiliary", "primary", "adversarial", "none"]
STEP = 0.1  # xi, as a share of the length of a random vector of one word


class TeacherTargets:
    """What is imitated: the distribution that logits [..., C] say, without gradient, where `counted`, bool [...], and the likeliest value
    has at least the probability `threshold`. It is computed once for all who imitate it."""

    def __init__(self, logits: Tensor, counted: Tensor, threshold: float = 0.0):
        logits = _wide(logits.detach())
        self.p, normalizer, self.best = _softmax(logits)
        self.negative_entropy = _dot(self.p, logits) - normalizer  # [...]
        self.counted = counted & (self.p.amax(-1) >= threshold) if threshold else counted

    def divergence(self, student: Tensor, targets: Targets = "soft") -> Tensor:
        """Sum over what counts of KL(p || student), 0-d, in fp32 or wider; student: logits [..., C]. hard: cross-entropy with the
        likeliest value of p."""
        if targets == "hard":
            losses = token_losses(student, self.best)
        else:
            losses = _CrossEntropy.apply(_wide(student), self.p) + self.negative_entropy
        return losses.masked_fill(~self.counted, 0.0).sum()


class _CrossEntropy(torch.autograd.Function):
    """logits, p [..., C] -> -sum of p log softmax(logits), [...], in few passes over them: a parser has as many values for each word
    as there are pairs of words and relations."""

    @staticmethod
    def forward(ctx, logits: Tensor, p: Tensor) -> Tensor:
        q, normalizer, _ = _softmax(logits)
        ctx.save_for_backward(q, p)
        return normalizer - _dot(p, logits)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        q, p = ctx.saved_tensors
        return (q - p).mul_(gradient[..., None]), None


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[..., C] -> probabilities, the logarithm of what they were divided by [...], and the likeliest value [...]. On CPUs exp, and
    with it logsumexp, is ten times slower than softmax where many results are 0, as for pairs of words that cannot be."""
    p = logits.softmax(-1)
    highest, best = logits.max(-1, keepdim=True)
    return p, (highest - p.gather(-1, best).log()).squeeze(-1), best.squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[..., C] twice -> [...]."""
    C = a.shape[-1]
    with torch.autocast(
        a.device.type, enabled=False
    ):  # which would round scores, and those of pairs that cannot be to infinity
        return (a.reshape(-1, 1, C) @ b.reshape(-1, C, 1)).view(a.shape[:-1])


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def perturbation(direction: Tensor, length: Tensor | float) -> Tensor:
    """[B, T, E] of another length, that of all words of a sentence together; zero stays zero."""
    norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    return direction * (length / norm.clamp(min=torch.finfo(direction.dtype).tiny))


class CrossView(Criterion):
    """What taggers and parsers have in common: views, counts and losses.

    A subclass names its auxiliary modules in `Config.known` and makes `primary` and `students`, modules that turn an encoded view
    into logits [B, T, C] and name the states that they read (`reads`); `gold` says what is right, and `judged` adds statistics.
    """

    primary: nn.Module
    students: nn.ModuleDict
    smoothing = 0.0  # of labels

    @dataclass(frozen=True, kw_only=True)
    class Config:
        known: ClassVar[tuple[str, ...]] = ()  # names of auxiliary modules
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
            False, "auxiliary modules learn from labels too (purely supervised cross-view training)"
        )
        labelled: str = option("labelled", "the view of labelled sentences")
        unlabelled: str = option("unlabelled", "the view of unlabelled sentences that students see")
        teacher: str = option(
            "teacher", "the view of the same sentences, without dropout, that is imitated"
        )
        adversarial_norm: float = option(
            5.0,
            "students: adversarial: length of the noise on the word vectors of a sentence, in units of their root mean square "
            "(Miyato et al. 2017: 5)",
            low=0,
            high=1e6,
        )
        turns: int = option(
            1,
            "so many criteria take turns at random on unlabelled updates (1: all imitate on all of them, as CVT)",
            low=1,
        )
        turn: int = option(0, "which of those that take turns this one is, from 0", low=0)
        cvt_weight: float = option(1.0, "weight of the imitation (CVT: 1)", low=0)
        ramp_up: float = option(
            0.0,
            "share of the run over which this weight rises from 0 (CVT: 0, none; mean teachers need one)",
            low=0,
            high=1,
        )

        def __post_init__(self):
            for name in self.modules:
                if name not in self.known:
                    raise ConfigError(
                        "modules", f"there is no module '{name}'{did_you_mean(name, self.known)}"
                    )
            if self.turn >= self.turns:
                raise ConfigError(
                    "turn",
                    f"is {self.turn}, and turns are counted from 0; expected less than turns, {self.turns}",
                )

    def __init__(self, config: Any, build: BuildContext):
        super().__init__(config, build)
        self.name = build.name
        self.vectors = (
            build.encoder.embedding(),
        )  # a tuple hides it from torch: it is the encoder's
        if config.students == "adversarial" and self.vectors[0] is None:
            raise ConfigError(
                f"{build.key}.students",
                "'adversarial' changes word vectors, and this encoder has none",
            )
        self.needed = (
            config.modules if config.students == "auxiliary" or config.auxiliary_labels else ()
        )

    @classmethod
    def views(cls, config: Any) -> dict[str, dict[str, Any]]:
        """Those that every criterion of this plugin reads, so that they are encoded once for all of them."""
        found: dict[str, dict[str, Any]] = {
            config.labelled: {"noiser": "rows", "without": ["unlabelled"]}
        }
        if config.students != "none":
            found[config.unlabelled] = {"noiser": "rows", "sources": ["unlabelled"]}
            found[config.teacher] = {
                "noiser": "identity",
                "of": config.unlabelled,
                "mode": "teacher",
            }
        return found

    @classmethod
    def encoded(cls, config: Any) -> tuple[str, ...]:
        """The adversary encodes the unlabelled sentences itself, as it changes them."""
        found = tuple(cls.views(config))
        return (
            tuple(name for name in found if name != config.unlabelled)
            if config.students == "adversarial"
            else found
        )

    def states(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(name for module in self.students.values() for name in module.reads)
        )

    @abstractmethod
    def here(self, view: View) -> Tensor:
        """The words that have the label at all, if with a value that training never saw; bool [B, T]."""
        raise NotImplementedError

    @abstractmethod
    def gold(self, view: View) -> tuple[Tensor, Tensor]:
        """The right column of the logits, int64 [B, T], and where training knows it, bool [B, T]."""
        raise NotImplementedError

    @abstractmethod
    def judged(self, logits: Tensor, view: View, context: Context) -> dict[str, Tensor]:
        """Statistics of the primary module's logits [B, T, C] of labelled sentences."""
        raise NotImplementedError

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        known = self.gold(views[self.config.labelled])[1].sum()
        counts = {"supervised": known}
        if self.config.auxiliary_labels:
            counts["auxiliary"] = known
        if self.config.students != "none":
            words = views[self.config.unlabelled].content.sum()
            counts["cvt"] = words if self.has_turn(context) else torch.zeros_like(words)
        return counts

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        labelled = views[self.config.labelled]
        target, known = self.gold(labelled)
        smoothing = self.smoothing if context.training else 0.0
        nothing = _wide(labelled.encoded.features.new_zeros(()))

        def supervised(logits: Tensor) -> Tensor:
            return token_losses(logits, target, smoothing).masked_fill(~known, 0.0).sum()

        # an update is of sentences of one set, or of unlabelled ones: most modules run for nothing otherwise
        taught = bool(self.here(labelled).any())
        logits = self.primary(labelled) if taught else nothing.expand(*target.shape, 1)
        terms = {"supervised": LossTerm(supervised(logits) if taught else nothing)}
        if self.config.auxiliary_labels:
            of_all = (
                (supervised(module(labelled)) for module in self.students.values())
                if taught
                else ()
            )
            terms["auxiliary"] = LossTerm(sum(of_all, nothing))
        if self.config.students != "none":
            turn = self.has_turn(context) and len(views[self.config.unlabelled])
            weight = self.config.cvt_weight * min(
                1.0, context.progress / self.config.ramp_up if self.config.ramp_up else 1.0
            )
            terms["cvt"] = LossTerm(
                self.imitation(views, context) if turn else nothing, weight=weight
            )
        return Output(terms=terms, statistics=self.judged(logits.detach(), labelled, context))

    def has_turn(self, context: Context) -> bool:
        """Whether this criterion imitates in this update: the same for all micro-batches and ranks."""
        return (
            self.config.turns == 1
            or fold(context.seed, "turn", context.update) % self.config.turns == self.config.turn
        )

    def imitation(self, views: Mapping[str, View], context: Context) -> Tensor:
        """Sum over students and words of what divides them from the primary module, 0-d."""
        student, students, teacher = (
            views[self.config.unlabelled],
            self.students.values(),
            views[self.config.teacher],
        )
        with torch.no_grad():  # where the encoder has averaged weights, so has the module on it
            module = (
                context.head(f"{self.name}.primary", mode="teacher", ema=True)
                if teacher.ema
                else self.primary
            )
            imitated = TeacherTargets(module(teacher), student.content, self.config.threshold)
        if self.config.students != "auxiliary":
            students = [self.primary]
        if self.config.students == "adversarial":
            student = self.disturbed(student, imitated, context)
        return sum(imitated.divergence(module(student), self.config.targets) for module in students)

    def disturbed(self, view: View, imitated: TeacherTargets, context: Context) -> View:
        """The view encoded with the noise that, to first order, moves the primary module most. It is searched in full precision:
        what a small step changes is lost in half of it."""
        (B, T), E = view.content.shape, self.vectors[0].embedding_dim
        unit = self.vectors[0].weight.detach().square().mean().sqrt()
        drawn = Key(context.seed, "adversary", view.draws).uniform(T * E).clamp(min=2.0**-54)
        random = torch.special.ndtri(drawn).view(B, T, E).to(self.vectors[0].weight)
        words = view.content[..., None]
        start = perturbation(random.masked_fill(~words, 0.0), STEP * unit * E**0.5).requires_grad_()
        device = start.device.type
        half = torch.is_autocast_enabled(device)
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            if half:
                with torch.no_grad():
                    plain = view.replace(encoded=context.encode(view, mode="teacher"))
                    imitated = TeacherTargets(self.primary(plain), imitated.counted)
            changed = view.replace(embedding_change=start)
            moved = imitated.divergence(
                self.primary(changed.replace(encoded=context.encode(changed, mode="quiet")))
            )
            direction = torch.autograd.grad(moved, start)[0]
        noise = perturbation(
            direction.masked_fill(~words, 0.0), self.config.adversarial_norm * unit
        )
        changed = view.replace(embedding_change=noise)
        return changed.replace(encoded=context.encode(changed))
