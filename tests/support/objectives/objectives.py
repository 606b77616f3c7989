"""Small objectives that live in the tests only. Each would break a weaker engine; each passes geometry, resume and
four ranks (tests/test_contracts.py). Loaded as a user directory, like anybody's code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from fwk import (
    Criterion,
    Key,
    LearnedNoiser,
    LossTerm,
    Noiser,
    Output,
    Phase,
    Read,
    View,
    hookimpl,
    invert_cdf,
    option,
    register,
)
from fwk.nn.masked_lm_head import MaskedLMHead
from fwk.nn.softmax import token_losses


def mean_features(view: View) -> torch.Tensor:
    """[B, D], the mean over content positions (over all positions where the modality has no mask)."""
    features = view.encoded.features
    if view.mask is None:
        return features.mean(1)
    weight = view.mask.to(features.dtype).unsqueeze(-1)
    return (features * weight).sum(1) / weight.sum(1)


@register("criterion", "test_multi_task")
class MultiTask(Criterion):
    """A head per source; a head without examples in a micro-batch is not run at all."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("plain", "view")
        sources: int = option(2, "number of heads")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.heads = nn.ModuleList(
            nn.Linear(build.encoder.width, len(build.labels["label"]))
            for _ in range(config.sources)
        )

    @classmethod
    def reads(cls, config):
        return {config.view: Read({"noiser": "identity"})}

    @classmethod
    def needs_labels(cls, config):
        return ("label",)

    def normalizers(self, views, context):
        source = views[self.config.view].source
        return {f"head{i}": (source == i).sum() for i in range(self.config.sources)}

    def forward(self, views, context):
        view, terms = views[self.config.view], {}
        for i, head in enumerate(self.heads):
            rows = (view.source == i).nonzero().squeeze(1)
            if len(rows):
                losses = F.cross_entropy(
                    head(mean_features(view)[rows]), view.labels["label"][rows], reduction="sum"
                )
                terms[f"head{i}"] = LossTerm(losses)
        return Output(terms=terms)


@register("noiser", "test_generator")
class Generator(LearnedNoiser):
    """Samples of a small masked LM at the chosen positions, with its own likelihood loss."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        reinforce: bool = option(
            False, "learn from the reward in criterion outcomes instead of by likelihood"
        )

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = MaskedLMHead(self.network, build.vocabulary.size)

    def apply(self, source, key, context, prepared=None):
        features = self.network(source.inputs, source.mask).features
        logits = self.head(source.at_positions(features))  # [B, K, V]
        target = source.at_positions(source.target)
        if prepared is None:
            sampled = invert_cdf(
                logits.detach().double().softmax(-1), key.uniform(source.positions)
            )  # [B, K]
        else:
            sampled = prepared.at_positions(prepared.tokens)
        T = source.target.shape[1]
        wide = torch.cat([source.target, source.target[:, :1]], 1)
        tokens = wide.scatter(1, torch.where(source.valid, source.positions, T), sampled)[:, :T]
        return source.replace(
            inputs={**source.inputs, "tokens": tokens},
            changed=tokens != source.target,
            extra={"logits": logits, "target": target, "sampled": sampled},
        )

    def normalizers(self, views, context):
        return {"generator": views[self.source].valid.sum()}

    def losses(self, views, outcomes, context):
        view = views[self.view]
        wanted = view.extra["sampled"] if self.config.reinforce else view.extra["target"]
        losses = token_losses(view.extra["logits"], wanted)
        if self.config.reinforce:
            reward = view.at_positions(outcomes["test_detection"]["reward"]).detach()  # [B, K]
            losses = losses * reward
        return Output(terms={"generator": LossTerm(losses.masked_fill(~view.valid, 0.0).sum())})


@register("criterion", "test_detection")
class Detection(Criterion):
    """Was this token replaced? Reports a reward per position."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("corrupted", "view")
        only_changed: bool = option(
            False, "count only replaced positions: how many only a network knows"
        )

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, 1)

    @classmethod
    def reads(cls, config):
        return {
            config.view: Read(
                {
                    "noiser": "test_generator",
                    "of": "masked",
                    "network": {"name": "bert", "tie": ["embedding"]},
                    "prepare": config.only_changed,
                }
            ),
            "masked": Read({"noiser": "bert_mask"}, encoded=False),  # only the generator reads it
        }

    def _counted(self, view):
        return view.changed if self.config.only_changed else view.mask

    def normalizers(self, views, context):
        return {"detection": self._counted(views[self.config.view]).sum()}

    def forward(self, views, context):
        view = views[self.config.view]
        logits = self.head(view.encoded.features).squeeze(-1)  # [B, T]
        losses = F.binary_cross_entropy_with_logits(
            logits, view.changed.to(logits.dtype), reduction="none"
        )
        return Output(
            terms={"detection": LossTerm(losses.masked_fill(~self._counted(view), 0.0).sum())},
            outcomes={"reward": losses.detach()},
        )


