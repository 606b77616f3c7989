"""The span of a text that answers a question (Devlin et al. 2019, section 4.2; Clark et al. 2020, appendix of ELECTRA).

Positions t are those of the passage and the first one, [CLS], which stands for "no answer"; s and e are the first and
last position of the answer, both 0 where the sequence holds none.

    independent  p(s) = softmax_t(w_s h_t)      p(e) = softmax_t(w_e h_t)
    joint        p(s) = softmax_t(w_s h_t)      p(e | s) = softmax_t(v gelu(V [h_s ; h_t]))
                 answerable = u gelu(U [h_0 ; sum_t p(s = t) h_t])         a logit

    L = sum over rows of  (-log p(s) - log p(e)) / 2  /  rows      joint: + 1/2 BCE(answerable)

In the joint head e is conditioned on the true s in training, and on each of the `beam` likeliest ones afterwards.
Published implementations differ in whether positions of the question may be chosen; `positions` decides it.
With a teacher the targets of the independent head are mixed (`fwk/nn/mixed_targets.py`); the teacher's are its
distributions over [CLS] and the passage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Context
from fwk.contracts.criterion import Criterion, Read
from fwk.contracts.options import option
from fwk.contracts.texts import tokens_label
from fwk.contracts.views import LossTerm, Output, View
from fwk.errors import ConfigError
from fwk.nn.dropout import Dropout
from fwk.nn.initialisation import initialise_dense
from fwk.nn.mixed_targets import Distillation, TeacherOptions, soft_cross_entropy
from fwk.nn.pooling import label_values, wide

ABSOLUTE, RELATIVE = -1, -2  # how the score of "no answer" compares with that of the best answer
JOINT = "head: joint has an end for each start, of which no teacher has outputs; expected head: independent"


@register("criterion", "answer_span")
class AnswerSpan(Criterion["AnswerSpan.Config"]):
    """Cross-entropy of the first and the last token of an answer in a passage."""

    roles = ("question_answering",)
    form_options = ("head", "hidden")

    @dataclass(frozen=True, kw_only=True)
    class Config(TeacherOptions):
        view: str = option("text", "the view of question and passage")
        label: str = option("label", "the label that marks the answer")
        head: Literal["independent", "joint"] = option(
            "independent",
            "independent: start and end by themselves (BERT); joint: the end given the start, and whether there is an "
            "answer (XLNet, ELECTRA)",
        )
        positions: Literal["passage", "content", "all"] = option(
            "passage",
            "what may be an answer: [CLS] and the passage, everything but padding, or all positions (transformers)",
        )
        impossible: Literal["cls", "skip"] = option(
            "cls", "sequences without the answer: learn [CLS], or leave them out of the loss"
        )
        hidden: int = option(512, "width of the joint head's dense layers", low=1, high=100_000)
        dropout: float = option(0.0, "dropout of what the head reads", low=0, high=1)
        beam: int = option(
            20, "starts and ends that are combined in a prediction", low=1, high=1000
        )
        best: int = option(20, "answers that a prediction lists", low=1, high=1000)
        longest: int = option(30, "tokens of the longest answer", low=1, high=65536)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.teacher is not None and self.head == "joint":
                raise ConfigError("teacher", JOINT)

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        label_values(build, config.label, ("span",))
        self.distillation = Distillation(config, build, config.label)
        self.taught, self.teachers = self.distillation.taught, self.distillation.teachers
        if self.taught and config.head == "joint":
            raise ConfigError("task.teacher", JOINT)
        encoder = build.require_encoder()
        encoder.check_first_position(f"criterion '{build.name}'")
        self.dropout = Dropout(config.dropout)
        self.head: IndependentHead | JointHead = IndependentHead(encoder.width)
        if config.head == "joint":
            self.head = JointHead(encoder.width, config.hidden)
        initialise_dense(self.head)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return {config.view: Read({"noiser": "identity"})}

    @classmethod
    def needs_labels(cls, config: Config) -> tuple[str, ...]:
        return (config.label,)

    def _answers(self, view: View) -> Tensor:
        """Return the first and last position of each answer, int64 [R, 2]; -1: the row holds none."""
        return view.labels[self.config.label]

    def _labelled(self, view: View) -> Tensor:
        """Return which rows have a label to learn, bool [R]."""
        has_answer = self._answers(view)[:, 0] >= 0
        return torch.ones_like(has_answer) if self.config.impossible == "cls" else has_answer

    def normalizers(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        labelled = self._labelled(views[self.config.view])
        rows = self.distillation.learned(labelled, context).sum()
        return {"span": rows} | ({"answerable": rows} if self.config.head == "joint" else {})

    def forward(self, views: Mapping[str, View], context: Context) -> Output:
        view = views[self.config.view]
        features = self.dropout(view.encoded.features)  # [R, T, D]
        labelled, answers = self._labelled(view), self._answers(view)
        counted = self.distillation.learned(labelled, context)
        start, end = answers.clamp(min=0).unbind(1)  # [R] each
        logits = self.head(features, self._allowed(view), start)
        losses = F.cross_entropy(logits.start, start, reduction="none")
        losses = (losses + F.cross_entropy(logits.end, end, reduction="none")) / 2
        losses = self.distillation.mixed(
            losses, labelled, lambda: self._soft(logits, view, context), context
        )
        terms = {"span": LossTerm(losses.masked_fill(~counted, 0).sum())}
        if logits.answerable is not None:
            has_answer = (answers[:, 0] >= 0).to(logits.answerable.dtype)
            losses = F.binary_cross_entropy_with_logits(
                logits.answerable, has_answer, reduction="none"
            )
            terms["answerable"] = LossTerm(losses.masked_fill(~counted, 0).sum(), weight=0.5)
        right = (logits.start.argmax(-1) == start) & (logits.end.argmax(-1) == end) & labelled
        return Output(terms=terms, statistics={"right": right.sum(), "rows": labelled.sum()})

    def _soft(self, logits: SpanLogits, view: View, context: Context) -> Tensor:
        """Return the losses with the teacher's distributions of start and end as targets, [R]."""
        teacher = self.distillation.outputs(view, context)  # [R, 1 + M, 2]
        tokens = view.labels[tokens_label(self.config.label)]  # int64 [R, T]
        known = (tokens >= 0) & (tokens < teacher.shape[1] - 1)
        known[:, 0] = True
        index = torch.where(known, tokens + 1, 0).clamp(min=0)
        index[:, 0] = 0
        at_positions = teacher.gather(1, index[..., None].expand(-1, -1, 2))  # [R, T, 2]
        first, last = at_positions.masked_fill(~known[..., None], -torch.inf).unbind(-1)
        T = self.config.temperature
        start = soft_cross_entropy(logits.start, first, T)
        return (start + soft_cross_entropy(logits.end, last, T)) / 2

    def teach(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the logits of start and end of "no answer" and of each token of the passage, [R, 1 + M, 2].

        -inf where a row has fewer tokens. Of the joint head, return the predictions: its end depends on the start.
        """
        if self.config.head == "joint":
            return self.predict(views, context)
        view = views[self.config.view]
        features, nothing = self.dropout(view.encoded.features), torch.empty(0)
        logits = self.head(features, self._allowed(view), nothing)
        both = torch.stack([logits.start, logits.end], -1)  # [R, T, 2]
        tokens = view.labels[tokens_label(self.config.label)]
        most = tokens.shape[1]  # no window has more tokens
        # row 1 + M collects what is no token of the passage
        index = torch.where(tokens >= 0, tokens + 1, most + 1)
        index[:, 0] = 0
        taught = both.new_full((len(both), most + 2, 2), -torch.inf)
        taught = taught.scatter(1, index[..., None].expand(-1, -1, 2), both)
        return {self.config.label: taught[:, :-1]}

    def _allowed(self, view: View) -> Tensor:
        """Return which positions may begin or end an answer, bool [R, T]."""
        if self.config.positions == "all":
            return torch.ones_like(view.content)
        if self.config.positions == "content":
            return view.content
        allowed = view.labels[tokens_label(self.config.label)] >= 0
        allowed[:, 0] = True
        return allowed

    def predict(self, views: Mapping[str, View], context: Context) -> dict[str, Tensor]:
        """Return the likeliest answers, [R, 1 + best, 3]: first and last token of the passage, and the score.

        The first entry is "no answer": (ABSOLUTE, 0, its score), or (RELATIVE, 0, its score minus that of the best
        answer). Places without an answer are -inf as a whole.
        """
        view = views[self.config.view]
        features = self.dropout(view.encoded.features)
        tokens = view.labels[tokens_label(self.config.label)]  # int64 [R, T]
        start, end, score = self.head.candidates(
            features, self._allowed(view), tokens >= 0, self.config.beam
        )
        size = end - start + 1
        score = score.masked_fill((size < 1) | (size > self.config.longest), -torch.inf)
        score = score.masked_fill(score < torch.finfo(score.dtype).min / 4, -torch.inf)
        best = score.topk(min(self.config.best, score.shape[1]), dim=1)
        spans = [tokens.gather(1, place.gather(1, best.indices)) for place in (start, end)]
        answers = torch.stack([*(span.to(best.values.dtype) for span in spans), best.values], -1)
        answers = answers.masked_fill(best.values.isneginf()[..., None], -torch.inf)
        missing = self.config.best - answers.shape[1]
        answers = F.pad(answers, (0, 0, 0, missing), value=-torch.inf)
        return {
            self.config.label: torch.cat(
                [self.head.no_answer(features, self._allowed(view)), answers], 1
            )
        }

    def metrics(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {"right": float(sums["right"] / sums["rows"].clamp(min=1))}


@dataclass(frozen=True)
class SpanLogits:
    """The logits of a row: of its start and end over positions, [R, T] each, and of there being an answer, [R]."""

    start: Tensor
    end: Tensor
    answerable: Tensor | None = None


def masked(logits: Tensor, allowed: Tensor) -> Tensor:
    """Return logits [R, T] in fp32 or wider, as small as possible where `allowed` is False."""
    logits = wide(logits)
    return logits.masked_fill(~allowed, torch.finfo(logits.dtype).min / 2)


class IndependentHead(nn.Module):
    """BERT's head: start and end are independent of each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, 2)

    def forward(self, features: Tensor, allowed: Tensor, start: Tensor) -> SpanLogits:
        """Return the logits. features: [R, T, D]. allowed: bool [R, T]. start: int64 [R], the true one."""
        first, last = self.output(features).unbind(-1)
        return SpanLogits(masked(first, allowed), masked(last, allowed))

    def candidates(
        self, features: Tensor, allowed: Tensor, passage: Tensor, beam: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return start, end and score of answers in the passage, [R, N] each: all pairs of the best starts and ends."""
        logits = self(features, allowed, torch.empty(0))
        beam = min(beam, features.shape[1])
        starts = masked(logits.start, passage).topk(beam, dim=1)
        ends = masked(logits.end, passage).topk(beam, dim=1)
        start = starts.indices[:, :, None].expand(-1, -1, beam)
        end = ends.indices[:, None, :].expand(-1, beam, -1)
        score = starts.values[:, :, None] + ends.values[:, None, :]
        return start.flatten(1), end.flatten(1), score.flatten(1)

    def no_answer(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Return the entry of "no answer", [R, 1, 3]."""
        logits = self(features, allowed, torch.empty(0))
        score = logits.start[:, 0] + logits.end[:, 0]
        return torch.stack([torch.full_like(score, ABSOLUTE), torch.zeros_like(score), score], -1)[
            :, None
        ]


class JointHead(nn.Module):
    """The head of XLNet and ELECTRA: the end depends on the start, and a logit says whether there is an answer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Linear(width, 1)
        # V [h_s ; h_t] = A h_s + B h_t
        self.end_of_start = nn.Linear(width, hidden, bias=False)
        self.end_of_position = nn.Linear(width, hidden)
        self.end = nn.Linear(hidden, 1)
        self.answerable_hidden = nn.Linear(2 * width, hidden)
        self.answerable = nn.Linear(hidden, 1)

    def start_logits(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Return the logits of the start, [R, T]."""
        return masked(self.start(features)[..., 0], allowed)

    def end_logits(self, features: Tensor, allowed: Tensor, starts: Tensor) -> Tensor:
        """Return the logits of the end given each of K starts, [R, K, T]. starts: int64 [R, K]."""
        index = starts[..., None].expand(-1, -1, features.shape[-1])
        of_start = self.end_of_start(features.gather(1, index))[:, :, None]  # [R, K, 1, hidden]
        hidden = F.gelu(of_start + self.end_of_position(features)[:, None])  # [R, K, T, hidden]
        return masked(self.end(hidden)[..., 0], allowed[:, None].expand(-1, starts.shape[1], -1))

    def answerable_logit(self, features: Tensor, start_logits: Tensor) -> Tensor:
        """Return the logit of there being an answer, [R]."""
        shares = start_logits.softmax(-1).to(features.dtype)
        summary = torch.cat([features[:, 0], (shares[..., None] * features).sum(1)], -1)
        return wide(self.answerable(F.gelu(self.answerable_hidden(summary)))[:, 0])

    def forward(self, features: Tensor, allowed: Tensor, start: Tensor) -> SpanLogits:
        """Return the logits, those of the end given the true start, int64 [R]."""
        start_logits = self.start_logits(features, allowed)
        end_logits = self.end_logits(features, allowed, start[:, None])[:, 0]
        return SpanLogits(start_logits, end_logits, self.answerable_logit(features, start_logits))

    def candidates(
        self, features: Tensor, allowed: Tensor, passage: Tensor, beam: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return start, end and log p(s) + log p(e | s) of answers in the passage, [R, N] each: the beam's."""
        beam = min(beam, features.shape[1])
        starts = masked(self.start_logits(features, allowed).log_softmax(-1), passage).topk(beam, 1)
        ends = self.end_logits(features, allowed, starts.indices).log_softmax(-1)  # [R, K, T]
        best = masked(ends, passage[:, None].expand_as(ends)).topk(beam, dim=2)
        start = starts.indices[:, :, None].expand(-1, -1, beam)
        score = starts.values[:, :, None] + best.values
        return start.flatten(1), best.indices.flatten(1), score.flatten(1)

    def no_answer(self, features: Tensor, allowed: Tensor) -> Tensor:
        """Return the entry of "no answer", [R, 1, 3]: minus the logit of there being one."""
        score = -self.answerable_logit(features, self.start_logits(features, allowed))
        return torch.stack([torch.full_like(score, RELATIVE), torch.zeros_like(score), score], -1)[
            :, None
        ]
