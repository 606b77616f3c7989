"""How a model of `transformers` behaves, found by encoding a few tokens: no table lists what architectures do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fwk.contracts.encoder import Direction
from fwk.errors import ConfigError
from fwk.models.auto_model import embedding_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

TOKENS = 6
TOLERANCE = 1e-4  # the largest change of features that padding may make

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What encoding a few tokens has shown."""

    width: int  # D
    states: dict[str, int]  # the last dimension by name of the state
    direction: Direction


def measure(model: PreTrainedModel, pad: int, key: str) -> Measured:
    """Return how a model behaves; it is in training mode afterwards.

    pad: the token id of padding. key: of the model's options, for errors. Raises ConfigError where the model cannot
    encode a sequence of tokens alone.
    """
    size = embedding_of(model).num_embeddings
    ids = [index for index in range(max(0, size - TOKENS - 1), size) if index != pad][-TOKENS:]
    try:
        output = _encode(model, ids)
        changed = _encode(model, [ids[0], ids[-1], *ids[2:]])  # windows of attention may be small
        padded = _encode(model, [*ids[:-2], pad, pad], content=len(ids) - 2)
        shorter = _encode(model, ids[:-2])
    except Exception as error:  # of every kind: the forward pass of any architecture
        reason = " ".join(str(error).split())[:200]
        name = type(model).__name__
        raise ConfigError(f"{key}.path", f"{name} cannot encode tokens alone ({reason})") from error
    features = output.last_hidden_state  # [1, T, D]
    if features.shape[:2] != (1, len(ids)):
        raise ConfigError(
            f"{key}.path", f"{type(model).__name__} does not return one vector for each token"
        )
    difference = (padded.last_hidden_state[:, : len(ids) - 2] - shorter.last_hidden_state).abs()
    if difference.max() > TOLERANCE:
        logger.warning(
            "%s is not independent of padding: its features depend on the lengths of the sequences in a batch",
            type(model).__name__,
        )
    sees_next = bool((features[0, 0] != changed.last_hidden_state[0, 0]).any())
    model.train()
    return Measured(
        width=features.shape[-1],
        states=_states(output),
        direction="both" if sees_next else "left_to_right",
    )


def _encode(
    model: PreTrainedModel, ids: Sequence[int], content: int | None = None
) -> BaseModelOutputWithPooling:
    """Return what the model makes of one sequence, of which the first `content` positions are no padding."""
    tokens = torch.tensor([ids])
    mask = (torch.arange(len(ids)) < (len(ids) if content is None else content)).long()[None]
    with torch.no_grad():
        output: BaseModelOutputWithPooling = model.eval()(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True
        )
    return output


def _states(output: BaseModelOutputWithPooling) -> dict[str, int]:
    """Return the width of each state by name."""
    hidden = output.hidden_states or ()
    names = ["embedding", *(f"layer_{number}" for number in range(1, len(hidden)))]
    states = {name: state.shape[-1] for name, state in zip(names, hidden)}
    pooled = getattr(output, "pooler_output", None)  # only some architectures have it
    if isinstance(pooled, Tensor):
        states["pooled"] = pooled.shape[-1]
    return states


def longest_sequence(model: PreTrainedModel) -> int:
    """Return the number of positions of the longest sequence; 0: any number."""
    for path in _tables_of_positions(model):
        table = model.get_submodule(path)
        assert isinstance(table, nn.Embedding)
        # RoBERTa counts positions from the one after that of padding
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    limit = getattr(model.config, "max_position_embeddings", None)
    return max(limit, 0) if isinstance(limit, int) else 0


def _tables_of_positions(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, nn.Embedding)
    ]


def reads_segments(model: PreTrainedModel) -> bool:
    """Return whether the model tells the segments of a pair apart."""
    kinds = getattr(model.config, "type_vocab_size", 0)
    return "token_type_ids" in inspect.signature(model.forward).parameters and kinds > 1


def named_parts(model: PreTrainedModel) -> dict[str, str]:
    """Return the token embedding, and the layers and the table of positions where there are any: name -> path."""
    embedding = embedding_of(model)
    paths = {name: module for name, module in model.named_modules() if module is embedding}
    parts = {"embedding": next(iter(paths))}
    if tables := _tables_of_positions(model):
        parts["positions"] = tables[0]
    stacks = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and ("layer" in name.rpartition(".")[2] or name.rpartition(".")[2] in ("h", "block"))
    ]
    if stacks:
        parts["layers"] = max(stacks)[1]
    return parts
