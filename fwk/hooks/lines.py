"""Numbers and records as lines of text, for people."""

from __future__ import annotations

import math

from rich.text import Text

from fwk.contracts.plain import PlainDict, PlainMapping

Record = PlainMapping  # an object of metrics.jsonl


def number(value: object) -> str:
    """Return four significant digits, as people write them; '?' for what is no number."""
    if not isinstance(value, (int, float)):
        return "?"
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Return 1:02:03 or 2:03; '?' for an unknown duration."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def skips(count: int) -> str:
    """Return ", of which N overflowed under fp16 and were skipped" for the updates of a run; "" where none was."""
    return f", of which {count:,} overflowed under fp16 and were skipped" if count else ""


def speed(value: object) -> str:
    """Return tokens per second in at most five characters: 870, 12.3k, 4.5M; '?' for what is no number."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "?"
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def quantity(value: float) -> str:
    """Return three significant digits: 870, 12.3k, 4.56M, 1.2B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def short_names(values: PlainMapping) -> PlainDict:
    """Return the values without the component before the slash, if there is only one and names stay distinct."""
    components = {name.split("/")[0] for name in values if "/" in name}
    short = {name.split("/", 1)[-1]: value for name, value in values.items()}
    return short if len(components) == 1 and len(short) == len(values) else dict(values)


def training_line(record: Record, total: int | None, remaining: float | None) -> str:
    """Return a training record as one plain line. total: updates of the run. remaining: seconds to its end."""
    update = f"update {record.get('update', 0):,}" + (f"/{total:,}" if total else "")
    return "  ".join([update, *_facts(record, remaining)])


def evaluation_line(record: Record) -> str:
    """Return an evaluation record as one plain line."""
    metrics = "  ".join(
        f"{name} {number(value)}" for name, value in short_names(record.get("metrics", {})).items()
    )
    return f"{record.get('split', 'evaluation')} at update {record.get('update', 0):,}  {metrics}"


def live_line(
    update: int,
    total: int | None,
    progress: float,
    record: Record,
    remaining: float | None,
    width: int,
    strokes: str = "━─",
) -> Text:
    """Return the live line, at most `width` columns wide: as many facts as fit, and a bar in the rest.

    progress: in [0, 1]. record: the last training record. strokes: the characters of the bar, done and left.
    """
    line = f"{update:,}/{total:,}" if total else f"{update:,} ({progress:.0%})"
    for fact in _facts(record, remaining):
        if len(line) + 2 + len(fact) > width - 12:
            break
        line += "  " + fact

    text = Text(no_wrap=True, overflow="crop", end="")
    room = min(40, width - len(line) - 2)
    if room >= 5:
        done = round(room * min(1.0, max(0.0, progress)))
        text.append(strokes[0] * done, style="green")
        text.append(strokes[1] * (room - done), style="dim").append(" ")
    text.append(line)
    text.truncate(max(1, width - 1))
    return text


def _facts(record: Record, remaining: float | None) -> list[str]:
    """Return the facts of a training record, the most important first."""
    facts = []
    if "loss" in record:
        facts.append(f"loss {number(record['loss'])}")
    if record.get("skipped"):
        facts.append(f"{record['skipped']:,} skipped (fp16)")
    if remaining is not None:
        facts.append(f"{duration(remaining)} left")
    if record.get("tokens_per_second"):
        facts.append(f"{speed(record['tokens_per_second'])} tok/s")
    if record.get("flops_per_second"):
        facts.append(f"{record['flops_per_second'] / 1e12:.3g} TFLOP/s")
    terms = short_names(record.get("terms") or {})
    if len(terms) > 1:
        facts += [f"{name} {number(value)}" for name, value in terms.items()]
    if "lr" in record:
        facts.append(f"lr {number(record['lr'])}")
    return facts
