"""Models of Hugging Face `transformers`, made of a configuration and safetensors.

Nothing is unpickled, and no code that came with a model runs: architectures are those that `transformers` itself has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from fwk.contracts.json_files import read_object
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.contracts.shapes import shown
from fwk.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Attention = Literal["auto", "eager", "sdpa"]
CONFIG = "config.json"
MOST_LAYERS, MOST = 10_000, 1 << 24  # of layers, and of any other size in a configuration
_SIZE = re.compile("layer|size|head|dim|position|group|inner|d_model|n_embd|vocab")
# entries of a config.json that choose code or a type of numbers, which is done here
_CHOSEN_HERE = (
    *("architectures", "auto_map", "attn_implementation", "experts_implementation"),
    *("dtype", "torch_dtype", "transformers_version", "use_cache"),
)
_TOKENS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
_OF_HEADS = ("classif", "summary", "qa_", "pooler")  # in names of dropouts that heads apply


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run chooses beside the architecture."""

    attention: Attention
    dropout: float | None  # None: the configuration's
    attention_dropout: float | None
    key: str  # of the model's options, for errors


def read_config(folder: Path) -> PlainDict:
    """Return the architecture in a folder's config.json. Raises DataError where `transformers` itself has none such."""
    values = read_object(folder / CONFIG)
    if values.get("quantization_config"):
        raise DataError(f"{folder / CONFIG}: the weights are quantized, and cannot be trained")
    if values.get("is_encoder_decoder"):
        raise DataError(
            f"{folder / CONFIG}: the model has an encoder and a decoder; expected one that encodes"
        )
    _check_sizes(values, folder / CONFIG)
    return {
        name: value
        for name, value in values.items()
        if name not in _CHOSEN_HERE and not name.startswith("_")
    }


def _check_sizes(values: PlainMapping, path: Path) -> None:
    """Raise DataError for a size that no model has, before memory or time is taken for it."""
    for name, value in values.items():
        if not isinstance(value, int) or not _SIZE.search(name):
            continue
        most = MOST_LAYERS if "layer" in name else MOST
        if value > most:
            raise DataError(f"{path}: {name} is {shown(value)}, expected at most {most:,}")


def for_vocabulary(values: PlainMapping, size: int, pad: int) -> PlainDict:
    """Return an architecture with another vocabulary: its number of tokens, and the id of its padding."""
    values = {name: value for name, value in values.items() if name not in _TOKENS}
    return {**values, "vocab_size": size, **({"pad_token_id": pad} if pad >= 0 else {})}


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    """Return the token embedding. Raises DataError where the model does not read tokens through one."""
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        embedding = None
    if not isinstance(embedding, nn.Embedding):
        raise DataError(f"{type(model).__name__} has no embedding of tokens, and cannot read text")
    return embedding


def cut_vocabulary(values: PlainDict, model: PreTrainedModel, size: int) -> PlainDict:
    """Leave out the vectors above the tokenizer's ids, which no token has, and return the architecture without them.

    Some models have such vectors, so that their number is a multiple of 64.
    """
    old = embedding_of(model)
    if size == old.num_embeddings:
        return values
    pad = old.padding_idx if old.padding_idx is not None and old.padding_idx < size else None
    kept = old.weight[:size].detach().clone()
    model.set_input_embeddings(nn.Embedding.from_pretrained(kept, freeze=False, padding_idx=pad))
    model.config.vocab_size = size
    return {**values, "vocab_size": size}


