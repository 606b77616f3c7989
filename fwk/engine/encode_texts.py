"""Vectors of raw texts: each text as one sequence, pooled over its positions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.encoder import Encoder
from fwk.contracts.task import Task
from fwk.contracts.views import View
from fwk.data.tokenizers import Tokenizer
from fwk.engine.module import ObjectiveModule
from fwk.engine.predict import batches_by_length
from fwk.nn.pooling import POOLED, Pooling, pooled

logger = logging.getLogger(__name__)


@torch.no_grad()
def encode_texts(
    module: ObjectiveModule,
    task: Task,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pooling: Pooling = "mean",
    state: str | None = None,
    batch: int = 64,
) -> Tensor:
    """Return the vectors of texts, [N, D] in fp32 on the CPU, in their order.

    state: an inner state of the encoder, such as layer_3, that is pooled instead of its features. batch: texts at a
    time; fewer where they are long. Texts beyond the longest sequence are cut, and their number is logged.
    """
    encoder = cast(Encoder, module.networks["main"])
    encoder.check_states([state] if state else [], "encode")
    sequences, cut = _sequences(module, task, tokenizer, texts)
    if cut:
        logger.warning("%s of %s texts are too long for the model, and are cut", cut, len(texts))

    width = encoder.width if state is None else encoder.state_width(state)
    vectors = torch.empty(len(texts), width)
    was_training = module.training
    module.eval()
    try:
        for rows in batches_by_length([len(sequence) for sequence in sequences], batch):
            view = _view([sequences[row] for row in rows], module)
            vectors[rows] = _pooled(module, view, pooling, state).float().cpu()
    finally:
        module.train(was_training)
    return vectors


def _sequences(
    module: ObjectiveModule, task: Task, tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[list[np.ndarray], int]:
    """Return the framed token ids of each text, int64 [T] each, and how many texts were cut."""
    limits = [limit for limit in (module.encoding.longest, task.length()) if limit]
    overhead = len(task.framed(np.zeros(0, dtype=np.int64)))
    room = min(limits) - overhead if limits else None
    encoded = tokenizer.encode_batch(texts)
    cut = 0 if room is None else sum(len(ids) > room for ids in encoded)
    return [task.framed(np.array(ids[:room], dtype=np.int64)) for ids in encoded], cut


def _view(sequences: Sequence[np.ndarray], module: ObjectiveModule) -> View:
    """Return sequences as a view on the module's device, padded to the longest."""
    B, T = len(sequences), max(map(len, sequences))
    tokens = np.full((B, T), module.encoding.pad, dtype=np.int64)
    mask = np.zeros((B, T), dtype=bool)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)], mask[row, : len(sequence)] = sequence, True
    ids = torch.from_numpy(tokens)
    view = View(
        name="text",
        draws=torch.arange(B),
        inputs={"tokens": ids},
        mask=torch.from_numpy(mask),
        target=ids,
        padded=not mask.all(),
    )
    return view.to(module.anchor.device)


def _pooled(module: ObjectiveModule, view: View, pooling: Pooling, state: str | None) -> Tensor:
    wanted = [state] if state else [POOLED] if pooling == "pooler" else []
    (encoded,) = module.encoding.encode([view], mode="teacher", states=wanted)
    if state is not None:
        encoded = type(encoded)(features=encoded.states[state])
    return pooled(view.replace(encoded=encoded), pooling)
