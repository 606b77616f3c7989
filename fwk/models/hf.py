"""Any encoder that Hugging Face's `AutoModel` knows, with its weights or new ones.

    model: {name: hf, path: FOLDER}           BERT, RoBERTa, DeBERTa, ModernBERT, DistilBERT, MPNet, ALBERT, ELECTRA ...
    model: {name: hf, path: hub:OWNER/NAME}   a repository of the Hugging Face hub

What is read: config.json, the weights in safetensors, and the tokenizer, which becomes the task's. Hidden states are
those of `AutoModel` itself. `embedding_change` is added to the vectors of the tokens (`inputs_embeds`), and so before
positions, segments, norm and projection. Segments reach the architectures that have at least two.

State `embedding` is the input of the first layer, `layer_1` to the last are the outputs of the layers as
`output_hidden_states` gives them, and `pooled` [B, D] is the output of the pooler, where the architecture has one.

How an architecture behaves (its width, its states, whether a position sees later ones) is found by encoding a short
sequence when it is built, rather than from a table of architectures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fwk.components.registry import register
from fwk.contracts.context import BuildContext, Vocabulary
from fwk.contracts.encoder import Encoder
from fwk.contracts.json_files import parse_json
from fwk.contracts.options import option
from fwk.contracts.plain import PlainDict
from fwk.contracts.sizes import Transformer
from fwk.contracts.views import Encoded
from fwk.data.hub import model_folder
from fwk.data.tokenizers import load as load_tokenizer
from fwk.data.weights import read_folder_weights
from fwk.errors import CheckpointError, ConfigError, UserError
from fwk.models.auto_model import (
    CONFIG,
    Attention,
    Settings,
    cut_vocabulary,
    embedding_of,
    for_vocabulary,
    make_model,
    read_config,
)
from fwk.models.measuring import longest_sequence, measure, named_parts, reads_segments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# files of a folder that hold its tokenizer
TOKENIZERS = ("fwk-tokenizer.json", "tokenizer.json", "vocab.txt")


@register("model", "hf")
class HuggingFace(Encoder["HuggingFace.Config"]):
    """Any encoder of Hugging Face transformers (`AutoModel`): BERT, RoBERTa, DeBERTa, ModernBERT, MPNet and others."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        path: str = option(
            doc="folder with config.json, safetensors and tokenizer, or hub:NAME for a repository of the hub",
            paths=(),
            brings="task.tokenizer",
        )
        random: bool = option(
            False, "take the architecture alone, with new weights and the task's vocabulary"
        )
        dropout: float | None = option(
            None,
            "dropout of embeddings and residual branches (null: that of config.json)",
            low=0,
            high=1,
        )
        attention_dropout: float | None = option(
            None, "dropout of attention probabilities (null: that of config.json)", low=0, high=1
        )
        attention: Attention = option(
            "auto",
            "implementation of attention: torch's kernel (sdpa), plain (eager), or sdpa where it exists (auto)",
        )

    def __init__(self, config: Config, build: BuildContext) -> None:
        super().__init__(config, build)
        key = build.key or "model"
        _require_library(key)
        vocabulary = build.require_vocabulary()
        settings = Settings(
            attention=config.attention,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            key=key,
        )
        if build.assets is None:
            self.values, self.model = _begin(config, settings, vocabulary)
        else:
            self.values = _kept_config(build.assets)
            self.model = make_model(self.values, settings, f"{CONFIG} of the run", None)
        embedding = embedding_of(self.model)
        # some architectures find positions by an id of padding of their own; they are given vectors
        self._reads_ids = embedding.padding_idx in (None, vocabulary.pad)
        if not self._reads_ids:
            embedding.padding_idx = vocabulary.pad if vocabulary.pad >= 0 else None
        measured = measure(self.model, max(vocabulary.pad, 0), key)
        self.width, self._widths, self.direction = (
            measured.width,
            measured.states,
            measured.direction,
        )
        self.longest = longest_sequence(self.model)
        _require_length(self.longest, build.length, key)
        self.reads_segments = reads_segments(self.model)
        self._parts = {name: f"model.{path}" for name, path in named_parts(self.model).items()}

    @classmethod
    def transformers(
        cls, config: Config, main: tuple[Transformer, ...] | None
    ) -> tuple[Transformer, ...]:
        """Return the sizes in config.json where they have the usual names; (): unknown, or the folder is gone."""
        try:
            values = read_config(model_folder(config.path, "model.path", files=(CONFIG,)))
        except UserError:
            return ()
        return _sizes(values)

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        mask: Tensor | None,
        embedding_change: Tensor | None = None,
        states: Sequence[str] = (),
    ) -> Encoded:
        """Return the features [B, T, D] and the states: [B, T, ...], and [B, D] for `pooled`."""
        tokens = inputs["tokens"]  # [B, T]
        arguments: dict[str, Tensor] = {}
        if embedding_change is None and self._reads_ids:
            arguments["input_ids"] = tokens
        else:
            x = self.embedding()(tokens)  # [B, T, E]
            arguments["inputs_embeds"] = x if embedding_change is None else x + embedding_change
        if mask is not None:
            arguments["attention_mask"] = mask.long()
        if "segments" in inputs and self.reads_segments:
            arguments["token_type_ids"] = inputs["segments"]
        inner = any(name != "pooled" for name in states)
        output = self.model(**arguments, output_hidden_states=inner)
        returned: dict[str, Tensor] = {}
        for name in states:
            if name == "pooled":
                returned[name] = output.pooler_output
            else:
                number = 0 if name == "embedding" else int(name.removeprefix("layer_"))
                returned[name] = output.hidden_states[number]
        return Encoded(features=output.last_hidden_state, states=returned)

    def reinitialise(self, module: nn.Module, deviation: float = 0.02) -> None:
        """Give a module new weights with the deviation of config.json (`initializer_range`)."""
        known = self.values.get("initializer_range")
        super().reinitialise(module, known if isinstance(known, float) else deviation)

    def state_names(self) -> tuple[str, ...]:
        """Return `embedding`, the layers from 1, and `pooled` where there is a pooler."""
        return tuple(self._widths)

    def state_width(self, name: str) -> int:
        """Return the last dimension of a state."""
        return self._widths[name]

    def embedding(self) -> nn.Embedding:
        """Return the token embedding."""
        return embedding_of(self.model)

    def parts(self) -> dict[str, str]:
        """Return the token embedding, and layers and positions where they are modules of their own."""
        return self._parts

    def assets(self) -> dict[str, bytes]:
        """Return the architecture."""
        return {CONFIG: (json.dumps(self.values, indent=2) + "\n").encode()}


