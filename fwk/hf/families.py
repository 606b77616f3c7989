"""The BERT and ELECTRA families of `transformers`: their classes, options and names of weights.

    fwk's `bert`                                     transformers
    layers.N.query_key_value [3D, D]                 encoder.layer.N.attention.self.query, .key, .value [D, D] each
    embeddings.project                               embeddings_project (ELECTRA, where the embedding is narrower)
    head 'masked_lm': transform, norm, output        cls.predictions (BERT), generator_predictions and
                                                     generator_lm_head (ELECTRA)
    head 'replaced_token': dense, GELU, dense        discriminator_predictions (ELECTRA); positive where
                                                     a token was replaced
    heads of whole sequences: dense, output          bert.pooler and classifier (BERT), classifier.dense and .out_proj,
                                                     or sequence_summary.summary and classifier (ELECTRA)
    head 'question_answering': output                qa_outputs

A head is identified by its role (`Criterion.roles`): the head of any criterion or noiser of a role can be exported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fwk.contracts.json_files import fitted
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import ConfigError
from fwk.models.bert import Bert

# roles of heads
MASKED_LM, REPLACED_TOKEN = "masked_lm", "replaced_token"
MULTIPLE_CHOICE, QUESTION_ANSWERING = "multiple_choice", "question_answering"
# roles of heads in the classes for sequence classification -> `problem_type` in config.json
PROBLEMS = {
    "sequence_classification": "single_label_classification",
    "multilabel_classification": "multi_label_classification",
    "sequence_regression": "regression",
}
# of the norm in fwk's masked-LM head; transformers has one epsilon for encoder and head
HEAD_EPS = 1e-12


@dataclass(frozen=True)
class Head:
    """A head of a family."""

    class_name: str  # the class of transformers that has it
    modules: Mapping[str, str]  # name in fwk's head -> name in transformers
    # of heads that read the first position: the activations that a dense layer before the output may have (none: there
    # is no such layer)
    hidden: tuple[str, ...] = ()
    pooler: bool = False  # that dense layer is BERT's pooler, a part of the encoder


@dataclass(frozen=True)
class Family:
    """A family of models in transformers."""

    name: str  # also the prefix of its encoder's weights
    encoder_class: str  # an encoder without a head
    config_class: str
    heads: Mapping[str, Head]  # by role
    factorised: bool  # the embedding may be narrower than the encoder


BERT = Family(
    name="bert",
    encoder_class="BertModel",
    config_class="BertConfig",
    heads={
        MASKED_LM: Head(
            "BertForMaskedLM",
            {
                "transform": "cls.predictions.transform.dense",
                "norm": "cls.predictions.transform.LayerNorm",
                "output": "cls.predictions.decoder",
            },
        ),
        **dict.fromkeys(
            PROBLEMS,
            Head(
                "BertForSequenceClassification",
                {"output": "classifier"},
                hidden=("tanh",),
                pooler=True,
            ),
        ),
        MULTIPLE_CHOICE: Head(
            "BertForMultipleChoice", {"output": "classifier"}, hidden=("tanh",), pooler=True
        ),
        QUESTION_ANSWERING: Head("BertForQuestionAnswering", {"output": "qa_outputs"}),
    },
    factorised=False,
)
ELECTRA = Family(
    name="electra",
    encoder_class="ElectraModel",
    config_class="ElectraConfig",
    heads={
        MASKED_LM: Head(
            "ElectraForMaskedLM",
            {
                "transform": "generator_predictions.dense",
                "norm": "generator_predictions.LayerNorm",
                "output": "generator_lm_head",
            },
        ),
        REPLACED_TOKEN: Head(
            "ElectraForPreTraining",
            {
                "0": "discriminator_predictions.dense",
                "2": "discriminator_predictions.dense_prediction",
            },
        ),
        **dict.fromkeys(
            PROBLEMS,
            Head(
                "ElectraForSequenceClassification",
                {"dense": "classifier.dense", "output": "classifier.out_proj"},
                hidden=("gelu", "none"),
            ),
        ),
        MULTIPLE_CHOICE: Head(
            "ElectraForMultipleChoice",
            {"dense": "sequence_summary.summary", "output": "classifier"},
            hidden=("gelu", "tanh", "none"),
        ),
        QUESTION_ANSWERING: Head("ElectraForQuestionAnswering", {"output": "qa_outputs"}),
    },
    factorised=True,
)
FAMILIES = {family.name: family for family in (BERT, ELECTRA)}

# modules within a layer, except query, key and value
LAYER = {
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
POOLER = "pooler.dense"
# modules that have no bias
TABLES = tuple(f"encoder.embeddings.{name}" for name in ("token", "position", "segment"))
# options of `bert` and the values of them that both families have
HELD_OPTIONS = {
    "positions": ("learned", "none"),
    "norm": ("post",),
    "direction": ("both",),
    "buckets": (0,),
}
# options of transformers and the values of them that `bert` has
REQUIRED_OPTIONS = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class Architecture:
    """A class of transformers: a family, and the role of its head (None: an encoder without a head)."""

    family: Family
    role: str | None

    @property
    def class_name(self) -> str:
        """The name of the class in transformers."""
        return self.family.encoder_class if self.role is None else self.head.class_name

    @property
    def head(self) -> Head:
        """The head of the class. Only for architectures that have one."""
        assert self.role is not None
        return self.family.heads[self.role]

    @property
    def prefix(self) -> str:
        """What stands before the names of the encoder's weights in transformers."""
        return "" if self.role is None else f"{self.family.name}."


