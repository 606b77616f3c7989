"""Checks that all ranks have the same data, the same update, disjoint draws and identical weights.

A disagreement stops the run on every rank, and the message names the ranks that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fwk.engine.ranks.world import checksum
from fwk.engine.run import Run
from fwk.engine.update import MicroBatch
from fwk.errors import RunError


def agreement_numbers(run: Run, micros: Sequence[MicroBatch]) -> tuple[Tensor | int, int, int]:
    """Return numbers that, summed over ranks in the update's one all-reduce, reveal a disagreement.

    They are the sum of this rank's draws, counted from the update's first one, and, every `train.check_ranks_every`
    updates, a checksum of the weights and its square (0 otherwise). `check_agreement` takes their sums.
    """
    if run.world_size == 1:
        return 0, 0, 0
    first_draw = run.update * run.config.train.batch
    draws = sum((micro.batch.draws - first_draw).sum() for micro in micros)
    every = run.config.train.check_ranks_every
    weights = 0
    if every and run.update % every == 0:
        weights = checksum(run.module.parameters()) % (1 << 20)
    return draws, weights, weights * weights


def check_agreement(run: Run, sequences: float, draws: float, weights: int, squared: int) -> None:
    """Raise RunError, on every rank alike, where the sums over ranks are not those of ranks that agree."""
    batch = run.config.train.batch
    if run.world_size == 1:
        return
    # the draws 0 .. batch-1, each once, add up to batch * (batch - 1) / 2
    if sequences != batch or draws != batch * (batch - 1) // 2:
        updates = run.world.gather_objects(run.update + 1)
        difference = (
            f"they are in updates {', '.join(map(str, updates))}"
            if len(set(updates)) > 1
            else "their draws overlap"
        )
        raise RunError(
            f"update {run.update + 1}: ranks disagree about the update's batch: together they read "
            f"{sequences:.0f} sequences of train.batch={batch}, and {difference}; "
            f"{run.world.what_is_saved()}"
        )
    # by the inequality of Cauchy and Schwarz, equal only where the checksums of all ranks are equal
    if run.world_size * squared != weights * weights:
        compare_weights(run)


def compare_data(run: Run) -> None:
    """Raise RunError where ranks do not read the same data in the same order."""
    if run.world_size == 1:
        return
    batch = run.config.train.batch
    draws = np.arange(run.update * batch, (run.update + 1) * batch, dtype=np.int64)
    located = [part.tolist() for part in run.order.locate(draws)]
    by_rank = run.world.gather_objects([run.task.fingerprint()[:12], located])
    expected_fingerprint, expected_examples = by_rank[0]
    for rank, (fingerprint, examples) in enumerate(by_rank):
        if fingerprint != expected_fingerprint:
            raise RunError(
                f"ranks read different data: its fingerprint is {fingerprint} on rank {rank} and "
                f"{expected_fingerprint} on rank 0; all ranks must read the same data"
            )
        if examples != expected_examples:
            raise RunError(
                f"ranks disagree about the order of the data: the draws of update {run.update + 1} are other "
                f"examples on rank {rank} than on rank 0"
            )


def compare_weights(run: Run) -> None:
    """Raise RunError where ranks do not hold the same weights, to the last bit."""
    if run.world_size == 1:
        return
    checksums = run.world.gather_objects(checksum(run.module.parameters()))
    most_common = Counter(checksums).most_common(1)[0][0]
    different = [rank for rank, value in enumerate(checksums) if value != most_common]
    if different:
        raise RunError(
            f"after update {run.update} ranks hold different weights: rank {', '.join(map(str, different))} "
            f"differs from the rest (checksums {', '.join(f'{value:x}' for value in checksums)} in rank order); "
            f"{run.world.what_is_saved()}: start the same command again"
        )
