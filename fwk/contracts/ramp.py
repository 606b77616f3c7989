"""Numbers that may change over a run: a number, or {from, to, start, end}, linear in the share of the run done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fwk.errors import ConfigError, did_you_mean

KEYS = ("from", "to", "start", "end")
Ramp = Mapping[str, float]


def share_at(ramp: Ramp, progress: float) -> float:
    """Return the share of the way from `from` to `to` at some progress of the run, both in [0, 1]."""
    start, end = ramp.get("start", 0.0), ramp.get("end", 1.0)
    return 1.0 if end <= start else min(1.0, max(0.0, (progress - start) / (end - start)))


def value_at(value: float | Ramp, progress: float) -> float:
    """Return a number at some progress of the run, in [0, 1]."""
    if not isinstance(value, Mapping):
        return float(value)
    return value["from"] + (value["to"] - value["from"]) * share_at(value, progress)


def complete_ramp(
    ramp: Ramp, key: str, what: str = "weight", others: Sequence[str] = ()
) -> dict[str, float]:
    """Return a ramp with its `start` and `end` filled in, without other keys.

    what: the number, for errors. others: keys that it may have besides. Raises ConfigError for a ramp with an unknown
    or missing key, or whose ends are not in order.
    """
    known = (*KEYS, *others)
    for name in ramp:
        if name not in known:
            raise ConfigError(
                f"{key}.{name}",
                f"a {what} that changes has the keys {', '.join(known)}"
                f"{did_you_mean(name, known, 0)}",
            )
    for name in ("from", "to"):
        if name not in ramp:
            raise ConfigError(
                f"{key}.{name}", f"a {what} that changes needs this key (the {what} at that end)"
            )

    start, end = ramp.get("start", 0.0), ramp.get("end", 1.0)
    if not 0 <= start < end <= 1:
        raise ConfigError(
            key,
            "expected 0 <= start < end <= 1 (shares of the run), "
            f"got start {start:g} and end {end:g}",
        )
    return {"from": ramp["from"], "to": ramp["to"], "start": start, "end": end}
