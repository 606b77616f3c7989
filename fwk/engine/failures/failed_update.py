"""The message of an update whose gradient is not finite."""

from __future__ import annotations

from collections.abc import Sequence

from fwk.engine.failures.not_finite import Finding, diagnose
from fwk.engine.run import Run
from fwk.engine.update import MicroBatch, Update
from fwk.nn.finite import is_finite


def explain_not_finite(run: Run, micros: Sequence[MicroBatch], update: Update | None) -> str:
    """Return what was not finite, where it began, and what to do about it.

    The gradient is not finite on any rank, so every rank calls this. update: None where the cause cannot be looked for.
    """
    terms, ranks = _terms_and_ranks(run)
    fact = "the gradient is not finite though every loss term is"
    if terms:
        fact = f"loss term {', '.join(terms)} is not finite"
    if run.precision.name == "fp16":
        fact += f" and the loss scale has come down to {run.precision.scale:g}: gradients are not finite at any scale"
    finding = Finding("the cause is unknown", "pass")
    if update is not None:
        finding = diagnose(run, micros, update)
    batch = run.config.train.batch
    return (
        f"update {run.update + 1}: {fact} (rank {', '.join(map(str, ranks))}; draws {run.update * batch} to "
        f"{(run.update + 1) * batch - 1}); {finding.text}; {_advice(run, finding.kind)}"
    )


def _terms_and_ranks(run: Run) -> tuple[list[str], list[int]]:
    """Return the loss terms that are not finite on any rank, and those ranks (all where no term is to blame)."""
    names = [
        name.removeprefix("sum:")
        for name, value in run.meters.pending.items()
        if name.startswith("sum:") and not is_finite(value)
    ]
    by_rank = run.world.gather_objects(names)
    terms = sorted({name for names_of_rank in by_rank for name in names_of_rank})
    ranks = [rank for rank, names_of_rank in enumerate(by_rank) if names_of_rank]
    return terms, ranks or list(range(run.world_size))


def _advice(run: Run, kind: str) -> str:
    if kind == "weights":
        return (
            f"a checkpoint of update {run.update} holds the same values; resume from an earlier one with a lower "
            "optimizer.lr"
        )
    if kind == "data":
        return f"{run.world.what_is_saved()}; fix the data and start again"
    advice = f"{run.world.what_is_saved()}; lower optimizer.lr or set train.clip"
    if run.precision.name == "fp16":
        advice += ", or use train.precision=bf16 or fp32"
    return advice
