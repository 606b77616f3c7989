"""Encoders of sentence vectors in the folder layout of the library `sentence-transformers`.

    config.json, model.safetensors, tokenizer   an encoder of `transformers`
    modules.json                                the encoder, then the pooling
    1_Pooling/config.json                       how the vector of a text is made of the features of its tokens
    sentence_bert_config.json                   the longest text
    config_sentence_transformers.json           versions, and how vectors are compared

The library is not needed. The vectors are compared by what these files say, with an encoder that `transformers` loads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from fwk.contracts.criterion import Criterion
from fwk.contracts.encoder import Encoder
from fwk.contracts.json_files import read_object
from fwk.contracts.plain import PlainDict
from fwk.contracts.views import View
from fwk.engine.loaded import Loaded
from fwk.errors import ConfigError, did_you_mean
from fwk.hf.comparing import TOLERANCE, random_inputs, require_equal
from fwk.nn.pooling import Pooling, pooled

POOLINGS: dict[Pooling, str] = {  # of fwk -> the entry of 1_Pooling/config.json that is true
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}
# poolings that fwk does not have
OTHER_MODES = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
POOLING_FOLDER = "1_Pooling"
MODULES = (("", "Transformer"), (POOLING_FOLDER, "Pooling"))
LAYOUT_VERSION = "2.2.2"  # of the library, whose layout later versions read


@dataclass(frozen=True)
class Vectors:
    """An encoder of sentence vectors."""

    by: str | None  # the criterion that compares vectors; None: none does
    encoder: Encoder
    pooling: Pooling  # one of POOLINGS


def find_vectors(
    loaded: Loaded, by: str | None, wanted: bool, pooling: str | None
) -> Vectors | None:
    """Return the encoder of sentence vectors that is exported; None: something else is.

    by: a criterion that compares vectors. wanted: whether the user asked for the layout; otherwise it is written where
    `by` names such a criterion, or the run has one and no head. pooling: None for the criterion's, else the mean.
    Raises ConfigError for a pooling that the layout lacks.
    """
    criteria = {name: cast(Criterion, item) for name, item in loaded.module.criteria.items()}
    poolings = {label: item.pooling_of_vectors() for label, item in criteria.items()}
    known = {label: name for label, name in poolings.items() if name is not None}
    if by is None and known and (wanted or not any(item.roles for item in criteria.values())):
        by = next(iter(known))
    if by not in known and not wanted:
        if pooling is not None:
            raise ConfigError("--pooling", "belongs to --sentence-transformers")
        return None
    if by is not None and by not in known and by != "encoder":
        raise ConfigError(
            "--by", f"'{by}' compares no vectors{did_you_mean(by, [*known, 'encoder'])}"
        )
    by = by if by in known else None
    name = pooling or (known[by] if by else "mean")
    for held in POOLINGS:
        if name == held:
            return Vectors(by, _encoder_of(loaded, by), held)
    raise ConfigError(
        "--pooling", f"sentence-transformers has no '{name}'; expected one of {', '.join(POOLINGS)}"
    )


def _encoder_of(loaded: Loaded, by: str | None) -> Encoder:
    """Return the encoder whose vectors a criterion compares; None: the main one. Raises ConfigError for several."""
    if by is None:
        return loaded.model.innermost()
    module = loaded.module
    names = sorted({module.specs[view].encoder for view in module.encodes[by]})
    if len(names) > 1:
        raise ConfigError(
            "--by",
            f"'{by}' compares vectors of the networks {', '.join(names)}, and sentence-transformers has one for all "
            "texts; export the main encoder (--by encoder)",
        )
    return cast(Encoder, module.networks[names[0]]).innermost()


# -- writing ---------------------------------------------------------------------------------------------------------


def write_layout(
    vectors: Vectors, folder: Path, longest: int, transformers: ModuleType
) -> dict[str, float]:
    """Write the files beside an exported encoder, and return the largest differences of vectors by precision.

    longest: tokens of the longest text. Raises RunError where the vectors differ.
    """
    types = "sentence_transformers.models."
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": types + name}
        for number, (path, name) in enumerate(MODULES)
    ]
    versions = {
        "sentence_transformers": LAYOUT_VERSION,
        "transformers": transformers.__version__,
        "pytorch": torch.__version__,
    }
    library: PlainDict = {
        "__version__": versions,
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    chosen = POOLINGS[vectors.pooling]
    modes = {mode: mode == chosen for mode in (*POOLINGS.values(), *OTHER_MODES)}
    pooling = {"word_embedding_dimension": vectors.encoder.width, **modes, "include_prompt": True}
    (folder / POOLING_FOLDER).mkdir()
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "config_sentence_transformers.json", library)
    _write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False}
    )
    _write_json(folder / POOLING_FOLDER / "config.json", pooling)
    return _differences(vectors, folder, transformers)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# -- comparing -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _differences(vectors: Vectors, folder: Path, transformers: ModuleType) -> dict[str, float]:
    """Return the largest difference of vectors by precision."""
    exported = transformers.AutoModel.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    ).eval()
    modes = read_object(folder / POOLING_FOLDER / "config.json")
    encoder, embedding = vectors.encoder, vectors.encoder.embedding()
    assert embedding is not None  # encoders that are exported read tokens
    tokens, mask = random_inputs(embedding, encoder.longest)
    differences = {}
    for dtype in (torch.float64, torch.float32):
        encoded = encoder.to(dtype).eval()({"tokens": tokens}, mask)
        view = View(name="texts", draws=torch.arange(len(tokens)), inputs={}, mask=mask)
        ours = pooled(view.replace(encoded=encoded), vectors.pooling)
        output = exported.to(dtype)(input_ids=tokens, attention_mask=mask.long())
        theirs = vectors_by_modes(output.last_hidden_state, mask, modes)
        name = f"vectors, {str(dtype).removeprefix('torch.')}"
        differences[name] = float((ours - theirs).abs().max())
        size = float(ours.abs().max()) if dtype == torch.float32 else 1.0
        require_equal(name, differences[name], TOLERANCE * max(1.0, size))
    return differences


def vectors_by_modes(features: Tensor, mask: Tensor, modes: PlainDict) -> Tensor:
    """Return vectors [B, D] as the library makes them. features: [B, T, D]. mask: bool [B, T]. modes: 1_Pooling."""
    weights = mask[..., None].to(features.dtype)  # [B, T, 1]
    parts = []
    if modes["pooling_mode_cls_token"]:
        parts.append(features[:, 0])
    if modes["pooling_mode_max_tokens"]:
        parts.append(features.masked_fill(weights == 0, -1e9).amax(1))
    if modes["pooling_mode_mean_tokens"]:
        parts.append((features * weights).sum(1) / weights.sum(1).clamp(min=1e-9))
    if modes["pooling_mode_lasttoken"]:
        last = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)  # [B]
        parts.append(features[torch.arange(len(last)), last])
    return torch.cat(parts, -1)
