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

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fwk.contracts.optimizer import set_learning_rate
from fwk.contracts.phase import Phase
from fwk.contracts.views import Batch, View
from fwk.engine.evaluate import evaluate
from fwk.engine.failures.not_finite import Finding, diagnose
from fwk.engine.feed.loader import train_views
from fwk.engine.meters import means
from fwk.engine.module import MicroBatch, Update, component_metrics
from fwk.engine.parameter_groups import owners, parameter_groups
from fwk.engine.phases import copy_parameters, freeze
from fwk.engine.ranks.agreement import (
    agreement_numbers,
    check_agreement,
    compare_data,
    compare_weights,
)
from fwk.engine.ranks.watchdog import LostRanks
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.saving.saver import Saver
from fwk.engine.saving.state import call_per_plugin, capture_state, read_for_resume, restore_state
from fwk.engine.signals import StopRequest
from fwk.errors import ConfigError, LogFailed, RunError, did_you_mean


class Trainer:
    """Runs updates on a `Run`; nobody subclasses it."""

    def __init__(self, run: Run, stop: StopRequest):
        self.run, self.stop = run, stop
        self.wrapped: torch.nn.Module = run.module
        self.parameters: list[
            torch.nn.Parameter
        ] = []  # all of the module's, and those that are trained in this phase
        self.trainable: list[torch.nn.Parameter] = []
        self.combine = bool(run.hooks.hook.fwk_combine_gradients.get_hookimpls())
        self.count_names: list[str] | None = None
        self.rate, self.peak_rate = 0.0, run.config.optimizer.config.lr
        self.grad_norm = 0.0
        self.saved_at = -1
        self.idle = False  # whether an update had nothing to learn
        self.micros: Sequence[MicroBatch] = ()  # of the update under way
        self.unlogged: LogFailed | None = None  # why the log cannot be written any more
        self.saver = Saver(
            run.folder,
            run.config.train.async_save,
            run.config.train.keep_last,
            run.module,
            run.world.note_checkpoint,
        )
        if run.world.watchdog is not None:
            run.world.watchdog.last_words.append(self.saver.wait)
        self.shelf: tuple[dict[str, Tensor], dict[str, Any]] = (
            {},
            {},
        )  # optimizer state of frozen parameters, by name
        self.mark = (0.0, 0)  # seconds and tokens at the last log line
        self.wrapped_for: str | None = (
            None  # name of the phase that `wrapped` and the optimizer were built for
        )

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train(self) -> str:
        """Trains until done ("finished") or asked to stop ("stopped")."""
        run = self.run
        run.hooks.hook.fwk_run_begin(run=run, resumed=run.resumed_from is not None)
        compare_data(run)
        self.mark = (run.seconds, run.tokens)
        with closing(self.updates()) as updates:  # ends the loader's workers
            if run.owed:  # a signal came while it was made
                self.pay()
            while not run.done and not run.owed:
                run.world.enter("its own part", update=run.update + 1)
                self.enter_phase(run.hooks.hook.fwk_phase(run=run))
                run.hooks.hook.fwk_update_begin(run=run)
                if not self.step(next(updates)):
                    self.save()
                    return "stopped"
                run.hooks.hook.fwk_update_end(run=run)
                self.report()
        if run.last_metrics.get("valid") is None and "valid" in run.task.splits() and not run.owed:
            self.validate()
            self.saved_at = -1  # the metrics belong into the checkpoint
        if run.owed:
            self.save()
        return "stopped" if run.owed else "finished"

    def updates(self) -> Iterator[list[Mapping[str, View]]]:
        """Endless: the static views of this rank's micro-batches, update by update from the next one on."""
        run, train, static = self.run, self.run.config.train, self.run.module.static_of_all_phases
        return train_views(
            run.task,
            run.order,
            partial(static, split="train"),
            static.by_row,
            batch=train.batch,
            micro_batch=train.micro_batch,
            rank=run.rank,
            world_size=run.world_size,
            workers=train.workers,
            start_update=run.update,
            device=run.device,
            user_dirs=run.config.user_dirs,
            timeout=train.timeout,
        )

    def step(self, batches: Sequence[Batch | Mapping[str, View]]) -> bool:
        """One update; False when the run was asked to stop instead, and nothing was changed."""
        run, module = self.run, self.run.module
        factor = run.learning_rate_factor()  # before this update's tokens and time count as spent
        step = Update(update=run.update + 1, progress=run.progress, micro_batches=len(batches))
        micros = [
            module.begin(batch, index, step, run.device) for index, batch in enumerate(batches)
        ]
        if module.prepares(step):
            with run.precision.autocast():
                for micro in micros:
                    module.prepare(micro, step)
                module.exchange(micros)
        if not self.agree(micros, step):
            return False
        if not any(step.counts.values()):
            self.tell_of_nothing_to_learn(micros)
        self.differentiate(micros, step)
        if self.apply(factor, micros, step):
            run.meters.commit()
        else:
            run.meters.rollback()
            run.skipped += 1
        run.update += 1
        return True

    def tell_of_nothing_to_learn(self, micros: Sequence[MicroBatch]) -> None:
        """Once: examples that no criterion reads take their share of the updates all the same."""
        run = self.run
        if self.idle or not run.world.main:
            return
        self.idle, names = True, run.task.source_names()
        seen = sorted(
            {
                int(number)
                for micro in micros
                if micro.batch.source is not None
                for number in micro.batch.source.unique()
            }
        )
        where = (
            f" (its examples are of {', '.join(names[number] for number in seen)})"
            if seen and names
            else ""
        )
        print(
            f"fwk: update {run.update + 1} has nothing to learn: no criterion has a use for any of its examples{where}, and others may be "
            "like it",
            file=sys.stderr,
        )

    def agree(self, micros: Sequence[MicroBatch], step: Update) -> bool:
        """Sums counts over micro-batches and ranks, with everything else that ranks must agree on: tokens and
        sequences seen, time spent, whether to stop. One all-reduce per update."""
        run, self.micros = self.run, micros
        counts: dict[str, Tensor] = {}
        for micro in micros:
            for name, count in run.module.normalizers(micro, step).items():
                counts[name] = counts[name] + count if name in counts else count
        names = sorted(counts)
        if self.count_names is None:
            self.count_names = names
            for other in run.world.gather_objects(names):
                if other != names:
                    raise RunError(
                        f"ranks count different loss terms: {', '.join(names)} and {', '.join(other)}; "
                        "normalizers must name the same terms on every rank, with a count of 0 where there is none"
                    )
        elif names != self.count_names:
            raise RunError(
                f"normalizers named the loss terms {', '.join(names)}, and {', '.join(self.count_names)} before; "
                "a term that does not occur in a micro-batch has the count 0"
            )
        content = [
            micro.batch.mask.sum()
            if micro.batch.mask is not None and "tokens" in micro.batch.inputs
            else 0
            for micro in micros
        ]
        with run.world.waiting_for("the sum of the update's counts"):
            *sums, tokens, sequences, seconds, stop, place, weights, squared = (
                run.world.sum_numbers(
                    [
                        *(counts[name] for name in names),
                        sum(content),
                        sum(len(micro.batch) for micro in micros),
                        run.seconds if run.world.main else 0.0,
                        float(bool(self.stop)),
                        *agreement_numbers(run, micros),
                    ]
                )
            )
        if stop:
            return False
        check_agreement(run, sequences, place, int(weights), int(squared))
        step.counts = dict(zip(names, sums))
        run.meters.add(step.counts if run.world.main else {}, "count:")
        run.tokens, run.sequences = run.tokens + int(tokens), run.sequences + int(sequences)
        run.agreed_seconds = seconds
        return True

    def differentiate(self, micros: Sequence[MicroBatch], step: Update) -> None:
        """Fills `.grad` of what has a loss term in this update and leaves None elsewhere."""
        run, scale, anchor = self.run, self.run.precision.scale, self.run.module.anchor
        for parameter in self.parameters:
            parameter.grad = None
        if self.combine:
            self.differentiate_per_term(micros, step)
            return
        for micro in micros:
            last = micro is micros[-1]
            wrapped = self.wrapped is not run.module
            with nullcontext() if last or not wrapped else self.wrapped.no_sync():
                with run.precision.autocast():
                    output = self.wrapped(micro, step)
                (output.loss if scale == 1.0 else output.loss * scale).backward()
            loss = output.loss.detach()
            if run.world_size == 1:  # elsewhere the loss's own graph marks it on every rank
                mark = loss.to(anchor.dtype) * 0.0
                anchor.grad = mark if anchor.grad is None else anchor.grad + mark
            self.record(output, loss if run.world_size == 1 else loss / run.world_size)
        if scale != 1.0:
            run.precision.unscale([p.grad for p in self.trainable if p.grad is not None])

    def differentiate_per_term(self, micros: Sequence[MicroBatch], step: Update) -> None:
        run, parameters = self.run, self.trainable
        terms = [name for name in self.count_names if step.counts[name] > 0]
        gradients: dict[str, list[Tensor | None]] = {
            term: [None] * len(parameters) for term in terms
        }
        marks = torch.zeros((), device=run.device)  # not finite where a loss is not
        for micro in micros:
            with run.precision.autocast():
                output = run.module(micro, step, per_term=True)
            for number, (term, loss) in enumerate(output.terms.items()):
                if not loss.requires_grad:
                    continue
                new = torch.autograd.grad(
                    loss * run.precision.scale,
                    parameters,
                    allow_unused=True,
                    retain_graph=number + 1 < len(output.terms),
                )
                gradients[term] = [
                    b if a is None else a if b is None else a + b
                    for a, b in zip(gradients[term], new)
                ]
            total = sum(
                (loss.detach() for loss in output.terms.values()),
                torch.zeros((), device=run.device),
            )
            marks = marks + total * 0.0
            self.record(output, total / run.world_size)
        run.module.anchor.grad = run.world.sum(marks).to(run.module.anchor.dtype)
        for term in terms:
            reached = run.world.sum(
                torch.tensor(
                    [g is not None for g in gradients[term]], dtype=torch.float32, device=run.device
                )
            ).tolist()
            for i, parameter in enumerate(parameters):
                if reached[i]:
                    mine = gradients[term][i]
                    mine = torch.zeros_like(parameter) if mine is None else mine.contiguous()
                    gradients[term][i] = run.world.sum(mine / run.world_size)
            run.precision.unscale(
                [gradient for gradient in gradients[term] if gradient is not None]
            )
        combined = run.hooks.hook.fwk_combine_gradients(run=run, gradients=gradients)
        for parameter, gradient in zip(parameters, combined):
            parameter.grad = gradient

    def record(self, output: Any, loss: Tensor) -> None:
        meters = self.run.meters
        meters.add({"loss": loss})
        meters.add(output.sums, "sum:")
        meters.add(output.statistics, "stat:")

    def apply(
        self, factor: float, micros: Sequence[MicroBatch] = (), step: Update | None = None
    ) -> bool:
        """Gradients -> new weights, at `factor` times the learning rate; False when fp16 overflowed and the update is
        skipped. micros, step: what the gradients are of, to be looked into when they are not finite."""
        run, train = self.run, self.run.config.train
        with_gradient = [p for p in self.trainable if p.grad is not None]
        gradients = [p.grad for p in with_gradient]
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        loss_mark = run.module.anchor.grad  # not finite on every rank when some rank's loss is not
        if not bool(
            torch.isfinite(norm if loss_mark is None else norm + loss_mark.to(norm.device))
        ):
            if not run.precision.may_skip:
                raise RunError(self.explain_not_finite(micros, step))
            run.precision.skipped()
            return False
        run.precision.applied()
        if train.clip and gradients:
            torch.nn.utils.clip_grads_with_norm_(with_gradient, train.clip, norm)
        self.rate = self.peak_rate * factor
        set_learning_rate(run.optimizer, self.rate)
        run.optimizer.step()
        if run.average is not None:
            run.average.update()
        self.grad_norm = float(norm)
        run.meters.add({"updates": 1.0 if run.world.main else 0.0})
        return True

    def explain_not_finite(self, micros: Sequence[MicroBatch], step: Update | None) -> str:
        """What was not finite, where it began, and what to do. The gradient is not finite on any rank, so every rank
        comes here."""
        run, batch = self.run, self.run.config.train.batch
        mine = [
            name[4:]
            for name, value in run.meters.pending.items()
            if name.startswith("sum:") and not torch.isfinite(value).all()
        ]
        by_rank = run.world.gather_objects(mine)
        terms = sorted({name for names in by_rank for name in names})
        ranks = [rank for rank, names in enumerate(by_rank) if names] or range(run.world_size)
        what = (
            f"loss term {', '.join(terms)} is not finite"
            if terms
            else "the gradient is not finite though every loss term is"
        )
        if run.precision.name == "fp16":
            what += f" and the loss scale has come down to {run.precision.scale:g}: gradients are not finite at any scale"
        found = (
            diagnose(run, micros, step)
            if step is not None
            else Finding("nothing more is known of it", "pass")
        )
        advice = {
            "weights": f"a checkpoint of update {run.update} holds the same; go on from an earlier one with a lower optimizer.lr",
            "data": "the last checkpoint is good; mend the data",
            "pass": "the last checkpoint is good; lower optimizer.lr or set train.clip"
            + (", or use train.precision=bf16 or fp32" if run.precision.name == "fp16" else ""),
        }[found.kind]
        return (
            f"update {run.update + 1}: {what} (rank {', '.join(map(str, ranks))}; draws {run.update * batch} "
            f"to {(run.update + 1) * batch - 1}); {found.text}; {advice}"
        )

    # -- phases ------------------------------------------------------------------------------------------------------

    def enter_phase(self, phase: Phase | None) -> None:
        """Applies a phase between updates when it is not the one the run is in (or nothing is built yet)."""
        run = self.run
        changed = phase is not None and (run.phase is None or phase.name != run.phase.name)
        if (
            not changed
            and run.optimizer is not None
            and self.wrapped_for == (run.phase.name if run.phase else None)
        ):
            return
        self.wrapped = run.module  # the old wrapper goes before anything changes under it
        if changed:
            copy_parameters(run.module, phase)
            if run.average is not None:
                run.average.restart(phase.copy)
            if phase.restart_schedule:
                run.restart_schedule()
            run.phase = phase
            self.count_names = None
        freeze(run.module, run.phase)
        run.module.switch_off(run.phase.off if run.phase else ())
        if run.optimizer is None or changed:
            keep = run.optimizer is not None and not phase.reset_optimizer
            self.shelf = self.pack() if keep else ({}, {})
            run.optimizer = self.build_optimizer()
            checkpoint.unpack_optimizer(run.optimizer, *self.shelf)
        self.wrap()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimizer's state by name, with what is kept of parameters that are frozen in this phase."""
        tensors, numbers = checkpoint.pack_optimizer(self.run.optimizer)
        stepped = {name for group in self.run.optimizer.param_groups for name in group["names"]}
        kept = [
            {path: value for path, value in shelf.items() if path.rsplit("::", 1)[0] not in stepped}
            for shelf in self.shelf
        ]
        return {**kept[0], **tensors}, {**kept[1], **numbers}

    def build_optimizer(self) -> torch.optim.Optimizer:
        component = self.run.config.optimizer
        if not self.run.trainable:
            raise RunError(
                f"phase '{self.run.phase.name}' freezes every parameter"
                if self.run.phase
                else "there is no parameter to train"
            )
        held = owners(self.run.module)
        groups = parameter_groups(
            self.run.named_trainable(),
            component.config,
            kind_of=lambda name, parameter: component.cls.kind(
                component.config, name, parameter, held[name]
            ),
            every_name=[name for name, _ in self.run.module.named_parameters()],
        )
        optimizer = component.cls.build(component.config, groups, self.run.device)
        checkpoint.remember_initial_settings(optimizer)
        return optimizer

    def wrap(self) -> None:
        run = self.run
        self.wrapped_for = run.phase.name if run.phase else None
        self.wrapped = run.module
        self.parameters, self.trainable = list(run.module.parameters()), run.trainable
        if run.world_size > 1:
            compare_weights(run)  # before the wrapper gives every rank the first one's
            # find_unused_parameters: a head may be without examples here and in use elsewhere; it also keeps the
            # buckets as they are first laid out, so that a resumed run reduces in the same order
            self.wrapped = DistributedDataParallel(run.module, find_unused_parameters=True)
            self.wrapped.register_forward_hook(self.announce_reduction)

    def announce_reduction(
        self, wrapped: DistributedDataParallel, inputs: Any, output: Any
    ) -> None:
        """The backward pass that follows waits for the other ranks' gradients."""
        if wrapped.require_backward_grad_sync and torch.is_grad_enabled():
            self.run.world.enter("the reduction of gradients", waits=True)

    # -- between updates ---------------------------------------------------------------------------------------------

    def report(self) -> None:
        run, train = self.run, self.run.config.train
        self.micros = ()
        run.world.enter("hooks and logging")
        self.saver.check()
        if run.update % train.log_every == 0 or run.done:
            self.log()
        improved = False
        due = train.validate_every and run.update % train.validate_every == 0
        if (due or run.done) and "valid" in run.task.splits():
            improved = self.validate()
        passed = sum(run.progress >= share for share in train.keep_at)
        if milestone := passed > len(run.milestones):
            run.milestones += [run.update] * (passed - len(run.milestones))
        if (
            improved
            or milestone
            or run.done
            or (train.save_every and run.update % train.save_every == 0)
        ):
            self.save()

    def log(self) -> None:
        run = self.run
        sums = run.meters.read(run.world)
        updates = float(sums.get("updates", torch.tensor(0.0)))
        seconds, tokens = self.mark
        self.mark = (run.seconds, run.tokens)
        record = {
            "split": "train",
            "update": run.update,
            "epoch": round(run.epoch, 6),
            "loss": float(sums["loss"]) / updates if updates else None,
            "terms": means(sums),
            "metrics": component_metrics(run.module, sums),
            "lr": self.rate,
            "grad_norm": self.grad_norm,
            "tokens": run.tokens,
            "sequences": run.sequences,
            "tokens_per_second": round((run.tokens - tokens) / max(1e-9, run.seconds - seconds), 1),
            "seconds": round(run.seconds, 3),
        }
        if run.precision.name == "fp16":
            record["loss_scale"] = run.precision.scale
        self.emit(record)

    def pay(self) -> None:
        """The validation that the checkpoint we go on from owes; the checkpoint is written again, with what it gave."""
        self.run.owed = False
        self.validate()
        if not self.run.owed:
            self.saved_at = -1
            self.save()

    def validate(self) -> bool:
        """Evaluates the `valid` split; True when it is among the best so far. A request to stop that comes meanwhile
        ends it, and the run owes it."""
        run, train = self.run, self.run.config.train
        run.world.enter("validation")
        metrics = evaluate(run, "valid", self.stop)
        if metrics is None:
            run.owed = True
            return False
        run.last_metrics["valid"] = metrics
        self.emit({"split": "valid", "update": run.update, "metrics": metrics})
        run.hooks.hook.fwk_validated(run=run, split="valid", metrics=metrics)
        if not train.keep_best:
            return False
        if train.best_metric not in metrics:
            run.best = []
            self.save()  # nothing that was learned is lost to a wrong name
            raise ConfigError(
                "train.best_metric",
                f"validation gave no '{train.best_metric}'{did_you_mean(train.best_metric, metrics)}",
            )
        value = metrics[train.best_metric]
        if not math.isfinite(value):
            return False
        sign = 1 if train.best_mode == "min" else -1
        run.best = sorted(
            [*run.best, (value, run.update)], key=lambda pair: (sign * pair[0], pair[1])
        )[: train.keep_best]
        return any(update == run.update for _, update in run.best)

    def emit(self, record: dict[str, Any]) -> None:
        """One record to those that log, on rank 0. Where it cannot be written, all ranks save and end."""
        if self.run.world.main:
            try:
                self.run.hooks.hook.fwk_logged(run=self.run, record=record)
            except LogFailed as error:
                self.unlogged = self.unlogged or error
                self.stop.ask()

    def complain(self) -> None:
        if self.unlogged is not None:
            raise self.unlogged

    def save(self) -> None:
        """Begins a checkpoint of this update, on rank 0; an update that is already saved is not saved again. What could
        not be written fails all ranks: this one, or the one before when they are written in the background."""
        run = self.run
        if run.optimizer is None or self.saved_at == run.update:
            return
        run.world.enter("saving")
        self.saved_at = run.update
        compare_weights(run)
        meters = run.meters.state(run.world)
        self.on_first_rank(
            lambda: self.saver.start(
                run.update,
                *capture_state(run, self.pack(), meters, rate=self.rate, grad_norm=self.grad_norm),
                best=[update for _, update in run.best],
                milestones=run.milestones,
            )
        )

    def finish_saving(self) -> None:
        """Until the last checkpoint is written."""
        self.run.world.enter("waiting for the last checkpoint to be written")
        self.on_first_rank(self.saver.wait)
        self.on_first_rank(self.complain)

    def on_first_rank(self, work: Callable[[], None]) -> None:
        """Does something on rank 0 that may fail, in which case every rank does."""
        run, failure = self.run, None
        if run.world.main:
            try:
                work()
            except Exception as error:  # the other ranks must hear of it before this one raises
                failure = error
        if run.world.gather_objects(failure is not None)[0]:
            raise failure or LostRanks(
                "rank 0 could not write the checkpoint; its own message says why", quiet=True
            )

    def settle(self, newest: Path) -> None:
        run = self.run
        checkpoint.prune_checkpoints(
            run.folder,
            newest,
            [update for _, update in run.best],
            run.milestones,
            run.config.train.keep_last,
        )

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint. CheckpointError when it does not fit this run."""
        run = self.run
        tensors, state = read_for_resume(run, path)
        run.resumed_from = path
        self.saver.good = path.name
        run.world.note_checkpoint(path.name)
        self.saved_at, self.rate, self.grad_norm = (
            state["update"],
            state["rate"],
            state["grad_norm"],
        )
        restore_state(run, tensors, state, path)
        freeze(run.module, run.phase)
        run.module.switch_off(run.phase.off if run.phase else ())
        run.optimizer = self.build_optimizer()
        self.shelf = tensors["optimizer"], state["optimizer"]
        checkpoint.unpack_optimizer(run.optimizer, *self.shelf)
        self.wrap()
        call_per_plugin(
            run,
            "fwk_checkpoint_load",
            state={
                name: {**numbers, **tensors.get(f"plugin-{name}", {})}
                for name, numbers in state["plugins"].items()
            },
        )
