"""Export of the encoders that are models of `transformers` themselves (the model 'hf'): as they are, or as `bert`."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from fwk.config.resolve import build
from fwk.contracts.context import BuildContext
from fwk.engine.loaded import Loaded
from fwk.errors import ConfigError, RunError
from fwk.hf import tokenizer as tokenizers
from fwk.hf.comparing import TOLERANCE, random_inputs, require_equal
from fwk.hf.families import (
    ARCHITECTURES,
    FAMILIES,
    bert_options,
    from_transformers,
    has_pooler,
    weight_names,
)
from fwk.models.bert import Bert
from fwk.models.hf import HuggingFace

# classes of encoders that `bert` can stand for
ENCODERS = {f.encoder_class: ARCHITECTURES[f.encoder_class] for f in FAMILIES.values()}

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


# -- as `bert` -------------------------------------------------------------------------------------------------------


def is_convertible(encoder: HuggingFace) -> bool:
    """Return whether an encoder is of a class that `bert` can stand for."""
    return type(encoder.model).__name__ in ENCODERS


def as_bert(loaded: Loaded, encoder: HuggingFace) -> Bert:
    """Return a `bert` with the weights of an encoder, for the export of a head on top of it.

    Raises ConfigError for another architecture than BERT and ELECTRA, and RunError where the features differ.
    """
    name = type(encoder.model).__name__
    if name not in ENCODERS:
        raise ConfigError(
            "--by",
            f"a {name} is exported without a head; heads go with {' and '.join(ENCODERS)}, expected --by encoder",
        )
    architecture = ENCODERS[name]
    weights = encoder.model.state_dict()
    options = bert_options(encoder.model.config.to_dict(), architecture.family, "config.json")
    config = build(Bert, {**options, "pooler": has_pooler(weights, architecture)})
    bert = Bert(config, BuildContext(name="main", vocabulary=loaded.task.vocabulary()))
    names = weight_names(config, architecture, config.pooler)
    tensors = from_transformers(weights, names)
    bert.load_state_dict({n.removeprefix("encoder."): v for n, v in tensors.items()})
    with torch.no_grad():
        tokens, mask = random_inputs(encoder.embedding(), encoder.longest)
        ours = encoder.eval()({"tokens": tokens}, mask).features[mask]
        theirs = bert.eval()({"tokens": tokens}, mask).features[mask]
    size = max(1.0, float(ours.abs().max()))
    require_equal("features", float((ours - theirs).abs().max()), TOLERANCE * size)
    return bert
