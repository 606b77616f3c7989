"""The part of a model that is exported."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from fwk.contracts.heads import HeadOutputs
from fwk.hf.sequence_heads import SequenceForm
from fwk.models.bert import Bert


@dataclass(frozen=True)
class Part:
    """An encoder and perhaps a head."""

    by: str  # who has the head: a criterion or a view; 'encoder' for no head
    encoder: Bert
    role: str | None  # of the head
    head: nn.Module | None
    form: SequenceForm | None = None  # of a head of whole sequences
    outputs: HeadOutputs = field(default_factory=HeadOutputs)  # of the head