@register("criterion", "test_contrast_over_update")
class ContrastOverUpdate(Criterion):
    """Every other sequence of the whole update is a negative: representations are cached by `prepare`, and each
    micro-batch differentiates the whole loss by its own rows."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pairs: tuple[str, ...] = option(("one", "two"), "views")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.project = nn.Linear(build.encoder.width, 8)

    @classmethod
    def reads(cls, config):
        return {name: Read({"noiser": "bert_mask"}) for name in config.pairs}

    def _vectors(self, views):
        return [
            F.normalize(self.project(mean_features(views[name])), dim=-1)
            for name in self.config.pairs
        ]

    def prepare(self, views, context):
        return dict(zip(("a", "b"), self._vectors(views)))

    def normalizers(self, views, context):
        return {"contrast": torch.tensor(len(views[self.config.pairs[0]]))}

    def forward(self, views, context):
        live = self._vectors(views)
        both = []
        for name, mine in zip(("a", "b"), live):
            rows, where = context.over_update(name)
            both.append(rows.index_copy(0, where, mine))
        losses = F.cross_entropy(
            both[0] @ both[1].T / 0.1,
            torch.arange(len(both[0]), device=both[0].device),
            reduction="none",
        )
        # the value is the sum over our anchors, the gradient that of the sum over all
        own = losses[where].sum().detach()
        return Output(terms={"contrast": LossTerm(losses.sum() - losses.sum().detach() + own)})


@register("criterion", "test_virtual_adversarial")
class VirtualAdversarial(Criterion):
    """One extra backward inside the forward finds the direction to which the prediction is most sensitive."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("plain", "view")
        radius: float = option(0.5, "norm of the perturbation")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, 5)
        self.embedding_width = build.encoder.embedding_width

    @classmethod
    def reads(cls, config):
        return {config.view: Read({"noiser": "identity"})}

    def normalizers(self, views, context):
        return {"vat": torch.tensor(len(views[self.config.view]))}

    def forward(self, views, context):
        view = views[self.config.view]
        clean = self.head(mean_features(view)).detach().log_softmax(-1)
        E = self.embedding_width
        start = Key(context.seed, "vat", view.draws).uniform(view.tokens.shape[1] * E) - 0.5
        direction = (
            F.normalize(start.view(len(view), -1), dim=-1).to(clean.dtype).view(len(view), -1, E)
        )

        def divergence(change):
            encoded = context.encode(view.replace(embedding_change=change))
            noisy = self.head(mean_features(view.replace(encoded=encoded))).log_softmax(-1)
            return F.kl_div(noisy, clean, log_target=True, reduction="sum")

        if context.training:
            with torch.enable_grad():
                probe = (0.1 * direction).requires_grad_()
                (gradient,) = torch.autograd.grad(divergence(probe), probe)
            direction = F.normalize(gradient.flatten(1), dim=-1).view_as(direction)
        return Output(terms={"vat": LossTerm(divergence(self.config.radius * direction))})


