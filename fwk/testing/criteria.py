"""Rules for criteria. Learned noisers, encoders and optimizers keep some of them too."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from fwk.config.run_config import RunConfig
from fwk.contracts.plain import PlainDict
from fwk.engine.evaluate import evaluate
from fwk.engine.module import ObjectiveModule
from fwk.engine.update import Update
from fwk.testing.config import change_config
from fwk.testing.running import (
    batches_of,
    difference,
    differentiate_once,
    gradients,
    stopped_at,
    train_briefly,
    trainer_of,
)
from fwk.testing.subject import ConfigRule, Rule, Subject

TOLERANCE = 1e-10  # of fp64 gradients, relative to the largest one


def rule_geometry(config: RunConfig) -> str:
    """Check that the gradient of an update does not depend on how it is cut into micro-batches."""
    # an odd batch is cut unevenly: with equal parts, a mean of means would be the mean
    odd = config.train.batch - 1 + config.train.batch % 2
    config = change_config(config, {"train": {"batch": odd}})
    whole = gradients(config)

    for size in (3, 6):
        cut = gradients(change_config(config, {"train": {"micro_batch": size}}))
        worst = difference(whole, cut)
        if not worst < TOLERANCE:
            return (
                f"micro-batches of {size} change the fp64 gradient by {worst:.1e} (relative), "
                f"expected below {TOLERANCE:.0e}"
            )
    if all(value is None or not value.any() for value in whole.values()):
        return "no parameter has a gradient"
    return ""


def rule_resume(config: RunConfig) -> str:
    """Check that a run that is stopped and resumed ends with the same weights, to the last bit."""
    dropout = {"model": {"dropout": 0.1}} if config.model.name == "bert" else {}
    config = change_config(config, {"train": {"precision": "fp32"}, **dropout})
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted = train_briefly(config, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        with stopped_at(_updates(config) // 2):
            train_briefly(config, Path(folder))
        resumed = train_briefly(config, Path(folder))

    differing = [
        name for name, value in uninterrupted.items() if not torch.equal(value, resumed[name])
    ]
    if differing:
        return f"{len(differing)} tensors differ after a resume, first {differing[0]}"
    return ""


def _updates(config: RunConfig) -> int:
    assert config.train.updates is not None  # of the tiny config, which is limited in updates
    return config.train.updates


def rule_one_encode(config: RunConfig) -> str:
    """Check that every view is encoded once per micro-batch, by the calls of the plan."""
    with trainer_of(config) as trainer:
        module = trainer.run.module
        planned = [name for group in module.plan.encoded for name in group]
        if len(planned) != len(set(planned)):
            return f"the plan encodes a view twice: {planned}"

        update = Update(number=1)
        (micro,) = module.ready(next(batches_of(trainer.run))[:1], update)
        # a view of some rows only may be empty in this micro-batch, and is not encoded then
        planned = [name for name in planned if len(micro.views[name])]
        with _views_encoded(module) as encoded:
            module.measure(micro, update)
    if sorted(encoded) != sorted(planned):
        return f"the plan encodes {sorted(planned)}, but {sorted(encoded)} were encoded"
    return ""


@contextmanager
def _views_encoded(module: ObjectiveModule) -> Iterator[list[str]]:
    """Yield the names of the views that `module` encodes inside the block, as it encodes them.

    Calls of `context.encode` are left out: what a criterion encodes by itself is no view of the plan.
    """
    names: list[str] = []
    encoding, contexts = module.encoding, module.contexts
    encode, encode_for_component = encoding.encode, contexts.encode_one

    def recorded(views: Any, *args: Any, **kwargs: Any) -> Any:
        names.extend(view.name for view in views)
        return encode(views, *args, **kwargs)

    def unrecorded(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(encoding, "encode", encode):
            return encode_for_component(*args, **kwargs)

    with (
        mock.patch.object(encoding, "encode", recorded),
        mock.patch.object(contexts, "encode_one", unrecorded),
    ):
        yield names


def rule_no_global_randomness(config: RunConfig) -> str:
    """Check that, without dropout, no component draws from a global generator."""
    with (
        trainer_of(config) as trainer,
        # the engine itself seeds the generators, for dropout
        mock.patch.object(trainer.run.module, "_seed", return_value=None),
    ):
        before = _generator_states()
        differentiate_once(trainer)
        after = _generator_states()
    moved = [name for name, state in before.items() if after[name] != state]
    if moved:
        return (
            f"the global generator of {' and '.join(moved)} moved; "
            "draw from the context or the key instead"
        )
    return ""


def _generator_states() -> PlainDict:
    """Return the states of the global generators, by library, as values that compare with `==`."""
    _, key, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": (np.asarray(key).tolist(), *rest),
    }


def rule_finite(config: RunConfig) -> str:
    """Check that every loss term is finite, and that evaluation gives a finite loss too."""
    with trainer_of(config) as trainer:
        differentiate_once(trainer)
        meters = trainer.run.meters
        not_finite = [name for name, value in meters.pending.items() if not value.isfinite().all()]
        if not_finite:
            return f"not finite: {', '.join(not_finite)}"
        meters.rollback()
        metrics = evaluate(trainer.run, "valid") or {}
    if not np.isfinite(metrics["loss"]):
        return f"the loss in evaluation is {metrics['loss']}"
    return ""


CRITERION_RULES: dict[str, ConfigRule] = {
    "geometry": rule_geometry,
    "resume": rule_resume,
    "one encode per view": rule_one_encode,
    "no global randomness": rule_no_global_randomness,
    "finite": rule_finite,
}


def criterion_rules(subject: Subject) -> dict[str, Rule]:
    """Return the rules for a criterion: each trains it, alone, on the tiny config."""
    settings = {"criterion": {subject.name: {"name": subject.name, **subject.options}}}
    return subject.rules(CRITERION_RULES, settings)
