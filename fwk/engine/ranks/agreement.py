"""That ranks do the same: read the same data, are in the same update, draw what together makes up the batch, and hold the
same weights to the last bit. What does not agree ends the run on every rank, with the ranks that differ named."""

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
    """What tells of ranks that disagree, in the one sum: where this rank's draws lie in the update, and, every
    train.check_ranks_every updates, a checksum of its weights and the square of that."""
    every = run.config.train.check_ranks_every
    if run.world_size == 1:
        return 0, 0, 0
    first = run.update * run.config.train.batch
    place = sum((micro.batch.draws - first).sum() for micro in micros)
    weights = (
        checksum(run.module.parameters()) % (1 << 20) if every and run.update % every == 0 else 0
    )
    return place, weights, weights * weights


def check_agreement(run: Run, sequences: float, place: float, weights: int, squared: int) -> None:
    """RunError, on every rank alike, when their sums are not those of ranks that agree."""
    batch = run.config.train.batch
    if run.world_size == 1:
        return
    if sequences != batch or place != batch * (batch - 1) // 2:
        updates = run.world.gather_objects(run.update + 1)
        ranks = (
            f"they are in updates {', '.join(map(str, updates))}"
            if len(set(updates)) > 1
            else "their draws overlap"
        )
        raise RunError(
            f"update {run.update + 1}: ranks disagree about what it consists of: together they read "
            f"{sequences:.0f} sequences of train.batch={batch}, and {ranks}; the last checkpoint is good"
        )
    if run.world_size * squared != weights * weights:  # equal just where all summands are
        compare_weights(run)


def compare_data(run: Run) -> None:
    """RunError when ranks do not read the same data in the same order."""
    if run.world_size == 1:
        return
    draws = np.arange(
        run.update * run.config.train.batch,
        (run.update + 1) * run.config.train.batch,
        dtype=np.int64,
    )
    said = run.world.gather_objects(
        [run.task.fingerprint()[:12], [part.tolist() for part in run.order.locate(draws)]]
    )
    for rank, (data, examples) in enumerate(said):
        if data != said[0][0]:
            raise RunError(
                f"ranks read different data: its fingerprint is {data} on rank {rank} and {said[0][0]} on rank 0; "
                "the data of all ranks must be the same"
            )
        if examples != said[0][1]:
            raise RunError(
                f"ranks disagree about the order of the data: the draws of update {run.update + 1} are other "
                f"examples on rank {rank} than on rank 0"
            )


def compare_weights(run: Run) -> None:
    """RunError when ranks do not hold the same weights, to the last bit."""
    if run.world_size == 1:
        return
    sums = run.world.gather_objects(checksum(run.module.parameters()))
    most = Counter(sums).most_common(1)[0][0]
    if others := [rank for rank, own in enumerate(sums) if own != most]:
        raise RunError(
            f"after update {run.update} ranks hold different weights: rank {', '.join(map(str, others))} "
            f"differs from the rest (checksums {', '.join(f'{own:x}' for own in sums)} in rank order); "
            "the last checkpoint is good, go on from it"
        )
