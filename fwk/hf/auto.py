"""Export of the encoders that are models of `transformers` themselves (the model 'hf')."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from fwk.engine.loaded import Loaded
from fwk.errors import RunError
from fwk.hf import tokenizer as tokenizers
from fwk.hf.comparing import TOLERANCE, random_inputs, require_equal
from fwk.models.hf import HuggingFace

DEFAULT_LENGTH = (
    512  # tokens that the tokenizer is said to read, where neither model nor task has a limit
)


def write_encoder(loaded: Loaded, encoder: HuggingFace, folder: Path) -> dict[str, float]:
    """Write config, weights and tokenizer, and return the largest differences of the model that is read back.

    Raises RunError where it differs, or where the disk is full.
    """
    try:
        encoder.model.save_pretrained(folder)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise RunError(f"the weights could not be written ({str(error)[:120]})") from None
    longest = encoder.longest or loaded.task.length() or DEFAULT_LENGTH
    tokenizers.write(loaded.tokenizer, folder, longest, pairs=encoder.reads_segments)
    return _differences(encoder, folder)


def _differences(encoder: HuggingFace, folder: Path) -> dict[str, float]:
    """Return the largest difference of features by precision, over everything but padding."""
    from transformers import AutoModel

    exported = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    tokens, mask = random_inputs(encoder.embedding(), encoder.longest)
    differences = {}
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad():
            ours = encoder.to(dtype).eval()({"tokens": tokens}, mask).features[mask]
            output = exported.to(dtype).eval()(input_ids=tokens, attention_mask=mask.long())
        name = f"features, {str(dtype).removeprefix('torch.')}"
        differences[name] = float((ours - output.last_hidden_state[mask]).abs().max())
        size = float(ours.abs().max()) if dtype == torch.float32 else 1.0
        require_equal(name, differences[name], TOLERANCE * max(1.0, size))
    return differences
