"""An order of training examples in which an update has sequences of similar length, so that little is padding.

The draws of an epoch are cut into windows of a fixed number of updates. The examples of a window are those that the
plain order gives these draws, sorted by length, cut into updates, and the updates are put into a keyed order. Like the
plain order it is random access: a draw depends on its window alone, so resuming and other world sizes change nothing,
and every example comes once per epoch.

With one source, windows end with the epoch; an update on the border of two windows has a part of each. A mixture has no
epochs, and its windows follow each other without end.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fwk.contracts.keyed import fold
from fwk.data.order import Order, permute

WINDOW = 64  # updates in a window
KEPT = 4  # windows that are remembered, for draws that are asked for one after another


class ByLength(Order):
    """The order of `Order`, by length within windows of updates.

    lengths: by source, int64 [size], positions of each example. batch: draws of an update.
    """

    def __init__(
        self,
        seed: int,
        sizes: Mapping[str, int],
        mixture: Mapping[str, float] | None,
        lengths: Mapping[str, np.ndarray],
        batch: int,
    ) -> None:
        super().__init__(seed, sizes, mixture)
        self.lengths = [np.asarray(lengths[name]) for name in sizes]
        self.batch = batch
        self.epoch_draws = None if self._single is None else self.sizes[self._single]
        self._windows: dict[tuple[int, int], np.ndarray] = {}

    def locate(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the source position, the index in the source and the epoch of each draw [n]; int64 [n] each."""
        draws = np.asarray(draws, dtype=np.int64)
        return super().locate(self.plain_draws(draws))

    def plain_draws(self, draws: np.ndarray) -> np.ndarray:
        """Return the draw of the plain order that each draw takes its example from, int64 [n]."""
        epoch, place = np.zeros_like(draws), draws
        if self.epoch_draws is not None:
            epoch, place = np.divmod(draws, self.epoch_draws)
        window = place // (WINDOW * self.batch)
        result = np.empty_like(draws)
        for key in {*zip(epoch.tolist(), window.tolist())}:
            rows = np.flatnonzero((epoch == key[0]) & (window == key[1]))
            start, plain = self._window(*key)
            result[rows] = plain[draws[rows] - start]
        return result

    def _window(self, epoch: int, window: int) -> tuple[int, np.ndarray]:
        """Return the first draw of a window, and the draw of the plain order for each of its draws."""
        offset, size = window * WINDOW * self.batch, WINDOW * self.batch
        start = offset
        if self.epoch_draws is not None:
            start += epoch * self.epoch_draws
            size = min(size, self.epoch_draws - offset)
        if (epoch, window) not in self._windows:
            if len(self._windows) >= KEPT:
                del self._windows[next(iter(self._windows))]
            self._windows[epoch, window] = self._arranged(start, size, epoch, window)
        return start, self._windows[epoch, window]

    def _arranged(self, start: int, size: int, epoch: int, window: int) -> np.ndarray:
        draws = np.arange(start, start + size, dtype=np.int64)
        sources, indices, _ = super().locate(draws)
        lengths = np.empty(size, dtype=np.int64)
        for source in np.unique(sources):
            rows = np.flatnonzero(sources == source)
            lengths[rows] = self.lengths[source][indices[rows]]
        by_length = draws[np.argsort(lengths, kind="stable")]

        # the parts of updates that lie in this window
        borders = np.arange(-start % self.batch, size, self.batch)
        starts = np.unique(np.concatenate([[0], borders]))
        stops = np.append(starts[1:], size)
        key = np.uint64(fold(self.seed, "updates by length", epoch, window))
        parts = np.arange(len(starts))
        arranged, taken = np.empty_like(draws), 0
        for part in permute(parts, len(parts), np.full(len(parts), key)):
            count = stops[part] - starts[part]
            arranged[starts[part] : stops[part]] = by_length[taken : taken + count]
            taken += count
        return arranged


def similar_lengths(lengths: Mapping[str, np.ndarray], examples: int) -> np.ndarray:
    """Return the first `examples` examples of a split, over its sources end to end, longest first; int64 [n].

    The longest come first, so that a lack of memory shows at once.
    """
    together = np.concatenate([*lengths.values(), np.zeros(0, dtype=np.int64)])[:examples]
    return np.argsort(-together, kind="stable")
