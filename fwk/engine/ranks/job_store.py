"""The job's key-value store, asked with a time limit: it may end, or hang, with the process that holds it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


class JobStore:
    """A connection to the store that the job met at, which nothing else uses.

    connection: None where the program made its process group without such a store; nothing is answered then.
    """

    def __init__(self, connection: dist.Store | None, seconds: float) -> None:
        self.connection, self.seconds = connection, seconds
        self.lost = False  # the store does not answer any more

    def ask(self, question: Callable[[dist.Store], T]) -> T | None:
        """Return the store's answer, or None where it does not answer within `seconds`."""
        if self.connection is None or self.lost:
            return None
        connection, answers = self.connection, []

        def ask() -> None:
            try:
                answers.append(question(connection))
            except Exception:
                self.lost = True

        asking = threading.Thread(target=ask, daemon=True, name="fwk asking")
        asking.start()
        asking.join(self.seconds)
        if not answers:
            self.lost = True
        return answers[0] if answers else None

    def set(self, key: str, value: str) -> None:
        """Set a key, where the store answers."""
        self.ask(lambda store: store.set(key, value))

    def has(self, key: str) -> bool:
        """Return True where the store answers that it has a key."""
        return bool(self.ask(lambda store: store.check([key])))

    def get(self, key: str) -> str:
        """Return the value of a key, or '' where the store does not answer."""
        values = self.ask(lambda store: store.multi_get([key]))
        return values[0].decode() if values else ""

    def replace(self, key: str, expected: str, value: str) -> str:
        """Set a key that has the expected value; return the value that it has then, or '' without an answer."""
        answer = self.ask(lambda store: store.compare_set(key, expected, value))
        return answer.decode() if answer else ""