def make_model(
    values: PlainMapping, settings: Settings, where: str, tensors: Mapping[str, Tensor] | None
) -> PreTrainedModel:
    """Return a model of an architecture, in fp32.

    where: the architecture's place, for errors. tensors: its weights; None: initial ones, from torch's generator. Parts
    that the weights lack are initialised, too, if no hidden state depends on them; others raise DataError.
    """
    import transformers

    config = _config_of(values, where)
    _set_dropout(config, settings)
    cls = _class_of(config, where)
    attention = _implementation(cls, settings)
    with _quiet(), _explained(where):
        if tensors is None:
            return transformers.AutoModel.from_config(
                config, trust_remote_code=False, attn_implementation=attention
            )
        with torch.device("meta"):
            expected = transformers.AutoModel.from_config(config, trust_remote_code=False)
        tensors = {
            name: value.float() if value.is_floating_point() else value
            for name, value in tensors.items()
        }
        _check_shapes(expected, tensors, where)
        model, report = cls.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            attn_implementation=attention,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise DataError(
            f"{where}: the weights lack {', '.join(missing[:4])}, which a {cls.__name__} has"
        )
    return model.train()


def _config_of(values: PlainMapping, where: str) -> PreTrainedConfig:
    """Return the configuration object of an architecture. Raises DataError where it is none."""
    import transformers

    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise DataError(
            f"{where}: model_type is {str(kind)[:60]!r}, which transformers {transformers.__version__} does not have"
            f"{did_you_mean(str(kind)[:60], transformers.CONFIG_MAPPING, everything_up_to=0)}; code that comes with "
            "a model is never run"
        )
    with _quiet(), _explained(where):
        config = transformers.CONFIG_MAPPING[kind].from_dict(dict(values))
        config.use_cache = False
        config.return_dict = True
    return config


def _class_of(config: PreTrainedConfig, where: str) -> type[PreTrainedModel]:
    """Return the class that AutoModel takes. Raises DataError where it has none, or several."""
    import transformers

    cls: object = transformers.MODEL_MAPPING.get(type(config), None)
    if not isinstance(cls, type):
        raise DataError(f"{where}: '{config.model_type}' is no encoder that AutoModel knows")
    return cast("type[PreTrainedModel]", cls)


def _set_dropout(config: PreTrainedConfig, settings: Settings) -> None:
    """Set the dropouts of the encoder, under whatever names its configuration has for them."""
    names = [
        name
        for name, value in config.to_dict().items()
        if ("dropout" in name or name.endswith("_pdrop"))
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not any(part in name for part in _OF_HEADS)
    ]
    of_attention = [name for name in names if "att" in name]
    others = [name for name in names if name not in of_attention]
    for option, value, chosen in (
        ("attention_dropout", settings.attention_dropout, of_attention),
        ("dropout", settings.dropout, others),
    ):
        # 0 is what an architecture without such a dropout has
        if value and not chosen:
            raise ConfigError(
                f"{settings.key}.{option}",
                f"is {value}, and '{config.model_type}' has no such dropout",
            )
        for name in chosen if value is not None else ():
            setattr(config, name, value)


def _implementation(cls: type[PreTrainedModel], settings: Settings) -> str:
    """Return the implementation of attention. Raises ConfigError for one that the architecture lacks."""
    supported = bool(getattr(cls, "_supports_sdpa", False))
    if settings.attention == "sdpa" and not supported:
        raise ConfigError(
            f"{settings.key}.attention",
            f"is sdpa, which {cls.__name__} lacks; expected auto or eager",
        )
    return "sdpa" if supported and settings.attention != "eager" else "eager"


def _check_shapes(expected: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise DataError for a weight of another shape than the architecture has, before memory is taken for it."""
    prefix = getattr(expected, "base_model_prefix", "")
    for name, parameter in expected.named_parameters():
        value = tensors.get(name, tensors.get(f"{prefix}.{name}"))
        if value is not None and value.shape != parameter.shape:
            raise DataError(
                f"{where}: the weight {name} is {list(value.shape)}, and the architecture says {list(parameter.shape)}"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library from drawing progress bars and reporting weights of heads as surplus."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what the library raises for a malformed configuration into a DataError."""
    try:
        yield
    except (DataError, ConfigError):
        raise
    except Exception as error:  # of every kind: the values of the file reach constructors unchecked
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: transformers cannot make this model ({reason})") from error
