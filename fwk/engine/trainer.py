"""The training loop. It sees one module, micro-batches, counts and a scalar; it knows no objective.

fwk_run_begin
until the run is done or asked to stop:
    fwk_phase                                    a new phase: freeze, rebuild the distributed wrapper
    fwk_update_begin
    static views of every micro-batch            keyed noise
    prepare, exchange                            only if a view or a criterion declares it
    counts                                       summed over micro-batches, ONE all-reduce
    for each micro-batch: forward, backward      gradients are reduced in the last one
    (fwk_combine_gradients)                      instead of the sum, if a hook implements it
    unscale, clip, finite check, step, average
    fwk_update_end
    fwk_logged                                   every train.log_every updates
    fwk_logged, fwk_validated                    every train.validate_every updates, and at the end
    fwk_checkpoint_save                          every train.save_every updates, when best, and at the end
fwk_logged (the last line), fwk_run_end
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fwk.contracts.optimizer import set_learning_rate
from fwk.contracts.phase import Phase
from fwk.engine.bookkeeping import Bookkeeping, warn_nothing_to_learn
from fwk.engine.failures.failed_update import explain_not_finite
from fwk.engine.feed.loader import FeedSettings, train_views
from fwk.engine.per_term import differentiate_per_term
from fwk.engine.phases import Optimisation
from fwk.engine.ranks.agreement import agreement_numbers, check_agreement, compare_data
from fwk.engine.run import Run
from fwk.engine.saving.state import call_per_plugin, read_for_resume, restore_state
from fwk.engine.signals import StopRequest
from fwk.engine.update import MicroBatch, StepOutput, Update, Views, count_tokens
from fwk.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What every rank knows of an update after its one all-reduce: sums over ranks and micro-batches."""

    counts: dict[str, float]  # by 'label/term'
    tokens: int  # without padding
    sequences: int
    seconds: float  # training time so far, as rank 0 measures it
    stop: bool  # whether a rank was asked to stop
    position: float  # of the draws within the update, see `agreement_numbers`
    weights: int  # checksums of the weights, and their squares
    squared: int


