"""What the BERT and ELECTRA classes of `transformers` hold, beside what `bert` holds here: options, and names of weights.

    here                                             there
    layers.N.query_key_value [3D, D]                 encoder.layer.N.attention.self.query, .key, .value [D, D] each
    embeddings.project                               embeddings_project (ELECTRA, where the embedding is narrower)
    head 'masked_lm': transform, norm, output        cls.predictions (BERT), generator_predictions and generator_lm_head (ELECTRA)
    head 'replaced_token': dense, GELU, dense        discriminator_predictions (ELECTRA); positive where a token was replaced

Heads are known by their role (`Criterion.roles`), so that whatever criterion or noiser has one can be exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fwk.errors import ConfigError
from fwk.models.bert import Bert

LAYER = {  # names within a layer, but for query, key and value
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
EMBEDDINGS = {
    "token": "word_embeddings",
    "position": "position_embeddings",
    "segment": "token_type_embeddings",
    "norm": "LayerNorm",
}
HEADS = {  # by family and role: module here -> module there
    ("bert", "masked_lm"): {
        "transform": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "output": "cls.predictions.decoder",
    },
    ("electra", "masked_lm"): {
        "transform": "generator_predictions.dense",
        "norm": "generator_predictions.LayerNorm",
        "output": "generator_lm_head",
    },
    ("electra", "replaced_token"): {
        "0": "discriminator_predictions.dense",
        "2": "discriminator_predictions.dense_prediction",
    },
}
CLASSES = {
    ("bert", None): "BertModel",
    ("electra", None): "ElectraModel",
    ("bert", "masked_lm"): "BertForMaskedLM",
    ("electra", "masked_lm"): "ElectraForMaskedLM",
    ("electra", "replaced_token"): "ElectraForPreTraining",
}
HEAD_EPS = 1e-12  # of the norm in our masked-LM head; over there it is that of the encoder


@dataclass(frozen=True)
class Shape:
    """family: bert or electra. role: of the head, None for an encoder alone."""

    family: str
    role: str | None

    @property
    def class_name(self) -> str:
        return CLASSES[self.family, self.role]

    @property
    def prefix(self) -> str:
        """Of the encoder's weights over there."""
        return "" if self.role is None else f"{self.family}."


def shape_for(config: Any, role: str | None, family: str = "auto") -> Shape:
    """The family that holds this encoder and head. ConfigError where the one that is asked for does not."""
    narrow = config.embedding is not None and config.embedding != config.shape()[1]
    if family == "auto":
        family = "electra" if narrow or role == "replaced_token" else "bert"
    if (family, role) not in CLASSES:
        raise ConfigError(
            "--family", f"'{family}' has no head of the kind '{role}'; expected electra"
        )
    if family == "bert" and narrow:
        raise ConfigError(
            "--family",
            f"bert has no embedding of another width ({config.embedding}) than the encoder's "
            f"({config.shape()[1]}); expected electra",
        )
    return Shape(family, role)


def refuse_what_does_not_fit(encoder: nn.Module, role: str | None) -> None:
    """ConfigError, with the reason, for an encoder that the families cannot hold."""
    if type(encoder) is not Bert:
        raise ConfigError(
            "model.name",
            f"{type(encoder).__name__} is no encoder that the BERT and ELECTRA families of transformers "
            "hold; expected 'bert'",
        )
    config = encoder.config
    for key, wanted in (
        ("positions", ("learned", "none")),
        ("norm", ("post",)),
        ("direction", ("both",)),
        ("buckets", (0,)),
    ):
        if getattr(config, key) not in wanted:
            raise ConfigError(
                f"model.{key}",
                f"the BERT and ELECTRA families of transformers have no '{getattr(config, key)}'; they hold "
                f"{' or '.join(map(str, wanted))}",
            )
    if role == "masked_lm":
        refuse_another_eps(config.norm_eps)


def refuse_another_eps(eps: float) -> None:
    """ConfigError where the encoder's epsilon is not that of our masked-LM head: over there both are one."""
    if eps != HEAD_EPS:
        raise ConfigError(
            "model.norm_eps",
            f"{eps:g} is that of the masked-LM head too over there (layer_norm_eps), which has "
            f"{HEAD_EPS:g} here",
        )


