"""Classification by filling a mask (Schick and Schuetze 2021; Gao et al. 2021, LM-BFF, section 4).

    L = - sum over labelled examples i of  log p(y_i | x_i)     /     labelled examples
    p(c | x) = sum over words w of c of exp(z_w)  /  sum over words w of all classes of exp(z_w)
    z_w = u_w . transform(h_mask) + b_w                      the logits of the masked-LM head at the mask

x is a prompt (`task.templates`), a text with one mask, which is the view's chosen position; the words of the classes
are those of `task.label_words`. The probability of a class is the sum of those of its words. Nothing is new in the
head: it is that of `masked_lm`, by the same names, so `model.from` starts it from a masked LM. `logits` is the module
(view -> log p(c | x), [R, C]) that other criteria may call.

Outside of training, a prompt may have a row for each of S sets of demonstrations. The rows s of an example follow each
other and have its draw; the class has the probabilities

    p(c | x) = exp(1/S sum over s of log p(c | x_s))  /  sum over classes c' of exp(1/S sum over s of log p(c' | x_s))

With a teacher the target is mixed (`fwk/nn/mixed_targets.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.views import LossTerm, Output, View
from fwk.errors import ConfigError
from fwk.nn.masked_lm_head import HeadOptions, MaskedLMHead, masked_log_probs
from fwk.nn.mixed_targets import Distillation, TeacherOptions, soft_cross_entropy
from fwk.nn.pooling import label_values, wide


@register("criterion", "verbalizer")
class Verbalizer(Criterion["Verbalizer.Config"]):
    """Cross-entropy of the class whose word a masked LM fills in."""

    roles = ("masked_lm",)

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadOptions, TeacherOptions):
        view: str = option("prompt", "the view with a mask")
        template: str = option("prompt", "the name of the task's template that it renders")
        label: str = option("label", "the label that is learned")
        label_smoothing: float = option(
            0.0,
            "share of the target's mass spread over the classes, in training only",
            low=0,
            high=1,
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        label_values(build, config.label, ("class",))
        self.distillation = Distillation(config, build, config.label)
        self.taught, self.teachers = self.distillation.taught, self.distillation.teachers
        self.mask = build.require_vocabulary().mask
        words = build.label_words.get(config.label)
        if words is None:
            raise ConfigError(
                f"{build.key}.label",
                f"the task states no words for the classes of '{config.label}'; set task.label_words to "
                "{CLASS: WORD}",
            )
        self.head = MaskedLMHead.from_options(build, config.tied_output, config.output_bias)
        self.logits = WordLogits(self.head, words)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        default = {"noiser": "identity", "fields": [config.template]}
        return {config.view: Read(default, positions=True)}

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (config.label,)

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        labelled = self._target(views[self.config.view]) >= 0
        return {"verbalizer": self.distillation.learned(labelled, context).sum()}

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        target, log_p = self._target(view), self.log_probabilities(view)  # [B], [B, C]
        labelled = target >= 0
        smoothing = self.config.label_smoothing if self.training else 0.0
        losses = F.cross_entropy(
            log_p, target.clamp(min=0), reduction="none", label_smoothing=smoothing
        )
        losses = self.distillation.mixed(
            losses, labelled, lambda: self._soft(log_p, view, context), context
        )
        learned = self.distillation.learned(labelled, context)
        right = (log_p.argmax(-1) == target) & labelled
        return Output(
            terms={"verbalizer": LossTerm(losses.masked_fill(~learned, 0).sum())},
            statistics={"right": right.sum(), "labelled": labelled.sum()},
        )

    def _soft(self, log_p: Tensor, view: View, context: Context) -> Tensor:
        """Return the losses with the teacher's distributions as targets, [B]: in training, [R]."""
        teacher = self.distillation.outputs(view, context)
        return soft_cross_entropy(log_p, teacher, self.config.temperature)

    def log_probabilities(self, view: View) -> Tensor:
        """Return the mean over an example's rows of the log-probabilities of classes, [B, C]."""
        log_p = self.logits(view)  # [R, C]
        if self.training:
            return log_p  # a prompt has one row; the host need not wait for the draws to know it
        _, example, sizes = view.draws.unique_consecutive(return_inverse=True, return_counts=True)
        total = log_p.new_zeros(len(sizes), log_p.shape[1]).index_add(0, example, log_p)
        return total / sizes[:, None]

    def _target(self, view: View) -> Tensor:
        """Return the class of each example, int64 [B]; -1: unknown."""
        target = view.labels[self.config.label]  # [R]
        if self.training:
            return target
        _, sizes = view.draws.unique_consecutive(return_counts=True)
        return target[sizes.cumsum(0) - sizes]

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the log-probabilities of the classes up to a constant, [B, C]."""
        return {self.config.label: self.log_probabilities(views[self.config.view])}

    def log_probs(
        self, text: View, views: Mapping[str, View], options: Criterion.Scoring, context: Context
    ) -> Tensor:
        return masked_log_probs(self.head, text, self.mask, context)

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"accuracy": float(sums["right"] / sums["labelled"].clamp(min=1))}


class WordLogits(nn.Module):
    """A view with one chosen position -> log-probabilities of the classes in each row, [R, C], in fp32 or wider."""

    words: Tensor
    owners: Tensor

    def __init__(self, head: MaskedLMHead, words: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self._head = (head,)  # its parameters have their names in the criterion, and none here
        flat = [word for ids in words for word in ids]  # W words
        owners = [number for number, ids in enumerate(words) for _ in ids]
        self.classes = len(words)
        self.register_buffer("words", torch.tensor(flat), persistent=False)
        self.register_buffer("owners", torch.tensor(owners), persistent=False)

    def forward(self, view: View) -> Tensor:
        """Return the log-probabilities of the classes."""
        (head,) = self._head
        features = view.at_positions(view.encoded.features)[:, 0]  # [R, D]
        hidden = head.apply_transform(features)  # [R, E]
        output = head.output
        logits = wide(F.linear(hidden, output.weight[self.words], output.bias[self.words]))
        others = self.owners != torch.arange(self.classes, device=logits.device)[:, None]
        by_class = logits[:, None].masked_fill(others, -torch.inf)  # [R, C, W]
        return by_class.logsumexp(-1).log_softmax(-1)
