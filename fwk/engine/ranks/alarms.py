"""Alarms: what one rank tells the others when the job cannot go on, and the message that each prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from fwk.engine.ranks.peers import Peers

STATES = {"stopped": "is stopped (SIGSTOP)", "gone": "is gone"}


@dataclass(frozen=True)
class Alarm:
    """The reason why the job ends, as the rank that raised the alarm saw it."""

    kind: Literal["failed", "gone", "stuck"]
    rank: int  # that raised the alarm
    update: int
    reason: str = ""  # 'failed': the message of the error
    ranks: Sequence[int] = ()  # 'gone': the ranks whose processes ended
    place: str = ""  # 'stuck': where the rank waits

    def to_json(self) -> str:
        """Return the alarm as it stands in the store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Alarm:
        """Return the alarm that `to_json` wrote."""
        return cls(**json.loads(text))

    def is_printed_by_another(self, rank: int) -> bool:
        """Return True where another rank prints this alarm's message.

        The rank that raised the alarm prints it; rank 0 also prints failures of other ranks, because its output may be
        the only one that is read.
        """
        return self.rank != rank and not (self.kind == "failed" and rank == 0)


@dataclass(frozen=True, kw_only=True)
class AlarmMessage:
    """What one rank knows when it words an alarm."""

    alarm: Alarm
    peers: Peers
    update: int  # that this rank is in
    last_checkpoint: str  # that this rank knows to be intact; '' for none
    timeout: float  # seconds, train.timeout
    store_lost: bool  # the job's store does not answer
    stuck: Sequence[int] = ()  # ranks that did not answer the alarm
    error: BaseException | None = None  # torch's error for the lost connection

    def __str__(self) -> str:
        if self.alarm.kind == "failed":
            return f"rank {self.alarm.rank} failed in update {self.update}: {self.alarm.reason}"
        if self.alarm.kind == "gone":
            return f"{self._loss()}; {self._remedy()}"
        suspects = "; ".join(self._suspects()[:8])
        return (
            f"update {self.alarm.update}: rank {self.peers.rank} waited {self.timeout:g} s for the other ranks in "
            f"{self.alarm.place} (train.timeout): {suspects}; {self._remedy()}"
        )

    def _remedy(self) -> str:
        checkpoint = max(self.last_checkpoint, self.peers.last_checkpoint())
        if checkpoint:
            return f"the last intact checkpoint is {checkpoint}; the same command resumes from it"
        if self.peers.rank == 0:
            return "there is no checkpoint yet"
        return "the same command resumes from the last intact checkpoint, if there is one"

    def _loss(self) -> str:
        if not self.alarm.ranks:
            reason = f" ({' '.join(str(self.error).split())[:150]})" if self.error else ""
            return f"the connection to another rank was lost in update {self.update}{reason}"
        ranks = " and ".join(self.peers.describe(rank) for rank in self.alarm.ranks[:4])
        return f"update {self.update}: {ranks}, is gone: killed, or out of memory"

    def _suspects(self) -> list[str]:
        """Return what keeps the waiting ranks waiting, as far as it is known."""
        peers = self.peers
        states = {rank: peers.process_state(rank) for rank in peers.others}
        suspects = [
            f"{peers.describe(rank)}, {STATES[state]}"
            for rank, state in states.items()
            if state in STATES
        ]
        if self.store_lost:
            return suspects or ["the store that the job met at does not answer either"]

        suspects += [
            f"{peers.describe(rank)}, does not answer"
            for rank in self.stuck
            if states[rank] not in STATES
        ]
        answering = {
            rank: heard.status
            for rank, heard in peers.heard.items()
            if rank != peers.rank and rank not in self.stuck
        }
        suspects += [
            f"{peers.describe(rank)}, is still busy"
            for rank, status in answering.items()
            if not status.waits
        ]
        if suspects:
            return suspects
        elsewhere = [
            f"{peers.describe(rank)}, waits too"
            for rank, status in answering.items()
            if status.place != self.alarm.place
        ]
        return elsewhere or [
            "every rank waits at the same place, so the network between them does not deliver"
        ]