# by name of the class; of the roles that share one, the first
ARCHITECTURES = {
    architecture.class_name: architecture
    for family in FAMILIES.values()
    for architecture in (
        Architecture(family, role) for role in (None, *reversed(list(family.heads)))
    )
}


# -- what fits -------------------------------------------------------------------------------------------------------


def choose_architecture(
    config: Any, role: str | None, family: str = "auto", hidden: str | None = None
) -> Architecture:
    """Return the architecture that can hold an encoder of this `bert` config, and a head of this role.

    `family`: 'auto' for the simpler family that can. `hidden`: the activation of a head that reads the first position
    (see `Head.hidden`). Raises ConfigError where the named family cannot hold the embedding or the role.
    """
    narrow = _is_narrow(config)
    if family == "auto":
        family = "bert" if not narrow and has_head(BERT, role, hidden) else "electra"
    chosen = FAMILIES[family]
    if role is not None and role not in chosen.heads:
        raise ConfigError("--family", f"'{family}' has no head of the kind '{role}'; use electra")
    if narrow and not chosen.factorised:
        raise ConfigError(
            "--family",
            f"{family} has no embedding of another width ({config.embedding}) than the encoder's "
            f"({config.shape()[1]}); use electra",
        )
    return Architecture(chosen, role)


def has_head(family: Family, role: str | None, hidden: str | None = None) -> bool:
    """Return whether a family has a head of this role and with this activation. None: of any."""
    if role is None:
        return True
    return role in family.heads and (hidden is None or hidden in family.heads[role].hidden)


def _is_narrow(config: Any) -> bool:
    """Return whether the token embedding has another width than the encoder."""
    return config.embedding is not None and config.embedding != config.shape()[1]


def require_holdable(encoder: nn.Module, role: str | None) -> Bert:
    """Return the encoder. Raises ConfigError, with the reason, where the families cannot hold it."""
    if type(encoder) is not Bert:
        raise ConfigError(
            "model.name",
            f"{type(encoder).__name__} has no counterpart in the BERT and ELECTRA families of transformers; "
            "expected 'bert'",
        )
    for key, held in HELD_OPTIONS.items():
        value = getattr(encoder.config, key)
        if value not in held:
            raise ConfigError(
                f"model.{key}",
                f"the BERT and ELECTRA families of transformers have no '{value}'; they have "
                f"{' or '.join(map(str, held))}",
            )
    if role == MASKED_LM:
        require_head_eps(encoder.config.norm_eps)
    return encoder


def require_head_eps(eps: float) -> None:
    """Raise ConfigError where the encoder's epsilon is not that of fwk's masked-LM head, since transformers has one."""
    if eps != HEAD_EPS:
        raise ConfigError(
            "model.norm_eps",
            f"transformers uses {eps:g} (layer_norm_eps) in the masked-LM head too, where fwk uses "
            f"{HEAD_EPS:g}; expected {HEAD_EPS:g}",
        )


# -- options ---------------------------------------------------------------------------------------------------------


def transformers_options(encoder: Bert, family: Family, length: int) -> PlainDict:
    """Return the options of the family's config class. `length`: of positions, where the encoder learns none."""
    config = encoder.config
    layers, width, heads = config.shape()
    position = encoder.embeddings.position
    options = {
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
    }
    if family.factorised:
        options["embedding_size"] = config.embedding or width
    return options


# types of the entries of a config.json
SIZES = dict.fromkeys(
    (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size?",
        "embedding_size?",
    ),
    "int",
)
RATES = dict.fromkeys(
    ("layer_norm_eps?", "hidden_dropout_prob?", "attention_probs_dropout_prob?"), "float"
)


