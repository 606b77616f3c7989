"""What data-loading workers need of the system, and how long the training process waits for them."""

import pytest

from fwk.engine.feed import workers
from fwk.errors import RunError


def test_missing_shared_memory_is_named_before_a_worker_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.sys, "platform", "linux")
    monkeypatch.setattr(workers, "SHARED_MEMORY", str(tmp_path / "none"))
    with pytest.raises(RunError, match="is missing or cannot be written to; .*train.workers=0"):
        workers.require_worker_limits(1)


class Ticks:
    """The clock and the event of a guard: each wait moves the clock by the next of `steps`, then the guard ends."""

    def __init__(self, steps):
        self.now, self.steps = 0.0, list(steps)

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        if not self.steps:
            return True
        self.now += self.steps.pop(0)
        return False

    def set(self):
        pass


@pytest.mark.parametrize(
    ("steps", "expires"),
    [([1.0] * 19, False), ([1.0] * 22, True), ([1.0, 500.0, *[1.0] * 15], False)],
)
def test_time_in_which_the_whole_run_was_stopped_is_no_waiting(steps, expires, monkeypatch):
    guard, ticks = workers._StallGuard(iter(()), 20.0), Ticks(steps)
    monkeypatch.setattr(workers, "time", ticks)
    guard._closed = ticks
    guard.waiting_since = 0.0
    guard._watch()
    assert guard.expired is expires
