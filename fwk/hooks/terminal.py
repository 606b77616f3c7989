"""Progress on the terminal: one live line while training, a printed line per evaluation. Where the output is not a
terminal there are plain lines instead, now and then. Only rank 0 speaks."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fwk.components.registry import register
from fwk.contracts.hooks import hookimpl
from fwk.contracts.noiser import LearnedNoiser
from fwk.contracts.options import option
from fwk.engine.feed.draws import count_micro_batches
from fwk.engine.module import ObjectiveModule
from fwk.engine.plan import Encode, Make

REDRAW = 0.2  # seconds between two drawings of the live line


class Screen(Console):
    """Standard output. When nobody reads it any more (`| head`), or its disk is full, the run goes on without it."""

    def __init__(self) -> None:
        super().__init__(file=sys.stdout, highlight=False)

    def on_broken_pipe(self) -> None:  # rich would end the process
        self.quiet = True
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what is still to be flushed

    def print(self, *things: Any, **how: Any) -> None:
        try:
            super().print(*things, **how)
        except OSError as error:
            self.on_broken_pipe()
            print(
                f"fwk: cannot write to standard output: {error.strerror}; the run goes on without it",
                file=sys.stderr,
            )


@register("hook", "terminal")
class Terminal:
    """Progress on the terminal, or plain lines where there is none."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        plain_every: float = option(
            10.0,
            "seconds between two training lines when the output is not a terminal (0: every logged line)",
            low=0,
        )

    listens_only = True  # a run is the same run with and without it

    def __init__(self, config: Any):
        self.config = config
        self.console: Console | None = None
        self.live: Live | None = None
        self.record: Mapping[str, Any] = {}
        self.drawn = self.printed = -math.inf
        self.said: Mapping[str, Any] = {}  # the last training record printed as a line
        self.start = (0.0, 0.0)  # progress and seconds when this process took over
        self.phase: str | None = None  # whose work was told
        self.per_token: float | None = None  # FLOPs of training, where they could be counted

    @hookimpl
    def fwk_run_begin(self, run: Any, resumed: bool) -> None:
        if run.rank != 0:
            return
        self.console = Screen()
        self.start = (float(run.progress or 0.0), float(run.seconds or 0.0))
        self._say(
            f"run {run.folder}" + (f", going on after update {run.update:,}" if resumed else "")
        )
        self._say(sizes_line(run))
        if run.operations is not None:
            self.per_token = run.operations.update / (run.config.train.batch * run.task.length())
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            # No refreshing thread: data-loading workers are forked, and a lock held at that instant would hang them.
            self.live = Live(
                console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            self.live.start()

    @hookimpl
    def fwk_update_begin(self, run: Any) -> None:
        phase = run.phase.name if run.phase else ""
        if self.console is None or phase == self.phase:
            return
        self.phase = phase  # what is done depends on it
        for line in [*([f"phase '{phase}'"] if phase else []), *work_lines(run)]:
            self._say(line)

    @hookimpl
    def fwk_update_end(self, run: Any) -> None:
        if self.live is not None and time.monotonic() - self.drawn >= REDRAW:
            self._draw(run)

    @hookimpl
    def fwk_logged(self, run: Any, record: dict[str, Any]) -> None:
        if self.console is None:
            return
        if "event" in record:
            return
        if record.get("split") != "train":
            self._say(evaluation_line(record))
        else:
            if self.per_token and record.get("tokens_per_second"):
                record = {
                    **record,
                    "flops_per_second": self.per_token * record["tokens_per_second"],
                }
            self.record = record
            now = time.monotonic()
            if self.live is not None:
                self._draw(run)
            elif now - self.printed >= self.config.plain_every:
                self.printed, self.said = now, record
                self._say(training_line(record, run.total_updates, self._remaining(run)))

    @hookimpl(tryfirst=True)
    def fwk_exception(self) -> None:
        self._close()  # leave the line free for the message

    @hookimpl(tryfirst=True)
    def fwk_run_end(self, run: Any, status: str) -> None:
        if self.console is None:
            return
        self._close()
        if self.record and self.record is not self.said:
            self._say(training_line(self.record, run.total_updates, None))
        spent = duration(run.seconds)
        self._say(
            f"{status} after update {run.update:,}, {spent} of training; the run is in {run.folder}"
        )

    def _remaining(self, run: Any) -> float | None:
        """Seconds to the end at the pace of this process."""
        progress, seconds = float(run.progress or 0.0), float(run.seconds or 0.0)
        done, spent = progress - self.start[0], seconds - self.start[1]
        return spent / done * (1 - progress) if done > 0 and spent > 0 else None

    def _draw(self, run: Any) -> None:
        self.drawn = time.monotonic()
        line = live_line(
            run.update,
            run.total_updates,
            float(run.progress or 0.0),
            self.record,
            self._remaining(run),
            self.console.width,
            "#-" if self.console.options.ascii_only else "━─",
        )
        self.live.update(line, refresh=True)

    def _say(self, line: str) -> None:
        # Text, not markup: a path or a label may well hold brackets. Whole lines: whoever reads a pipe wants them so.
        self.console.print(Text(line), soft_wrap=not self.console.is_terminal)

    def _close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def number(value: Any) -> str:
    """Four significant digits, as people write them; '?' for what is no number."""
    if not isinstance(value, (int, float)):
        return "?"
    if value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """1:02:03 or 2:03; '?' when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def speed(value: Any) -> str:
    """Tokens per second in at most five characters: 870, 12.3k, 4.5M."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "?"
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def short_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values without the component before the slash, where there is only one and nothing becomes ambiguous."""
    components = {name.split("/")[0] for name in values if "/" in name}
    short = {name.split("/", 1)[-1]: value for name, value in values.items()}
    return short if len(components) == 1 and len(short) == len(values) else dict(values)


def _facts(record: Mapping[str, Any], remaining: float | None) -> list[str]:
    """What there is to say of a training record, the most important first."""
    facts = []
    if "loss" in record:
        facts.append(f"loss {number(record['loss'])}")
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


def sizes_line(run: Any) -> str:
    """How large the model and the run are."""
    parameters = sum(parameter.numel() for _, parameter in run.named_trainable())
    facts = [f"{quantity(parameters)} parameters"]
    train, counted = run.config.train, run.operations
    if run.total_updates and run.task.length():
        facts.append(
            f"at most {quantity(run.total_updates * train.batch * run.task.length())} tokens"
        )
    if counted is not None:
        facts.append(
            f"{number(counted.update)} FLOPs per update"
            + (
                f", {number(counted.update * run.total_updates)} in all"
                if run.total_updates
                else ""
            )
        )
        if counted.uncounted:
            facts[-1] += f" (without {', '.join(counted.uncounted)})"
    return "  ".join(facts)


def work_lines(run: Any) -> list[str]:
    """Which networks run on which views, which criteria read them, and what each costs."""
    parts = run.operations.parts if run.operations else {}
    train = run.config.train
    work = work_of(run.module, count_micro_batches(train.batch, run.world_size, train.micro_batch))
    width = max((len(who) for who, _, _ in work), default=0)
    lines = []
    for who, does, counted_as in work:
        known = [parts[part] for part in counted_as if parts.get(part)]
        cost = (
            f"  {number(2 * run.operations.sequences * sum(known))} FLOPs per update"
            if known
            else ""
        )
        lines.append(f"  {who:<{width}}  {does}{cost}")
    return lines


def work_of(module: ObjectiveModule, micro_batches: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the pieces of work in an update of so many micro-batches.

    A piece is (component, description, keys in `fwk.flops.count`).
    """
    pieces = [_work_on_views(module, action) for action in module.plan.actions]
    for part, _ in module.active_criteria:
        encodes = ", ".join(module.encodes[part.name])
        pieces.append((part.name, f"reads {encodes}", (f"criterion.{part.name}",)))
    for label in module.preparing(micro_batches)[:1]:
        again = "has the views made and encoded once more before, without gradient"
        pieces.append((label, again, ("prepare",)))
    return [piece for piece in pieces if piece is not None]


def _work_on_views(
    module: ObjectiveModule, action: Make | Encode
) -> tuple[str, str, tuple[str, ...]] | None:
    """Return the piece of work that an action of the plan is; None where no network takes part."""
    if isinstance(action, Encode):
        network, mode, ema = module.nodes[action.views[0]].group
        details = [mode] * (mode != "train") + ["averaged weights"] * ema
        description = f"encodes {', '.join(action.views)}"
        if details:
            description += f" ({', '.join(details)})"
        return network, description, tuple(f"encoder on {view}" for view in action.views)

    noiser = module.noisers[action.view]
    if not isinstance(noiser, LearnedNoiser) or noiser.network is None:
        return None
    description = f"makes {action.view} of {module.nodes[action.view].parent}"
    return module.parts[action.view].network, description, (f"views.{action.view}",)


def quantity(value: float) -> str:
    """Three significant digits: 870, 12.3k, 4.56M, 1.2B."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def training_line(record: Mapping[str, Any], total: int | None, remaining: float | None) -> str:
    """A training record as one plain line."""
    update = f"update {record.get('update', 0):,}" + (f"/{total:,}" if total else "")
    return "  ".join([update, *_facts(record, remaining)])


def evaluation_line(record: Mapping[str, Any]) -> str:
    """An evaluation record as one plain line."""
    metrics = "  ".join(
        f"{name} {number(value)}" for name, value in short_names(record.get("metrics", {})).items()
    )
    return f"{record.get('split', 'evaluation')} at update {record.get('update', 0):,}  {metrics}"


def live_line(
    update: int,
    total: int | None,
    progress: float,
    record: Mapping[str, Any],
    remaining: float | None,
    width: int,
    strokes: str = "━─",
) -> Text:
    """The live line, in `width` columns and never more: as many facts as fit, the most important first; what is left
    goes to the bar."""
    head = f"{update:,}/{total:,}" if total else f"{update:,} ({progress:.0%})"
    line = head
    for fact in _facts(record, remaining):
        if len(line) + 2 + len(fact) > width - 12:
            break
        line += "  " + fact
    room = min(40, width - len(line) - 2)
    text = Text(no_wrap=True, overflow="crop", end="")
    if room >= 5:
        full = round(room * min(1.0, max(0.0, progress)))
        text.append(strokes[0] * full, style="green").append(
            strokes[1] * (room - full), style="dim"
        ).append(" ")
    text.append(line)
    text.truncate(max(1, width - 1))
    return text
