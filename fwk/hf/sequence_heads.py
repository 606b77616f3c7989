"""Heads of whole sequences in the form that classes of transformers have: what they read, and under which names.

Those classes read the first position h_1: a dense layer with an activation, then the output.

    fwk: pooling, hidden      dense layer       activation      held by
    pooler, none              bert.pooler       tanh            BERT; ELECTRA for multiple choice
    cls, tanh                 that of the head  tanh            BERT; ELECTRA for multiple choice
    cls, gelu                 that of the head  gelu            ELECTRA
    cls, none                 there is none     none            ELECTRA

ElectraForSequenceClassification always has a GELU layer. A head without one is written as two units per output, because
z = gelu(z) - gelu(-z): the dense layer holds W, -W and zeros, the output 1, -1 and zeros.

Numbers that are scaled (`HeadOutputs`) are written in their own unit: the scale becomes a part of the output layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fwk.contracts.heads import HeadOutputs
from fwk.contracts.plain import PlainDict
from fwk.errors import ConfigError
from fwk.hf.families import (
    ELECTRA,
    MULTIPLE_CHOICE,
    PROBLEMS,
    QUESTION_ANSWERING,
    Architecture,
)
from fwk.models.bert import Bert
from fwk.nn.pooling import SequenceHead

SEQUENCE_ROLES = (*PROBLEMS, MULTIPLE_CHOICE)
REMEDY = "; train with one of these, or export the encoder (--by encoder)"


@dataclass(frozen=True)
class SequenceForm:
    """The layers of a head that reads the first position."""

    dense: nn.Linear | None
    hidden: str  # the activation; 'none': there is no dense layer
    output: nn.Linear
    dropout: float


def sequence_form(
    by: str, role: str | None, head: nn.Module | None, encoder: Bert, outputs: HeadOutputs
) -> SequenceForm | None:
    """Return the form of a head of whole sequences; None for a head of another role.

    Raises ConfigError for a head that no class of transformers has.
    """
    if role == QUESTION_ANSWERING:
        _require_answer_head(by, head)
    if role not in SEQUENCE_ROLES:
        return None
    if not isinstance(head, SequenceHead):
        raise ConfigError("--by", f"the head of '{by}' is no SequenceHead, which '{role}' has")
    if outputs.logistic:
        raise ConfigError(
            "--by",
            f"'{by}' applies a logistic function to its outputs, and transformers none; expected activation: linear"
            f"{REMEDY}",
        )
    dropout = head.dropout.p
    if head.pooling == "pooler" and head.hidden == "none":
        return SequenceForm(encoder.pooler, "tanh", head.output, dropout)
    if head.pooling == "cls":
        return SequenceForm(head.dense, head.hidden, head.output, dropout)
    raise ConfigError(
        "--by",
        f"the head of '{by}' has pooling: {head.pooling} and hidden: {head.hidden}; transformers has pooling: pooler "
        f"with hidden: none, and pooling: cls with any hidden{REMEDY}",
    )


def _require_answer_head(by: str, head: nn.Module | None) -> None:
    names = [] if head is None else [name for name, _ in head.named_children()]
    if names != ["output"]:
        raise ConfigError(
            "--by",
            f"the head of '{by}' has the layers {', '.join(names)}, and transformers one dense layer for start and "
            f"end; expected head: independent{REMEDY}",
        )


def require_held(by: str, form: SequenceForm | None, architecture: Architecture) -> None:
    """Raise ConfigError where a class does not have a form of head."""
    if form is None:
        return
    held = architecture.head.hidden
    if form.hidden not in held:
        raise ConfigError(
            "--by",
            f"{_described(form)}, and {architecture.class_name} has {' or '.join(held)}, as the head of '{by}' needs "
            f"for this family; expected pooling: cls with hidden: {' or '.join(held)}{REMEDY}",
        )
    classes, width = form.output.weight.shape
    if _is_paired(form, architecture) and 2 * classes > width:
        raise ConfigError(
            "--by",
            f"'{by}' has {classes} outputs and no hidden layer; {architecture.class_name} holds at most {width // 2} "
            f"of them in its own; expected hidden: gelu{REMEDY}",
        )


def _described(form: SequenceForm) -> str:
    return (
        "there is no hidden layer" if form.dense is None else f"the hidden layer has {form.hidden}"
    )


def _is_paired(form: SequenceForm, architecture: Architecture) -> bool:
    """Return whether a head without a hidden layer must be written with one."""
    role = architecture.role
    return form.dense is None and architecture.family == ELECTRA and role in PROBLEMS


# -- weights ---------------------------------------------------------------------------------------------------------


def head_tensors(
    form: SequenceForm, architecture: Architecture, outputs: HeadOutputs
) -> dict[str, Tensor]:
    """Return the weights under 'head.', and under 'encoder.pooler.' where the class has BERT's pooler."""
    weight = form.output.weight.detach() * outputs.scale  # [C, D]
    bias = form.output.bias.detach() * outputs.scale + outputs.shift
    if form.dense is not None:
        dense = "encoder.pooler" if architecture.head.pooler else "head.dense"
        return {
            f"{dense}.weight": form.dense.weight,
            f"{dense}.bias": form.dense.bias,
            "head.output.weight": weight,
            "head.output.bias": bias,
        }
    if not _is_paired(form, architecture):
        return {"head.output.weight": weight, "head.output.bias": bias}
    return _paired(weight, bias)


def _paired(weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return a GELU layer and an output that compute weight x + bias. weight: [C, D], with 2 C <= D."""
    C, D = weight.shape
    dense, dense_bias = weight.new_zeros(D, D), weight.new_zeros(D)
    dense[:C], dense[C : 2 * C] = weight, -weight
    dense_bias[:C], dense_bias[C : 2 * C] = bias, -bias
    output, one = weight.new_zeros(C, D), torch.eye(C, dtype=weight.dtype)
    output[:, :C], output[:, C : 2 * C] = one, -one
    return {
        "head.dense.weight": dense,
        "head.dense.bias": dense_bias,
        "head.output.weight": output,
        "head.output.bias": torch.zeros_like(bias),
    }


# -- configuration ---------------------------------------------------------------------------------------------------


def head_options(
    form: SequenceForm | None, architecture: Architecture, outputs: HeadOutputs
) -> PlainDict:
    """Return the entries of config.json that describe a head of whole sequences."""
    if form is None:
        return {}
    options: PlainDict = {"classifier_dropout": form.dropout}
    if architecture.role in PROBLEMS:
        names = dict(enumerate(outputs.names))
        options |= {
            "id2label": names,
            "label2id": {name: number for number, name in names.items()},
            "problem_type": PROBLEMS[architecture.role],
        }
    elif architecture.family == ELECTRA:
        options |= {
            "summary_type": "first",
            "summary_use_proj": form.dense is not None,
            "summary_activation": "" if form.dense is None else form.hidden,
            "summary_last_dropout": form.dropout,
        }
    return options