def bert_options(config: PlainMapping, family: Family, file: str) -> PlainDict:
    """Return the options of `bert` for a config.json of transformers. Raises ConfigError naming what `bert` lacks."""
    for key, value in REQUIRED_OPTIONS.items():
        if config.get(key, value) not in (value, None):
            raise ConfigError(
                key, f"{config[key]!r} in {file} is not supported by 'bert'; expected {value!r}"
            )
    sizes = fitted(dict(config), SIZES, file, low=0, high=1 << 31)
    rates = fitted(dict(config), RATES, file, low=0, high=1)
    width = sizes["hidden_size"]
    options: PlainDict = {
        "layers": sizes["num_hidden_layers"],
        "width": width,
        "heads": sizes["num_attention_heads"],
        "inner": sizes["intermediate_size"],
        "positions": "learned",
        "length": sizes["max_position_embeddings"],
        "segments": sizes.get("type_vocab_size", 2),
        "norm": "post",
        "norm_eps": rates.get("layer_norm_eps", 1e-12),
        "dropout": rates.get("hidden_dropout_prob", 0.1),
        "attention_dropout": rates.get("attention_probs_dropout_prob", 0.1),
    }
    if family.factorised and sizes.get("embedding_size", width) != width:
        options["embedding"] = sizes["embedding_size"]
    return options


# -- weights ---------------------------------------------------------------------------------------------------------

WeightNames = Mapping[str, tuple[str, ...]]  # fwk -> transformers; three for query, key and value


def exports_pooler(encoder: Bert, architecture: Architecture) -> bool:
    """Return whether an encoder has a pooler, and the class of transformers without a head has one too."""
    return encoder.pooler is not None and architecture == Architecture(BERT, None)


def pooling_arguments(encoder: Bert, architecture: Architecture) -> dict[str, bool]:
    """Return the arguments of a class of transformers that leave out the pooler where the encoder has none."""
    if architecture != Architecture(BERT, None) or exports_pooler(encoder, architecture):
        return {}
    return {"add_pooling_layer": False}


def has_pooler(tensors: Collection[str], architecture: Architecture) -> bool:
    """Return whether weights of transformers, by name, hold BERT's pooler."""
    return architecture.family == BERT and f"{architecture.prefix}{POOLER}.weight" in tensors


def weight_names(
    config: Any, architecture: Architecture, pooler: bool = False, dense: bool = True
) -> dict[str, tuple[str, ...]]:
    """Return the names of all weights: in fwk, with 'encoder.' or 'head.' in front -> in transformers.

    pooler: include BERT's pooler. dense: a head of whole sequences has a dense layer before the output.
    """
    pairs: dict[str, tuple[str, ...]] = {}
    for module, modules in _module_names(config, architecture):
        if module == "head.dense" and not dense:
            continue
        parts = ("weight",) if module in TABLES else ("weight", "bias")
        for part in parts:
            pairs[f"{module}.{part}"] = tuple(f"{name}.{part}" for name in modules)
    if pooler:
        theirs = f"{architecture.prefix}{POOLER}"
        pairs |= {f"encoder.pooler.{part}": (f"{theirs}.{part}",) for part in ("weight", "bias")}
    return pairs


def _module_names(config: Any, architecture: Architecture) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name of each module in fwk and in transformers."""
    prefix = architecture.prefix
    for name, theirs in EMBEDDINGS.items():
        yield f"encoder.embeddings.{name}", (f"{prefix}embeddings.{theirs}",)
    for number in range(config.shape()[0]):
        layer = f"{prefix}encoder.layer.{number}"
        attention = tuple(f"{layer}.attention.self.{name}" for name in ("query", "key", "value"))
        yield f"encoder.layers.{number}.query_key_value", attention
        for name, theirs in LAYER.items():
            yield f"encoder.layers.{number}.{name}", (f"{layer}.{theirs}",)
    if _is_narrow(config):
        yield "encoder.embeddings.project", (f"{prefix}embeddings_project",)
    if architecture.role is not None:
        for name, theirs in architecture.head.modules.items():
            yield f"head.{name}", (theirs,)


def to_transformers(tensors: Mapping[str, Tensor], names: WeightNames) -> dict[str, Tensor]:
    """Return copies of the weights under the names of transformers."""
    weights: dict[str, Tensor] = {}
    for name, theirs in names.items():
        if name in tensors:
            weights.update(zip(theirs, tensors[name].chunk(len(theirs)), strict=True))
    return {name: value.detach().clone() for name, value in weights.items()}


def from_transformers(tensors: Mapping[str, Tensor], names: WeightNames) -> dict[str, Tensor]:
    """Return the weights under the names of fwk, without those that are missing."""
    return {
        name: torch.cat([tensors[part] for part in theirs])
        for name, theirs in names.items()
        if all(part in tensors for part in theirs)
    }
