"""Rules for optimizers."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fwk.config.run_config import RunConfig
from fwk.contracts.optimizer import set_learning_rate
from fwk.engine.evaluate import evaluate
from fwk.engine.run import Run
from fwk.testing.config import change_config
from fwk.testing.criteria import rule_resume
from fwk.testing.running import batches_of, trainer_of
from fwk.testing.subject import ConfigRule, Rule, Subject


def optimizer_leaves_what_has_no_gradient(config: RunConfig) -> str:
    """Check that a parameter without a gradient is not stepped: no decay, no momentum."""
    with trainer_of(config) as trainer:
        run = trainer.run
        trainer.step(next(batches_of(run)))
        before = _values(run)
        named = run.named_trainable()
        for _, parameter in named[::2]:
            parameter.grad = None
        _optimizer(run).step()
        moved = _moved(run, before)
    stepped = [name for name, _ in named[::2] if name in moved]
    if stepped:
        return f"{len(stepped)} parameters without gradient were stepped, first {stepped[0]}"
    missed = [name for name, p in named[1::2] if name not in moved and _has_gradient(p)]
    if missed:
        return f"{len(missed)} parameters with gradient were not stepped, first {missed[0]}"
    return ""


def optimizer_obeys_the_rate(config: RunConfig) -> str:
    """Check that the optimizer uses the learning rate that the engine sets: at 0 nothing moves."""
    with trainer_of(config) as trainer:
        run = trainer.run
        trainer.step(next(batches_of(run)))
        before = _values(run)
        set_learning_rate(_optimizer(run), 0.0)
        _optimizer(run).step()
        moved = _moved(run, before)
    if moved:
        return f"{len(moved)} parameters moved at a learning rate of 0, first {moved[0]}"
    return ""


def optimizer_learns(config: RunConfig) -> str:
    """Check that, at the default learning rate, the loss of a tiny task falls in 40 updates."""
    config = change_config(config, {"train": {"updates": 40}})
    with trainer_of(config) as trainer:
        first = _loss(trainer.run)
        for batches in islice(batches_of(trainer.run), 40):
            trainer.step(batches)
        last = _loss(trainer.run)
    return "" if last < first else f"the loss went from {first:.3f} to {last:.3f}"


def _optimizer(run: Run) -> Optimizer:
    assert run.optimizer is not None  # the trainer builds it when it enters a phase
    return run.optimizer


def _has_gradient(parameter: Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _values(run: Run) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.named_trainable()}


def _moved(run: Run, before: dict[str, Tensor]) -> list[str]:
    """Return the names of the parameters that have other values than `before`."""
    return [name for name, value in _values(run).items() if not torch.equal(value, before[name])]


def _loss(run: Run) -> float:
    metrics = evaluate(run, "valid")
    assert metrics is not None  # only a stop request ends an evaluation early
    return metrics["loss"]


OPTIMIZER_RULES: dict[str, ConfigRule] = {
    "resume": rule_resume,
    "nothing without gradient": optimizer_leaves_what_has_no_gradient,
    "learning rate": optimizer_obeys_the_rate,
    "learns": optimizer_learns,
}


def optimizer_rules(subject: Subject) -> dict[str, Rule]:
    """Return the rules for an optimizer: it trains a masked LM at its default learning rate."""
    default = subject.cls.Config.__dataclass_fields__["lr"].default
    optimizer = {"name": subject.name, "lr": default, **subject.options}
    return subject.rules(OPTIMIZER_RULES, {"criterion": "masked_lm", "optimizer": optimizer})
