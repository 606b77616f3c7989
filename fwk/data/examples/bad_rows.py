"""What happens to rows that cannot be read: they end the run, or are left out and counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from fwk.data.tables import BadRow, OnBad
from fwk.errors import DataError

SHOWN = 5  # rows that were left out and are named
T = TypeVar("T")

logger = logging.getLogger(__name__)


def read_all(
    read: Callable[[OnBad | None], Iterable[T]], key: str, skip_malformed: bool
) -> list[T]:
    """Return everything that `read` yields; it is given what to call for a row that cannot be read.

    key: where the rows are named. Raises DataError, with file and line, for such a row, unless `skip_malformed` is set;
    then the rows that were left out are counted. Raises DataError where nothing is left.
    """
    bad: list[BadRow] = []
    try:
        result = list(read(bad.append if skip_malformed else None))
    except BadRow as error:
        raise DataError(f"{error} (task.skip_malformed=true leaves such rows out)") from None
    for row in bad[:SHOWN]:
        logger.warning("left out: %s", row)
    if bad:
        logger.warning("%s: %s rows were left out", key, f"{len(bad):,}")
    if not result:
        raise DataError(f"{key}: there is no row that can be used")
    return result