def options_there(encoder: Bert, length: int) -> dict[str, Any]:
    """What a configuration of transformers says. length: of positions, where the encoder has none of its own."""
    config = encoder.config
    layers, width, heads = config.shape()
    position = encoder.embeddings.position
    return {
        "vocab_size": encoder.embeddings.token.num_embeddings,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": config.inner or 4 * width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": length if position is None else position.num_embeddings,
        "type_vocab_size": max(config.segments, 1),
        "layer_norm_eps": config.norm_eps,
        "initializer_range": 0.02,
        "embedding_size": config.embedding or width,
    }


def options_here(there: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """The options of `bert` for a configuration of transformers. ConfigError names what cannot be held."""
    expected = {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for key, value in expected.items():
        if there.get(key, value) not in (value, None):
            raise ConfigError(
                key, f"{there[key]!r} in {where} is nothing that 'bert' can do; expected {value!r}"
            )
    try:
        width = int(there["hidden_size"])
        found = {
            "layers": int(there["num_hidden_layers"]),
            "width": width,
            "heads": int(there["num_attention_heads"]),
            "inner": int(there["intermediate_size"]),
            "positions": "learned",
            "length": int(there["max_position_embeddings"]),
            "segments": int(there.get("type_vocab_size", 2)),
            "norm": "post",
            "norm_eps": float(there.get("layer_norm_eps", 1e-12)),
            "dropout": float(there.get("hidden_dropout_prob", 0.1)),
            "attention_dropout": float(there.get("attention_probs_dropout_prob", 0.1)),
        }
        if family == "electra" and int(there.get("embedding_size", width)) != width:
            found["embedding"] = int(there["embedding_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "",
            f"{where} is no configuration of the family '{family}' ({type(error).__name__}: {error})",
        ) from None
    return found


def names(config: Any, shape: Shape) -> dict[str, tuple[str, ...]]:
    """Weights: name here ('encoder.' or 'head.' in front) -> name there; three names for query, key and value in one."""
    layers = config.shape()[0]
    pairs: dict[str, tuple[str, ...]] = {}
    for mine, theirs in EMBEDDINGS.items():
        parts = ("weight", "bias") if mine == "norm" else ("weight",)
        pairs.update(
            {
                f"encoder.embeddings.{mine}.{part}": (f"{shape.prefix}embeddings.{theirs}.{part}",)
                for part in parts
            }
        )
    for number in range(layers):
        start, there = f"encoder.layers.{number}.", f"{shape.prefix}encoder.layer.{number}."
        for part in ("weight", "bias"):
            pairs[f"{start}query_key_value.{part}"] = tuple(
                f"{there}attention.self.{one}.{part}" for one in ("query", "key", "value")
            )
            pairs.update(
                {
                    f"{start}{mine}.{part}": (f"{there}{theirs}.{part}",)
                    for mine, theirs in LAYER.items()
                }
            )
    if config.embedding is not None and config.embedding != config.shape()[1]:
        pairs.update(
            {
                f"encoder.embeddings.project.{part}": (f"{shape.prefix}embeddings_project.{part}",)
                for part in ("weight", "bias")
            }
        )
    if shape.role is not None:
        for mine, theirs in HEADS[shape.family, shape.role].items():
            pairs.update(
                {f"head.{mine}.{part}": (f"{theirs}.{part}",) for part in ("weight", "bias")}
            )
    return pairs


def to_there(
    tensors: Mapping[str, Tensor], pairs: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """Weights under our names -> under theirs."""
    found: dict[str, Tensor] = {}
    for mine, theirs in pairs.items():
        if mine in tensors:
            found.update(zip(theirs, tensors[mine].chunk(len(theirs)), strict=True))
    return {name: value.detach().clone() for name, value in found.items()}


def to_here(
    tensors: Mapping[str, Tensor], pairs: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """Weights under their names -> under ours; those that are missing are left out."""
    return {
        mine: torch.cat([tensors[one] for one in theirs])
        for mine, theirs in pairs.items()
        if all(one in tensors for one in theirs)
    }