@register("criterion", "test_teacher")
class Teacher(Criterion):
    """A noised student imitates the same encoder on clean input, without gradient and dropout."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        averaged: bool = option(False, "the teacher has the averaged weights")

    @classmethod
    def reads(cls, config):
        return {
            "student": Read({"noiser": "bert_mask"}),
            "teacher": Read({"noiser": "identity", "mode": "teacher", "ema": config.averaged}),
        }

    def normalizers(self, views, context):
        return {"imitate": views["student"].mask.sum()}

    def forward(self, views, context):
        student, teacher = views["student"], views["teacher"]
        assert not teacher.encoded.features.requires_grad
        square = (student.encoded.features - teacher.encoded.features).square().mean(-1)
        return Output(terms={"imitate": LossTerm(square.masked_fill(~student.mask, 0.0).sum())})


@register("criterion", "test_confident")
class Confident(Criterion):
    """Pseudo-labels above a threshold: only the network knows how many there are, so `prepare` makes them."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        view: str = option("plain", "view")

    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, 3)

    @classmethod
    def reads(cls, config):
        return {config.view: Read({"noiser": "identity"})}

    def prepare(self, views, context):
        probability, label = self.head(mean_features(views[self.config.view])).softmax(-1).max(-1)
        return {"label": label, "confident": probability > 0.45}

    def normalizers(self, views, context):
        return {"pseudo": context.prepared["confident"].sum()}

    def forward(self, views, context):
        losses = F.cross_entropy(
            self.head(mean_features(views[self.config.view])),
            context.prepared["label"],
            reduction="none",
        )
        return Output(terms={"pseudo": LossTerm((losses * context.prepared["confident"]).sum())})


@register("hook", "test_two_phases")
class TwoPhases:
    """First everything but the criteria is frozen; from update `after` on everything trains, from copied heads."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        after: int = option(3, "updates in the first phase")

    def __init__(self, config):
        self.config = config

    @hookimpl
    def fwk_phase(self, run):
        if run.update < self.config.after:
            return Phase(name="heads", frozen=("networks.*",))
        return Phase(name="all", reset_optimizer=True)


@register("hook", "test_pcgrad")
class PCGrad:
    """Projects each term's gradient off the others it conflicts with, then sums (Yu et al. 2020, algorithm 1, in the
    order of names instead of a random one)."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    def __init__(self, config):
        self.config = config

    @hookimpl
    def fwk_combine_gradients(self, run, gradients):
        flat = {
            name: [torch.zeros_like(p) if g is None else g for p, g in zip(run.trainable, gs)]
            for name, gs in gradients.items()
        }
        total = None
        for name, own in flat.items():
            own = list(own)
            for other_name, other in flat.items():
                if other_name == name:
                    continue
                dot = sum((a * b).sum() for a, b in zip(own, other))
                if dot < 0:
                    norm = sum((b * b).sum() for b in other)
                    own = [a - dot / norm * b for a, b in zip(own, other)]
            total = own if total is None else [a + b for a, b in zip(total, own)]
        return total


@register("noiser", "test_attention_mask")
class MostUsed(LearnedNoiser):
    """Reads the encoding of its source: hides the position whose features are largest."""

    reads_encoding = True

    def apply(self, source, key, context, prepared=None):
        where = (
            source.encoded.features.detach()
            .norm(dim=-1)
            .masked_fill(source.special | ~source.mask, 0.0)
            .argmax(1)
        )
        tokens = source.tokens.scatter(1, where[:, None], self.vocabulary.mask)
        return source.replace(
            inputs={**source.inputs, "tokens": tokens},
            target=source.tokens,
            positions=where[:, None],
            valid=torch.ones_like(where[:, None], dtype=torch.bool),
        )

    def outline(self, source, key):
        return source.replace(
            outline=True, positions=None, valid=torch.ones(len(source), 1, dtype=torch.bool)
        )


@register("noiser", "test_drop_last")
class DropLast(Noiser):
    """A shorter view: the last position is cut off, and no longer chosen."""

    def apply(self, source, key, context=None):
        T = source.tokens.shape[1] - 1
        return source.replace(
            inputs={name: x[:, :T] for name, x in source.inputs.items()},
            mask=source.mask[:, :T],
            special=source.special[:, :T],
            target=source.target[:, :T],
            changed=source.changed[:, :T],
            positions=source.positions.clamp(max=T - 1),
            valid=source.valid & (source.positions < T),
        )
