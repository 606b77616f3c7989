"""Compare the outputs of an exported folder with those of the model that was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fwk.errors import RunError
from fwk.hf.families import REPLACED_TOKEN, Architecture, exports_pooler, pooling_arguments
from fwk.models.bert import Bert
from fwk.nn.pooling import POOLED

TOLERANCE = 1e-5  # largest absolute difference; in fp32 relative to the largest value above 1
SEQUENCES, LENGTH = 4, 64  # B, and T unless the model reads fewer tokens


@dataclass(frozen=True)
class Inputs:
    """Random sequences of four lengths, from the longest that the model reads down to one token."""

    tokens: Tensor  # int64 [B, T]
    mask: Tensor  # bool [B, T], True on content
    segments: Tensor  # int64 [B, T]


def compare_outputs(
    transformers: ModuleType,
    encoder: Bert,
    head: nn.Module | None,
    architecture: Architecture,
    folder: Path,
) -> dict[str, float]:
    """Return the largest differences of features and logits in fp64 and fp32, over everything but padding.

    Raises RunError above the tolerance. In fp32 it grows with the values, because their rounding errors do.
    """
    pooling = pooling_arguments(encoder, architecture)
    model_class = getattr(transformers, architecture.class_name)
    exported = model_class.from_pretrained(folder, use_safetensors=True, **pooling).eval()
    inputs = _inputs(exported.config, encoder.config.segments > 1)

    differences: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        ours = _our_outputs(encoder.to(dtype).eval(), head, dtype, inputs, architecture)
        theirs = _their_outputs(exported.to(dtype), inputs, architecture)
        for quantity, values in ours.items():
            size = float(values.abs().max()) if dtype == torch.float32 else 1.0
            name = f"{quantity}, {str(dtype).removeprefix('torch.')}"
            difference = values - theirs[quantity]
            if quantity != POOLED:
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
    encoder: Bert,
    head: nn.Module | None,
    dtype: torch.dtype,
    inputs: Inputs,
    architecture: Architecture,
) -> dict[str, Tensor]:
    """Return features [B, T, D], and the logits of the head: [B, T, V], or [B, T] of a discriminator.

    With a pooler also the state that it makes, [B, D].
    """
    views = {"tokens": inputs.tokens, "segments": inputs.segments}
    states = (POOLED,) if exports_pooler(encoder, architecture) else ()
    encoded = encoder(views, inputs.mask, states=states)
    features = encoded.features
    if head is None:
        return {"features": features, **encoded.states}
    logits = head.to(dtype).eval()(features)
    if architecture.role == REPLACED_TOKEN:
        logits = logits.squeeze(-1)
    return {"features": features, "logits": logits}


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
    return {"features": features, "logits": exported(**arguments).logits}