def _require_library(key: str) -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{key}.name", "'hf' needs the package 'transformers'; pip install 'fwk[hf]'"
        ) from None


def _begin(
    config: HuggingFace.Config, settings: Settings, vocabulary: Vocabulary
) -> tuple[PlainDict, PreTrainedModel]:
    """Return the architecture and the model that a run begins with."""
    folder = model_folder(config.path, f"{settings.key}.path")
    values, where = read_config(folder), str(folder / CONFIG)
    if config.random:
        values = for_vocabulary(values, vocabulary.size, vocabulary.pad)
        return values, make_model(values, settings, where, None)
    _require_own_tokenizer(folder, vocabulary, settings.key)
    model = make_model(values, settings, where, read_folder_weights(folder))
    _require_own_ids(model, vocabulary, where)
    return cut_vocabulary(values, model, vocabulary.size), model


def _require_own_tokenizer(folder: Path, vocabulary: Vocabulary, key: str) -> None:
    """Raise ConfigError where the task's tokenizer is not the one beside the weights, if there is one."""
    if not vocabulary.fingerprint or not any((folder / name).exists() for name in TOKENIZERS):
        return
    tokenizer = load_tokenizer(folder)
    if tokenizer.fingerprint != vocabulary.fingerprint:
        raise ConfigError(
            "task.tokenizer",
            f"has {vocabulary.size:,} tokens and is not that of {folder}, which the weights were trained with "
            f"({tokenizer.size:,} tokens); expected task.tokenizer={folder}, or the architecture alone "
            f"({key}.random=true)",
        )


def _require_own_ids(model: PreTrainedModel, vocabulary: Vocabulary, where: str) -> None:
    """Raise ConfigError where the model has no vectors for all tokens, or pads with another one."""
    known = embedding_of(model).num_embeddings
    if vocabulary.size > known:
        raise ConfigError(
            "task.tokenizer",
            f"has {vocabulary.size:,} tokens, and the model {where} reads {known:,}; expected its own tokenizer",
        )
    pad = embedding_of(model).padding_idx
    if pad is not None and pad != vocabulary.pad:
        raise ConfigError(
            "task.tokenizer",
            f"pads with the id {vocabulary.pad}, and the model {where} with {pad}; expected its own tokenizer",
        )


def _require_length(longest: int, length: int, key: str) -> None:
    """Raise ConfigError where the task may make longer sequences than the model reads. 0: no limit."""
    if 0 < longest < length:
        raise ConfigError(
            "task.length",
            f"is {length:,}, and {key} reads sequences of at most {longest:,} tokens; set task.length={longest}",
        )


def _kept_config(assets: Mapping[str, bytes]) -> PlainDict:
    """Return the architecture that the run kept. Raises CheckpointError where it lacks or damaged the file."""
    try:
        values = parse_json(assets[CONFIG])
    except (KeyError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(
            f"the run's folder tokenizer/ lacks the {CONFIG} of a network of 'hf'"
        )
    return values


# names of sizes in the configurations of transformers
_SIZES = (
    ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    ("hidden_size", "dim", "d_model", "n_embd"),
    ("num_attention_heads", "n_heads", "n_head"),
    ("intermediate_size", "hidden_dim", "d_inner"),
)


def _sizes(values: PlainDict) -> tuple[Transformer, ...]:
    """Return the sizes in a config.json; () where one is missing. Operations are counted as those of BERT."""
    sizes = [_size(values, names) for names in _SIZES]
    if 0 in sizes:
        return ()
    layers, width, heads, inner = sizes
    return (Transformer(layers, width, heads, inner, _size(values, ("embedding_size",)) or width),)


def _size(values: PlainDict, names: Sequence[str]) -> int:
    """Return the first of these entries that is a number above 0; 0 if no entry is."""
    numbers = (values[name] for name in names if isinstance(values.get(name), int))
    return next((number for number in numbers if number > 0), 0)
