"""Compare the outputs of an exported folder with those of the model that was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fwk.contracts.views import Encoded, View
from fwk.errors import RunError
from fwk.hf.families import (
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    REPLACED_TOKEN,
    Architecture,
    exports_pooler,
    pooling_arguments,
)
from fwk.hf.part import Part
from fwk.nn.pooling import POOLED

TOLERANCE = 1e-5  # largest absolute difference; in fp32 relative to the largest value above 1
SEQUENCES, LENGTH = 4, 64  # B, and T unless the model reads fewer tokens
CHOICES = 2  # of the B sequences


@dataclass(frozen=True)
class Inputs:
    """Random sequences of four lengths, from the longest that the model reads down to one token."""

    tokens: Tensor  # int64 [B, T]
    mask: Tensor  # bool [B, T], True on content
    segments: Tensor  # int64 [B, T]


def compare_outputs(
    transformers: ModuleType, part: Part, architecture: Architecture, folder: Path
) -> dict[str, float]:
    """Return the largest differences of features and logits in fp64 and fp32, over everything but padding.

    part: what was exported. Raises RunError above the tolerance. In fp32 it grows with the values, because their
    rounding errors do; so it does in fp64 for outputs whose scale was multiplied into the weights.
    """
    encoder = part.encoder
    pooling = pooling_arguments(encoder, architecture)
    model_class = getattr(transformers, architecture.class_name)
    exported = model_class.from_pretrained(folder, use_safetensors=True, **pooling).eval()
    inputs = _inputs(exported.config, encoder.config.segments > 1)

    differences: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        ours = _our_outputs(part, dtype, inputs, architecture)
        theirs = _their_outputs(exported.to(dtype), inputs, architecture)
        for quantity, values in ours.items():
            rounded = (
                dtype == torch.float32 or part.outputs.scale != 1
            )  # scaled weights are rounded
            size = float(values.abs().max()) if rounded else 1.0
            name = f"{quantity}, {str(dtype).removeprefix('torch.')}"
            difference = values - theirs[quantity]
            if quantity == "features" or (quantity == "logits" and part.form is None):
                difference = difference[inputs.mask]
            differences[name] = float(difference.abs().max())
            require_equal(name, differences[name], TOLERANCE * max(1.0, size))
    return differences


def require_equal(quantity: str, difference: float, tolerance: float) -> None:
    """Raise RunError for a difference above the tolerance."""
    if not difference <= tolerance:  # NaN is not equal either
        raise RunError(
            f"transformers gives other {quantity} than fwk: they differ by {difference:.1e}, "
            f"expected at most {tolerance:.1e}; nothing was written"
        )


def random_inputs(embedding: nn.Embedding, longest: int) -> tuple[Tensor, Tensor]:
    """Return random sequences, int64 [B, T], and their content, bool [B, T].

    longest: tokens that the encoder reads; 0: no limit.
    """
    T = min(LENGTH, longest or LENGTH)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(embedding.num_embeddings, (SEQUENCES, T), generator=generator)
    pad = embedding.padding_idx
    if pad is not None:  # a token of the text is none of the padding
        tokens = torch.where(tokens == pad, (pad + 1) % embedding.num_embeddings, tokens)
    lengths = torch.linspace(T, 1, SEQUENCES).round().long()
    mask = torch.arange(T) < lengths[:, None]
    return torch.where(mask, tokens, pad or 0), mask


def _inputs(config: Any, pairs: bool) -> Inputs:
    T = min(config.max_position_embeddings, LENGTH)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (SEQUENCES, T), generator=generator)  # [B, T]
    lengths = torch.tensor([T, max(T // 2, 1), max(T - 1, 1), 1])[:, None]  # [B, 1]
    positions = torch.arange(T)
    segments = (positions >= lengths // 2).long() if pairs else torch.zeros_like(tokens)
    return Inputs(tokens, positions < lengths, segments)


@torch.no_grad()
def _our_outputs(
    part: Part, dtype: torch.dtype, inputs: Inputs, architecture: Architecture
) -> dict[str, Tensor]:
    """Return features [B, T, D], and the logits of the head.

    Those are [B, T, V], [B, T] of a discriminator, [B, C] of whole sequences, and [B, T, 2] of answers. With a pooler
    also the state that it makes, [B, D].
    """
    encoder = part.encoder.to(dtype).eval()
    view = View(
        name="compared",
        draws=torch.arange(SEQUENCES),
        inputs={"tokens": inputs.tokens, "segments": inputs.segments},
        mask=inputs.mask,
        target=inputs.tokens,
    )
    exported = exports_pooler(encoder, architecture)
    states = (POOLED,) if encoder.pooler is not None and (exported or part.form) else ()
    encoded = encoder(view.inputs, inputs.mask, states=states)
    if part.head is None:
        return {"features": encoded.features, **encoded.states}
    part.head.to(dtype).eval()
    return {"features": encoded.features, "logits": _our_logits(part, view, encoded)}


def _our_logits(part: Part, view: View, encoded: Encoded) -> Tensor:
    assert part.head is not None
    if (
        part.form is not None
    ):  # a head of whole sequences; scaled numbers are compared in their own unit
        logits = part.head(view.replace(encoded=encoded))  # [B, C]
        return logits * part.outputs.scale + part.outputs.shift
    if part.role == QUESTION_ANSWERING:
        everywhere = torch.ones_like(view.content)
        logits = part.head(encoded.features, everywhere, view.draws)
        return torch.stack([logits.start, logits.end], -1)
    logits = part.head(encoded.features)
    return logits.squeeze(-1) if part.role == REPLACED_TOKEN else logits


@torch.no_grad()
def _their_outputs(exported: Any, inputs: Inputs, architecture: Architecture) -> dict[str, Tensor]:
    """Return the features and logits of the exported model, as `_our_outputs`."""
    arguments = {
        "input_ids": inputs.tokens,
        "attention_mask": inputs.mask.long(),
        "token_type_ids": inputs.segments,
    }
    if architecture.role is None:
        output = exported(**arguments)
        state = output.get("pooler_output")
        pooled = {} if state is None else {POOLED: state}
        return {"features": output.last_hidden_state, **pooled}
    encoder = getattr(exported, architecture.family.name)
    features = encoder(**arguments).last_hidden_state
    if architecture.role == MULTIPLE_CHOICE:  # B / CHOICES examples
        arguments = {name: value.unflatten(0, (-1, CHOICES)) for name, value in arguments.items()}
    output = exported(**arguments)
    if architecture.role == QUESTION_ANSWERING:
        return {
            "features": features,
            "logits": torch.stack([output.start_logits, output.end_logits], -1),
        }
    logits = output.logits
    return {
        "features": features,
        "logits": logits.view(-1, 1) if architecture.role == MULTIPLE_CHOICE else logits,
    }