class Trainer:
    """Runs updates on a `Run`. It is final: objectives are criteria, and interventions are hooks."""

    def __init__(self, run: Run, stop: StopRequest) -> None:
        self.run, self.stop = run, stop
        self.optimisation = Optimisation(run)
        self.bookkeeping = Bookkeeping(run, stop)
        self.combine = bool(run.hooks.hook.fwk_combine_gradients.get_hookimpls())
        self.count_names: list[str] | None = None  # of the first update in this phase
        self.warned_idle = False  # whether an update without any loss term was reported
        self.learned = False  # whether an update with a loss term had an effect
        self.micros: Sequence[MicroBatch] = ()  # of the update under way

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> str:
        """Train until done ("finished") or asked to stop ("stopped")."""
        run, books, hooks = self.run, self.bookkeeping, self.run.hooks.hook
        hooks.fwk_run_begin(run=run, resumed=run.resumed_from is not None)
        compare_data(run)
        books.start_window()

        with closing(self.updates()) as updates:  # closing ends the loader's workers
            if run.validation_pending:
                books.finish_validation()
            while not run.done and not run.validation_pending:
                run.world.enter("local work", update=run.update + 1)
                self.enter_phase(hooks.fwk_phase(run=run))
                books.selection.check()
                hooks.fwk_update_begin(run=run)
                if not self.step(next(updates)):
                    books.save()
                    return "stopped"
                hooks.fwk_update_end(run=run)
                self.micros = ()
                books.after_update()

        books.validate_at_the_end()
        return "stopped" if run.validation_pending else "finished"

    def updates(self) -> Generator[list[Views], None, None]:
        """Return an endless iterator over the static views of this rank's micro-batches, one list per update."""
        run, train, static = self.run, self.run.config.train, self.run.module.static_of_all_phases
        return train_views(
            run.task,
            run.order,
            partial(static, split="train"),
            FeedSettings(
                batch=train.batch,
                micro_batch=train.micro_batch,
                rank=run.rank,
                world_size=run.world_size,
                workers=train.workers,
                device=run.device,
                user_dirs=run.config.user_dirs,
                timeout=train.timeout,
            ),
            start_update=run.update,
            by_row=static.by_row,
        )

    def step(self, batches: Sequence[Views]) -> bool:
        """Do one update; return False where the run was asked to stop instead, and nothing was changed."""
        run, module = self.run, self.run.module
        factor = run.learning_rate_factor()  # before this update's tokens and time count as spent
        update = Update(number=run.update + 1, progress=run.progress, micro_batches=len(batches))

        with run.precision.autocast():
            micros = module.ready(batches, update)  # with what must be prepared before counting
        self.micros = micros
        totals = self.sum_over_ranks(self.sum_counts(micros, update), micros)
        if totals.stop:
            return False
        # what every term is divided by
        update.take_counts(self.take_totals(totals), totals.sequences)
        if not any(update.counts.values()):
            self.warn_idle(micros)

        self.differentiate(micros, update)  # fills .grad
        if self.apply(factor, micros, update):  # clip, finite check, optimizer, average
            run.meters.commit()
            self.learned = self.learned or any(update.counts.values())
        else:  # fp16 overflowed: as if the update had not been
            run.meters.rollback()
            run.skipped += 1
        run.update += 1
        return True

    # -- counts ------------------------------------------------------------------------------------------------------

    def sum_counts(self, micros: Sequence[MicroBatch], update: Update) -> dict[str, Tensor]:
        """Return the counts by 'label/term', sorted, summed over the micro-batches of this rank.

        Raises RunError where ranks or updates name different terms.
        """
        counts: dict[str, Tensor] = {}
        for micro in micros:
            for name, count in self.run.module.normalizers(micro, update).items():
                counts[name] = counts[name] + count if name in counts else count
        names = sorted(counts)
        self.check_count_names(names)
        return {name: counts[name] for name in names}

    def check_count_names(self, names: list[str]) -> None:
        """Raise RunError unless all ranks, and all updates of a phase, count the same terms."""
        if self.count_names is None:
            self.count_names = names
            for others in self.run.world.gather_objects(names):
                if others != names:
                    raise RunError(
                        f"ranks count different loss terms: {', '.join(names)} and {', '.join(others)}; "
                        "normalizers must name the same terms on every rank, with a count of 0 for an absent one"
                    )
        elif names != self.count_names:
            raise RunError(
                f"normalizers named the loss terms {', '.join(names)}, and {', '.join(self.count_names)} before; "
                "a term that does not occur in a micro-batch has the count 0"
            )

    def sum_over_ranks(self, counts: Mapping[str, Tensor], micros: Sequence[MicroBatch]) -> Totals:
        """Return the sums over ranks of counts, and of all else that ranks must agree on, in one all-reduce."""
        run = self.run
        numbers = [
            *counts.values(),
            sum(count_tokens(micro.batch) for micro in micros),
            sum(len(micro.batch) for micro in micros),
            run.seconds if run.world.main else 0.0,
            float(bool(self.stop)),
            *agreement_numbers(run, micros),
        ]
        with run.world.waiting_for("the sum of the update's counts"):
            *sums, tokens, sequences, seconds, stop, position, weights, squared = (
                run.world.sum_numbers(numbers)
            )
        return Totals(
            counts=dict(zip(counts, sums)),
            tokens=int(tokens),
            sequences=int(sequences),
            seconds=seconds,
            stop=bool(stop),
            position=position,
            weights=int(weights),
            squared=int(squared),
        )

    def take_totals(self, totals: Totals) -> dict[str, float]:
        """Add an update's totals to the run, and return its counts. Raises RunError where ranks disagree."""
        run = self.run
        check_agreement(run, totals.sequences, totals.position, totals.weights, totals.squared)
        run.meters.add(totals.counts if run.world.main else {}, "count:")
        run.tokens += totals.tokens
        run.sequences += totals.sequences
        run.agreed_seconds = totals.seconds
        return totals.counts

    def warn_idle(self, micros: Sequence[MicroBatch]) -> None:
        """Warn, once, that an update has no loss term at all."""
        if not self.warned_idle and self.run.world.main:
            self.warned_idle = True
            warn_nothing_to_learn(self.run, micros)

    # -- gradients and weights ---------------------------------------------------------------------------------------

    def differentiate(self, micros: Sequence[MicroBatch], update: Update) -> None:
        """Fill `.grad` of parameters that a loss term of this update reaches; leave None elsewhere."""
        run, scale = self.run, self.run.precision.scale
        for parameter in self.optimisation.parameters:
            parameter.grad = None
        if self.combine:
            differentiate_per_term(run, self.optimisation.trainable, micros, update)
            return
        for micro in micros:
            with self.without_reduction() if micro is not micros[-1] else nullcontext():
                with run.precision.autocast():
                    output: StepOutput = self.optimisation.wrapped(micro, update)
                loss = cast(Tensor, output.loss)
                (loss if scale == 1.0 else loss * scale).backward()
            loss = loss.detach()
            if run.world_size == 1:
                run.module.mark.add(loss)
            run.meters.record(output, loss if run.world_size == 1 else loss / run.world_size)
        if scale != 1.0:
            run.precision.unscale(
                [p.grad for p in self.optimisation.trainable if p.grad is not None]
            )

    def without_reduction(self) -> AbstractContextManager:
        """Return a context in which gradients are not reduced over ranks."""
        wrapped = self.optimisation.wrapped
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def apply(
        self, factor: float, micros: Sequence[MicroBatch] = (), update: Update | None = None
    ) -> bool:
        """Step with the gradients at `factor` times the learning rate; return False where fp16 overflowed.

        micros, update: what the gradients are of, to find the cause where they are not finite. Raises RunError for
        gradients that are not finite at any loss scale.
        """
        run, train = self.run, self.run.config.train
        with_gradient = [p for p in self.optimisation.trainable if p.grad is not None]
        gradients = [p.grad for p in with_gradient if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        if not bool(torch.isfinite(norm + run.module.mark.seen(norm.device))):
            if not run.precision.may_skip:
                raise RunError(explain_not_finite(run, micros, update))
            run.precision.skipped()
            return False

        run.precision.applied()
        if train.clip and gradients:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, train.clip, norm)
        run.rate = run.config.optimizer.config.lr * factor
        set_learning_rate(run.optimizer, run.rate)
        run.optimizer.step()
        if run.average is not None:
            run.average.update()
        run.grad_norm = float(norm)
        run.meters.add({"updates": 1.0 if run.world.main else 0.0})
        return True

    # -- phases and checkpoints --------------------------------------------------------------------------------------

    def enter_phase(self, phase: Phase | None) -> None:
        """Apply a phase between updates, unless the run is in it already."""
        if self.optimisation.enter(phase):
            self.count_names = None

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint. Raises CheckpointError where it does not fit this run."""
        run = self.run
        tensors, state = read_for_resume(run, path)
        run.resumed_from = path
        run.world.note_checkpoint(path.name)
        self.bookkeeping.note_resumed(path, state["update"])
        run.rate, run.grad_norm = state["rate"], state["grad_norm"]
        restore_state(run, tensors, state, path)
        self.optimisation.restore((tensors["optimizer"], state["optimizer"]), path)
        states = {
            name: {**numbers, **tensors.get(f"plugin-{name}", {})}
            for name, numbers in state["plugins"].items()
        }
        call_per_plugin(run, "fwk_checkpoint_load", state=states)
