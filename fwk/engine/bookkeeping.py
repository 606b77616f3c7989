"""What happens between updates: log lines, validation and checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fwk.engine.evaluate import evaluate
from fwk.engine.meters import means
from fwk.engine.parts import metrics_of
from fwk.engine.phases import optimizer_state
from fwk.engine.ranks.agreement import compare_weights
from fwk.engine.ranks.watchdog import LostRanks
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.saver import Saver
from fwk.engine.saving.state import capture_state
from fwk.engine.selection import Selection
from fwk.engine.signals import StopRequest
from fwk.engine.update import MicroBatch
from fwk.errors import ConfigError, LogFailed

logger = logging.getLogger(__name__)


class Bookkeeping:
    """Logs, validates and saves a run. All of its state is derived: a resumed run starts with a new one."""

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self.run, self.stop = run, stop
        self.saved_at = -1  # the update of the last checkpoint
        self.last_log = (0.0, 0)  # seconds and tokens at the last log line
        self.log_failure: LogFailed | None = None  # why the log can no longer be written
        self.selection = Selection(run, stop)
        self.saver = Saver(
            run.folder,
            run.config.train.async_save,
            run.config.train.keep_last,
            run.module,
            run.world.note_checkpoint,
        )
        if run.world.watchdog is not None:
            run.world.watchdog.before_exit.append(self.saver.wait)

    def note_resumed(self, path: Path, update: int) -> None:
        """Note the checkpoint that the run continues from."""
        self.saver.last_intact = path.name
        self.saved_at = update

    def after_update(self) -> None:
        """Log, validate and save where an update is one at which that is due."""
        run, train = self.run, self.run.config.train
        run.world.enter("hooks and logging")
        self.saver.check()
        if run.update % train.log_every == 0 or run.done:
            self.log()

        improved = False
        if (self._validates_now or run.done) and "valid" in run.task.splits():
            improved = self.validate()

        milestone = self._note_milestones()
        due = run.is_due(train.save_every, train.save_epochs)
        if improved or milestone or due or run.done:
            self.save()

    @property
    def _validates_now(self) -> bool:
        """Whether an evaluation is due at this update, wherever the run ends."""
        train = self.run.config.train
        return self.run.is_due(train.validate_every, train.validate_epochs)

    def _note_milestones(self) -> bool:
        """Return whether the run just passed a share of its length at which a checkpoint is kept for good."""
        run = self.run
        passed = sum(run.progress >= share for share in run.config.train.keep_at)
        new = passed - len(run.milestones)
        run.milestones += [run.update] * new
        return new > 0

    # -- log lines ---------------------------------------------------------------------------------------------------

    def start_window(self) -> None:
        """Start to measure the speed that the next log line reports."""
        self.last_log = (self.run.seconds, self.run.tokens)

    def log(self) -> None:
        """Log the updates since the last log line."""
        run = self.run
        sums = run.meters.read(run.world)
        updates = float(sums.get("updates", torch.tensor(0.0)))
        seconds, tokens = self.last_log
        self.start_window()
        now, tokens_now = self.last_log
        record = {
            "split": "train",
            "update": run.update,
            "epoch": round(run.epoch, 6),
            "loss": float(sums["loss"]) / updates if updates else None,
            "terms": means(sums),
            "metrics": metrics_of(run.module.parts, sums),
            "lr": run.rate,
            "grad_norm": run.grad_norm,
            "tokens": run.tokens,
            "sequences": run.sequences,
            "tokens_per_second": round((tokens_now - tokens) / max(1e-9, now - seconds), 1),
            "seconds": round(now, 3),
        }
        if run.precision.name == "fp16":
            record["loss_scale"], record["skipped"] = run.precision.scale, run.skipped
        self.log_record(record)

    def log_end(self, status: str, learned: bool) -> None:
        """Log how the run ends. learned: whether an update since this start contributed to a loss and had an effect."""
        run = self.run
        record = {
            "event": status,
            "split": "train",
            "update": run.update,
            "seconds": round(run.seconds, 3),
        }
        if run.precision.name == "fp16":
            record["skipped"] = run.skipped
        self.log_record(record)
        if run.world.main and status == "finished":
            _warn_nothing_learned(run, learned)

    def log_record(self, record: dict[str, object]) -> None:
        """Give a record to the hooks that log, on rank 0. Where it cannot be written, all ranks save and stop."""
        if self.run.world.main:
            try:
                self.run.hooks.hook.fwk_logged(run=self.run, record=record)
            except LogFailed as error:
                self.log_failure = self.log_failure or error
                self.stop.ask()

    def raise_log_failure(self) -> None:
        """Raise LogFailed where a record could not be written."""
        if self.log_failure is not None:
            raise self.log_failure

    # -- validation --------------------------------------------------------------------------------------------------

    def validate(self) -> bool:
        """Evaluate the split 'valid'; return whether the result is among the best so far.

        A request to stop ends the evaluation; it is then pending, and repeated when the run continues.
        """
        run = self.run
        run.world.enter("validation")
        metrics = evaluate(run, "valid", self.stop)
        if metrics is None:
            run.validation_pending = True
            return False
        run.last_metrics["valid"] = metrics
        self.log_record({"split": "valid", "update": run.update, "metrics": metrics})
        run.hooks.hook.fwk_validated(run=run, split="valid", metrics=metrics)
        improved = self._select(metrics)
        if run.out_of_patience and run.progress < 1:
            if run.update % run.config.train.log_every:
                self.log()  # the updates since the last line
            self.log_record(self.selection.ending())
        return improved

    def _select(self, metrics: dict[str, float]) -> bool:
        """Return whether this update is now among the best. Raises ConfigError where the metric does not exist."""
        if not self.selection.wanted:
            return False
        try:
            return self.selection.note(metrics, self._validates_now)
        except ConfigError:
            self.run.best = []
            self.save()  # a metric that is gone must not cost what was learned
            raise

    def finish_validation(self) -> None:
        """Run the validation that was interrupted before the checkpoint we resumed from.

        The checkpoint is then saved again, with the metrics.
        """
        self.run.validation_pending = False
        self.validate()
        if not self.run.validation_pending:
            self.saved_at = -1
            self.save()

    def validate_at_the_end(self) -> None:
        """Make sure that a run that ends has its metrics, and that they are in its checkpoint."""
        run = self.run
        missing = run.last_metrics.get("valid") is None and "valid" in run.task.splits()
        if missing and not run.validation_pending:
            self.validate()
            self.saved_at = -1
        if run.validation_pending:
            self.save()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Start to write a checkpoint of this update, on rank 0, unless it is saved already.

        A failure to write ends all ranks: of this checkpoint, or of the one before where they are written in the
        background.
        """
        run = self.run
        if run.optimizer is None or self.saved_at == run.update:
            return
        run.world.enter("saving")
        self.saved_at = run.update
        compare_weights(run)
        meters = run.meters.state(run.world)

        def start() -> None:
            tensors, state = capture_state(
                run, optimizer_state(run), meters, rate=run.rate, grad_norm=run.grad_norm
            )
            best = [update for _, update in run.best]
            self.saver.start(run.update, tensors, state, best=best, milestones=run.milestones)

        self._on_first_rank(start)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is written."""
        self.run.world.enter("waiting for the last checkpoint to be written")
        self._on_first_rank(self.saver.wait)
        self._on_first_rank(self.raise_log_failure)

    def prune_checkpoints(self, newest: Path) -> None:
        """Point the links to the newest and best checkpoints, and delete those that are not kept."""
        run = self.run
        best = [update for _, update in run.best]
        keep_last = run.config.train.keep_last
        checkpoint.prune_checkpoints(run.folder, newest, best, run.milestones, keep_last)

    def _on_first_rank(self, work: Callable[[], None]) -> None:
        """Do something on rank 0; where it fails there, raise on every rank."""
        failure: Exception | None = None
        if self.run.world.main:
            try:
                work()
            except Exception as error:  # the other ranks must learn of it before this one raises
                failure = error
        if self.run.world.gather_objects(failure is not None)[0]:
            raise failure or LostRanks(
                "rank 0 could not write the checkpoint; its own message says why", quiet=True
            )


def _warn_nothing_learned(run: Run, learned: bool) -> None:
    """Warn where the weights of a finished run are the initial ones, whatever else it reports."""
    if run.update and run.skipped == run.update:
        logger.warning(
            "nothing was learned: all %d updates overflowed under fp16 and were skipped, and the weights are the "
            "initial ones; each skip halves the loss scale, so a longer run gets through, and train.precision=bf16 "
            "needs none",
            run.update,
        )
    elif run.update and not learned and run.resumed_from is None:
        logger.warning(
            "nothing was learned: no update had anything to count, and the weights are the initial ones"
        )


def warn_nothing_to_learn(run: Run, micros: Sequence[MicroBatch]) -> None:
    """Warn that an update contributed no loss: no criterion reads the examples that it drew."""
    names = run.task.source_names()
    numbers = {
        int(number)
        for micro in micros
        if micro.batch.source is not None
        for number in micro.batch.source.unique()
    }
    sources = ""
    if numbers and names:
        sources = f" (its examples are of {', '.join(names[number] for number in sorted(numbers))})"
    logger.warning(
        "update %d has nothing to learn: no criterion reads any of its examples%s; other updates may have none either",
        run.update + 1,
        sources,
    )
