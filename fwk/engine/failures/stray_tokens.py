"""Token ids outside the vocabulary: which example has one, or which noiser made it.

An encoder fails at such an id with an IndexError, or on a GPU with a failed assertion after which nothing on the device
can be read. So everything is made again: examples are read, and noise is a function of its key.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fwk.contracts.keyed import Key
from fwk.contracts.task import Source
from fwk.contracts.views import Batch, View
from fwk.engine.plan import BATCH, Make
from fwk.engine.run import Run
from fwk.engine.update import Update
from fwk.errors import FwkError


def find_stray_token(run: Run) -> str | None:
    """Return a message about the first token id outside the vocabulary, or None where there is no such id.

    Looks in this update and in the next ones, which may have been read already. Reads the examples again: after a
    failed assertion nothing on a GPU can be read.
    """
    try:
        vocabulary = run.task.vocabulary()
        if vocabulary is None:
            return None
        batch = run.config.train.batch
        draws = run.update * batch + np.arange(max(batch, min(64 * batch, 4096)), dtype=np.int64)
        numbers, indices, _ = run.order.locate(draws)
        sources = list(run.task.sources("train").items())
        for draw, number, index in zip(
            draws.tolist(), numbers.tolist(), indices.tolist(), strict=True
        ):
            name, source = sources[number]
            token = _stray_token_of(run, source, index, draw, number, vocabulary.size)
            if token is not None:
                return (
                    f"update {run.update + 1}: example {index} of source '{name}' (draw {draw}) has the token id "
                    f"{token}, but the vocabulary has the ids 0 to {vocabulary.size - 1}; the data were prepared with "
                    "another tokenizer, or are damaged"
                )
    except (FwkError, AttributeError, LookupError):
        pass  # a task without tokens
    return None


def _stray_token_of(
    run: Run, source: Source, index: int, draw: int, number: int, size: int
) -> int | None:
    """Return the first token id of an example that is not in [0, size), or None."""
    batch = run.task.collate([source[index]], np.array([draw]), np.array([number]))
    return _first_stray(batch.inputs["tokens"], size)


def _first_stray(tokens: Tensor, size: int) -> int | None:
    """Return the first token id that is not in [0, size), or None."""
    stray = tokens[(tokens < 0) | (tokens >= size)]
    return int(stray[0]) if len(stray) else None


def find_stray_noise(run: Run) -> str | None:
    """Return a message about the first view of this update that has a token id outside the vocabulary, or None."""
    vocabulary = run.task.vocabulary()
    if vocabulary is None:
        return None
    try:
        for view in _views(run):
            token = _first_stray(view.tokens, vocabulary.size)
            if token is not None:
                noiser = run.module.specs[view.name].noiser
                return (
                    f"update {run.update + 1}: noiser '{noiser}' put the token id {token} into the view '{view.name}' "
                    f"(views.{view.name}), but the vocabulary has the ids 0 to {vocabulary.size - 1}"
                )
    except Exception:  # whatever failed before fails again; the caller then keeps its traceback
        return None
    return None


def _views(run: Run) -> Iterator[View]:
    """Yield the views of the next update's examples as they are made, parents first.

    Those that networks make are left out on a GPU, on which nothing can run after a failed assertion.
    """
    module, static = run.module, run.module.static_of_this_phase
    views = {BATCH: View.from_batch(_next_batch(run))}
    for name, noiser in static.noisers.items():
        parent = views[static.parents[name]]
        view = noiser.apply(parent, Key(static.seed, f"train/{name}", parent.draws))
        views[name] = view.replace(name=name)
        yield views[name]

    if run.device.type == "cpu":
        update = Update(number=run.update + 1, progress=run.progress)
        micro = module.begin(views, 0, update)
        for action in module.plan.actions:
            with torch.no_grad(), run.precision.autocast():
                micro.views = module.run_actions([action], micro, update)
            if isinstance(action, Make):
                yield micro.views[action.view]


def _next_batch(run: Run) -> Batch:
    """Return the examples of the next update, of all ranks and micro-batches."""
    size = run.config.train.batch
    draws = run.update * size + np.arange(size, dtype=np.int64)
    numbers, indices, _ = run.order.locate(draws)
    sources = list(run.task.sources("train").values())
    pairs = zip(numbers.tolist(), indices.tolist(), strict=True)
    return run.task.collate([sources[n][index] for n, index in pairs], draws, numbers)
