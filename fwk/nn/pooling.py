"""Sequence -> vector -> logits: the head of criteria that judge whole sequences.

c = h_1 (cls), the mean or maximum of h over all content positions, the last content position, or the encoder's
    own pooler (state `pooled`)
logits = W drop(c) + b                            hidden: none       (BERT with its pooler, ELECTRA's paper)
logits = W drop(f(V drop(c) + a)) + b             hidden: tanh, gelu (RoBERTa and COCO-LM; transformers' ELECTRA)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.contracts.context import BuildContext
from fwk.contracts.options import option
from fwk.contracts.read import Read
from fwk.contracts.views import View
from fwk.errors import ConfigError, did_you_mean
from fwk.nn.dropout import Dropout
from fwk.nn.initialisation import initialise_dense
from fwk.nn.mixed_targets import TeacherOptions

Pooling = Literal["cls", "mean", "max", "last", "pooler"]
POOLED = "pooled"  # the encoder state of BERT's pooler, [B, D]


@dataclass(frozen=True, kw_only=True)
class SequenceOptions(TeacherOptions):
    """Options of every criterion that judges whole sequences."""

    view: str = option("text", "the view that is judged")
    label: str = option("label", "the label that is learned")
    pooling: Pooling = option(
        "cls",
        "the vector of a sequence: the first position, the mean or maximum of all, the last position, or the encoder's "
        "pooler",
    )
    hidden: Literal["none", "tanh", "gelu"] = option(
        "none", "activation of a dense layer before the output (none: no such layer)"
    )
    dropout: float = option(0.1, "dropout of what the dense layers of the head read", low=0, high=1)

    def reads(self, default: dict[str, object] | None = None) -> dict[str, Read]:
        """Return the view that is judged. default: how it is made; None: of the batch itself."""
        first = reads_first(self.pooling)
        return {self.view: Read(default or {"noiser": "identity"}, first_only=first)}

    def states(self) -> tuple[str, ...]:
        """Return the encoder states that the pooling reads."""
        return states_of(self.pooling)


def reads_first(pooling: Pooling) -> bool:
    """Return whether a pooling reads no features beyond the first position."""
    return pooling in ("cls", "pooler")


def states_of(pooling: Pooling) -> tuple[str, ...]:
    """Return the encoder states that a pooling reads."""
    return (POOLED,) if pooling == "pooler" else ()


class SequenceHead(nn.Module):
    """A view with R rows -> logits [R, C], in fp32 or wider."""

    def __init__(self, options: SequenceOptions, build: BuildContext, outputs: int) -> None:
        super().__init__()
        encoder = build.require_encoder()
        if options.pooling == "cls":
            encoder.check_first_position(f"criterion '{build.name}'")
        self.pooling, self.hidden = options.pooling, options.hidden
        width = encoder.state_width(POOLED) if self.pooling == "pooler" else encoder.width
        self.dropout = Dropout(options.dropout)
        self.dense = nn.Linear(width, width) if options.hidden != "none" else None
        self.activation = torch.tanh if options.hidden == "tanh" else F.gelu
        self.output = nn.Linear(width, outputs)
        initialise_dense(self)

    @property
    def form(self) -> str:
        """What it reads, in words."""
        return form_of(self.pooling, self.hidden)

    def forward(self, view: View) -> Tensor:
        """Return the logits of the view's rows."""
        x = pooled(view, self.pooling)  # [R, D]
        if self.dense is not None:
            x = self.activation(self.dense(self.dropout(x)))
        return wide(self.output(self.dropout(x)))


def form_of(pooling: str, hidden: str) -> str:
    """Return in words what the head of whole sequences reads; weights of another form do not fit."""
    return f"pooling: {pooling}, hidden: {hidden}"


def pooled(view: View, pooling: Pooling) -> Tensor:
    """Return the vectors of a view's sequences, [R, D]."""
    if pooling == "pooler":
        return view.encoded.states[POOLED]
    features = view.encoded.features  # [R, T, D]
    if pooling == "cls":
        return features[:, 0]
    content = view.content[..., None]  # [R, T, 1]
    if pooling == "mean":
        total = features.masked_fill(~content, 0).sum(1)
        return total / content.sum(1).clamp(min=1)
    if pooling == "max":
        return features.masked_fill(~content, torch.finfo(features.dtype).min).amax(1)
    last = view.content.long().cumsum(1).argmax(1)  # [R]
    return features[torch.arange(len(last), device=last.device), last]


def wide(x: Tensor) -> Tensor:
    """Return numbers in fp32, or as they are where they are wider."""
    return x if x.dtype == torch.float64 else x.float()


def label_values(build: BuildContext, label: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of a label. Raises ConfigError where the label is of none of these kinds."""
    kind = build.label_kinds.get(label)
    if kind is not None and kind not in kinds:
        others = [name for name, known in build.label_kinds.items() if known in kinds]
        raise ConfigError(
            f"{build.key}.label",
            f"the label '{label}' is of the kind '{kind}', and this criterion learns {' or '.join(kinds)}"
            + (
                f"; the task has {', '.join(others)}"
                if others
                else f"; choose a criterion for the kind '{kind}', or state another kind of label for the task"
            ),
        )
    if label not in build.labels:
        raise ConfigError(
            f"{build.key}.label",
            f"the task has no label '{label}'{did_you_mean(label, build.labels)}",
        )
    return build.labels[label]
