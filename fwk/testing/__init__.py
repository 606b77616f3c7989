"""The conformance kit: many small checks whose names read as rules. A third party proves a component with one line,

    from fwk.testing import assert_conforms
    def test_mine(): assert_conforms("criterion", "my_objective", user_dirs=["."])

and the project runs the same kit over every registered name. A component that cannot keep a rule says so, with the
reason: `expected_failures = {"geometry": "in-batch negatives are those of the micro-batch"}` on its class.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.config.resolve import build as build_config
from fwk.config.resolve import from_mapping
from fwk.config.spec import DEFAULT_HOOKS, RunConfig
from fwk.contracts.keyed import Key
from fwk.contracts.optimizer import set_learning_rate
from fwk.contracts.views import View
from fwk.engine.evaluate import evaluate
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.feed.loader import train_batches
from fwk.engine.module import Update
from fwk.engine.ranks.world import World
from fwk.engine.run import Run
from fwk.engine.saving import checkpoint
from fwk.engine.signals import StopRequest
from fwk.engine.trainer import Trainer
from fwk.errors import FwkError
from fwk.runs import start

TINY = {
    "task": {
        "name": "synthetic",
        "sequences": 64,
        "length": 16,
        "shortest": 9,
        "vocabulary": 32,
        "second_source": 0.4,
    },
    "model": {
        "name": "bert",
        "layers": 2,
        "width": 16,
        "heads": 2,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "hooks": {label: None for label in DEFAULT_HOOKS},
    "train": {
        "updates": 6,
        "batch": 12,
        "precision": "fp64",
        "log_every": 2,
        "validate_every": 3,
        "save_every": 3,
        "device": "cpu",
    },
    "optimizer": {"name": "adamw", "lr": 1e-3},
}


@dataclass(frozen=True)
class Result:
    """One rule's outcome. expected: the component declared that it cannot keep this rule, and why."""

    name: str
    passed: bool
    detail: str = ""
    expected: str = ""


def tiny_config(
    changes: Mapping[str, Any] | None = None, user_dirs: Sequence[str] = ()
) -> RunConfig:
    """A config small enough for a unit test; `changes` is a nested mapping laid over it."""
    return from_mapping(merge_settings(TINY, {**(changes or {}), "user_dirs": list(user_dirs)}))


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, mapping by mapping; a component with another `name` is replaced whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        replaced = (
            isinstance(value, Mapping)
            and "name" in value
            and isinstance(old, Mapping)
            and value["name"] != old.get("name")
        )
        mergeable = isinstance(value, Mapping) and isinstance(old, Mapping) and not replaced
        result[key] = merge_settings(old, value) if mergeable else value
    return result


@contextmanager
def trainer_of(config: RunConfig, world: World | None = None) -> Iterator[Trainer]:
    """A trainer about to make the first update, on a run whose folder vanishes afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        run = start.build_run(
            config, Path(folder), load_plugins(config.user_dirs), world or World()
        )
        trainer = Trainer(run, StopRequest())
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        yield trainer


def batches_of(run: Run, start_update: int = 0) -> Iterator[list]:
    train = run.config.train
    return iter(
        train_batches(
            run.task,
            run.order,
            batch=train.batch,
            micro_batch=train.micro_batch,
            rank=run.rank,
            world_size=run.world_size,
            workers=train.workers,
            start_update=start_update,
            pin=False,
            user_dirs=run.config.user_dirs,
        )
    )


def gradients(config: RunConfig, world: World | None = None) -> dict[str, Tensor | None]:
    """The gradient of the first update by parameter name, None where no loss term reaches."""
    with trainer_of(config, world) as trainer:
        differentiate_once(trainer)
        return {
            name: None if p.grad is None else p.grad.clone()
            for name, p in trainer.run.module.named_parameters()
            if name != "anchor"
        }


def differentiate_once(trainer: Trainer) -> Update:
    run = trainer.run
    batches = next(batches_of(run, run.update))
    step = Update(update=run.update + 1, progress=run.progress, micro_batches=len(batches))
    micros = [
        run.module.begin(batch, index, step, run.device) for index, batch in enumerate(batches)
    ]
    if run.module.prepares(step):
        for micro in micros:
            run.module.prepare(micro, step)
        run.module.exchange(micros)
    trainer.agree(micros, step)
    trainer.differentiate(micros, step)
    return step


def difference(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None]) -> float:
    """Largest |a - b| over the largest |a|, over all names; infinite where only one side has a gradient."""
    if a.keys() != b.keys() or any((a[name] is None) != (b[name] is None) for name in a):
        return float("inf")
    scale = max((float(x.abs().max()) for x in a.values() if x is not None), default=0.0)
    worst = max(
        (float((a[name] - b[name]).abs().max()) for name in a if a[name] is not None), default=0.0
    )
    return worst / scale if scale else worst


def train_briefly(config: RunConfig, folder: Path, updates: int | None = None) -> dict[str, Tensor]:
    """Trains (or goes on) in `folder` and returns the weights."""
    changed = config.to_mapping()
    changed["run"] = str(folder)
    if updates is not None:
        changed["train"]["updates"] = updates
    finished = start.train(from_mapping(changed))
    tensors, _ = checkpoint.read_checkpoint(checkpoint.find_checkpoint(finished.folder))
    return tensors["model"]


# -- rules for criteria ----------------------------------------------------------------------------------------------


def _criterion_config(
    name: str, options: Mapping[str, Any], base: Mapping[str, Any] | None, user_dirs: Sequence[str]
) -> RunConfig:
    return tiny_config(
        merge_settings({"criterion": {name: {"name": name, **options}}}, base or {}), user_dirs
    )


def rule_geometry(config: RunConfig) -> str:
    """The gradient of an update does not depend on how it is cut into micro-batches."""
    odd = (
        config.train.batch - 1 + config.train.batch % 2
    )  # cut unevenly, or a mean of means would be the mean
    config = change_config(config, {"train": {"batch": odd}})
    whole = gradients(config)
    for size in (3, 6):
        worst = difference(
            whole, gradients(change_config(config, {"train": {"micro_batch": size}}))
        )
        if not worst < 1e-10:
            return f"micro-batches of {size} change the fp64 gradient by {worst:.1e} (relative), expected below 1e-10"
    if all(value is None or not value.any() for value in whole.values()):
        return "no parameter has a gradient"
    return ""


def rule_resume(config: RunConfig) -> str:
    """A run that was stopped and started again has the same weights to the last bit."""
    config = change_config(
        config,
        {
            "train": {"precision": "fp32"},
            "model": {"dropout": 0.1} if config.model.name == "bert" else {},
        },
    )
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        straight = train_briefly(config, Path(one))
        total = config.train.updates
        with stopped_at(total // 2):
            train_briefly(config, Path(two))
        again = train_briefly(config, Path(two))
    changed = [name for name in straight if not torch.equal(straight[name], again[name])]
    return f"{len(changed)} tensors differ after a resume, first {changed[0]}" if changed else ""


def rule_one_encode(config: RunConfig) -> str:
    """Every view is encoded once per micro-batch, in no more calls than the plan has."""
    with trainer_of(config) as trainer:
        module = trainer.run.module
        planned = [
            name for step in module.plan.steps if hasattr(step, "views") for name in step.views
        ]
        if len(planned) != len(set(planned)):
            return f"the plan encodes a view twice: {planned}"
        seen: list[str] = []
        encode = module.encode

        def counted(views, *args, **kwargs):
            seen.extend(view.name for view in views)
            return encode(views, *args, **kwargs)

        module.encode = counted
        extra = module._encode_one

        def uncounted(*args, **kwargs):  # what a criterion asks for itself is no view of the plan
            module.encode = encode
            try:
                return extra(*args, **kwargs)
            finally:
                module.encode = counted

        module._encode_one = uncounted
        step = Update(update=1, counts=None)
        micro = module.begin(next(batches_of(trainer.run))[0], 0, step, trainer.run.device)
        if module.prepares(step):
            module.prepare(micro, step)
            module.exchange([micro])
        seen.clear()
        planned = [
            name for name in planned if len(micro.views[name])
        ]  # one that keeps some rows may have none here
        module(micro, step)
        if sorted(seen) != sorted(planned):
            return f"the plan encodes {sorted(planned)}, and {sorted(seen)} were encoded"
    return ""


def rule_no_global_randomness(config: RunConfig) -> str:
    """Without dropout nothing draws from a global generator."""
    with trainer_of(config) as trainer:
        trainer.run.module._seed = lambda *call: (
            None
        )  # the engine's own seeding of dropout is not what is looked for
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        differentiate_once(trainer)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    names = [
        name
        for name, same in (
            ("torch", torch.equal(before[0], after[0])),
            ("random", before[1] == after[1]),
            ("numpy", bool((before[2] == after[2]).all())),
        )
        if not same
    ]
    return (
        f"the global generator of {' and '.join(names)} moved; draw from context or key instead"
        if names
        else ""
    )


def rule_finite(config: RunConfig) -> str:
    """Every term is finite and is named by `normalizers`; evaluation gives a finite loss too."""
    with trainer_of(config) as trainer:
        differentiate_once(trainer)
        bad = [
            name
            for name, value in trainer.run.meters.pending.items()
            if not torch.isfinite(value).all()
        ]
        if bad:
            return f"not finite: {', '.join(bad)}"
        trainer.run.meters.rollback()
        metrics = evaluate(trainer.run, "valid")
        if not np.isfinite(metrics["loss"]):
            return f"the loss in evaluation is {metrics['loss']}"
    return ""


def _undocumented(cls: type) -> str:
    silent = [
        f.name
        for f in (fields(cls.Config) if is_dataclass(cls.Config) else ())
        if not f.metadata.get("doc")
    ]
    return (
        f"without documentation: {', '.join(silent)}; use option(default, 'what it is')"
        if silent
        else ""
    )


CRITERION_RULES: dict[str, Callable[[RunConfig], str]] = {
    "geometry": rule_geometry,
    "resume": rule_resume,
    "one encode per view": rule_one_encode,
    "no global randomness": rule_no_global_randomness,
    "finite": rule_finite,
}


# -- rules for static noisers ----------------------------------------------------------------------------------------


def _noised(
    name: str,
    options: Mapping[str, Any],
    rows: slice = slice(None),
    seed: int = 1,
    purpose: str = "view",
) -> tuple[View, View]:
    from fwk.contracts.context import BuildContext

    config = tiny_config()
    task = config.task.cls(config.task.config, 1)
    source = task.sources("train")["a"]
    draws = np.arange(24)[rows]
    batch = task.collate([source[i] for i in draws], draws, np.zeros(len(draws), dtype=np.int64))
    cls = registry.get("noiser", name).cls
    noiser = cls(
        build_config(cls, options), BuildContext(name="view", vocabulary=task.vocabulary())
    )
    view = View.from_batch(batch)
    return view, noiser.apply(view, Key(seed, purpose, view.draws))


def _same(a: View, b: View) -> bool:
    return len(_tensors(a)) == len(_tensors(b)) and all(
        torch.equal(x, y) for x, y in zip(_tensors(a), _tensors(b))
    )


def _tensors(view: View) -> list[Tensor]:
    own = [view.target, view.positions, view.valid, view.changed, view.mask]
    return [*view.inputs.values(), *(tensor for tensor in own if tensor is not None)]


def noiser_is_repeatable(name: str, options: Mapping[str, Any]) -> str:
    """The same key gives the same view."""
    return (
        ""
        if _same(_noised(name, options)[1], _noised(name, options)[1])
        else "two calls with one key differ"
    )


def noiser_ignores_the_batch(name: str, options: Mapping[str, Any]) -> str:
    """An example's noise does not depend on which other examples are in the batch."""
    whole, part = _noised(name, options)[1], _noised(name, options, slice(5, 13))[1]
    same = all(
        torch.equal(a[5:13], b)
        for a, b in zip(_tensors(whole), _tensors(part))
        if a.shape[1:] == b.shape[1:]
    )
    return "" if same else "rows 5 to 12 differ when they are noised alone"


def noiser_keeps_rows_apart(name: str, options: Mapping[str, Any]) -> str:
    """One that says `by_row` makes of several micro-batches at once what it makes of each."""
    if not registry.get("noiser", name).cls.by_row:
        return ""
    cuts = (slice(0, 5), slice(5, 6), slice(6, 24))
    together = JoinedViews.joining(
        {"view": _noised(name, options)[1]}, [np.arange(24)[rows] for rows in cuts]
    )
    alone = [_noised(name, options, rows)[1] for rows in cuts]
    differ = [
        rows for rows, views, view in zip(cuts, together, alone) if not _same(views["view"], view)
    ]
    return (
        f"rows {differ[0].start} to {differ[0].stop - 1} differ when they are noised alone; set by_row = False"
        if differ
        else ""
    )


def noiser_keeps_its_source(name: str, options: Mapping[str, Any]) -> str:
    """The source view is not modified."""
    clean = _noised("identity", {})[0]
    source, _ = _noised(name, options)
    return "" if _same(clean, source) else "the source was changed in place"


def noiser_keeps_special_tokens(name: str, options: Mapping[str, Any]) -> str:
    """[CLS], [SEP] and padding stay as they are (views of the source's shape)."""
    source, view = _noised(name, options)
    if view.tokens.shape != source.tokens.shape:
        return ""
    fixed = source.special | ~source.mask
    return (
        ""
        if torch.equal(view.tokens[fixed], source.tokens[fixed])
        else "special tokens or padding were changed"
    )


NOISER_RULES = {
    "repeatable": noiser_is_repeatable,
    "independent of the batch": noiser_ignores_the_batch,
    "rows apart": noiser_keeps_rows_apart,
    "source untouched": noiser_keeps_its_source,
    "special tokens untouched": noiser_keeps_special_tokens,
}


# -- rules for encoders ----------------------------------------------------------------------------------------------


def _tried(trainer: Trainer) -> torch.nn.Module:
    networks = trainer.run.module.networks
    return networks["other" if "other" in networks else "main"]


def encoder_is_padding_proof(config: RunConfig) -> str:
    """What stands in the padding, and how much of it there is, does not change the features of content."""
    with trainer_of(config) as trainer:
        encoder = _tried(trainer).eval()
        view = View.from_batch(next(batches_of(trainer.run))[0])
        if view.mask is None:
            return ""
        with torch.no_grad():
            clean = encoder(view.inputs, view.mask).features
            garbage = {
                n: torch.where(view.mask, x, 7) if n == "tokens" else x
                for n, x in view.inputs.items()
            }
            dirty = encoder(garbage, view.mask).features
            worst = float((clean - dirty)[view.mask].abs().max())
            if not worst < 1e-10:
                return f"tokens in the padding change the features of content by {worst:.1e}"
            short = view.mask.sum(1).argmin()
            T = int(view.mask[short].sum())
            alone = encoder(
                {
                    n: x[short : short + 1, :T] if x.dim() > 1 else x[short : short + 1]
                    for n, x in view.inputs.items()
                },
                None,
            ).features
            worst = float((alone[0] - clean[short, :T]).abs().max())
    return (
        "" if worst < 1e-10 else f"without its padding a sequence's features differ by {worst:.1e}"
    )


def encoder_returns_named_states(config: RunConfig) -> str:
    """Every state it names can be asked for, and has B leading."""
    with trainer_of(config) as trainer:
        encoder = _tried(trainer)
        view = View.from_batch(next(batches_of(trainer.run))[0])
        encoded = encoder(view.inputs, view.mask, None, encoder.state_names())
        if missing := set(encoder.state_names()) - set(encoded.states):
            return f"named but not returned: {', '.join(sorted(missing))}"
        if encoded.features.shape[-1] != encoder.width:
            return f"features are {encoded.features.shape[-1]} wide, `width` says {encoder.width}"
        if wrong := [name for name, state in encoded.states.items() if state.shape[0] != len(view)]:
            return f"not [B, ...]: {', '.join(wrong)}"
    return ""


ENCODER_RULES = {
    "padding-proof": encoder_is_padding_proof,
    "named states": encoder_returns_named_states,
    "geometry": rule_geometry,
    "resume": rule_resume,
}


# -- rules for optimizers --------------------------------------------------------------------------------------------


def optimizer_leaves_what_has_no_gradient(config: RunConfig) -> str:
    """A parameter without gradient in an update is not stepped: no decay, no momentum."""
    with trainer_of(config) as trainer:
        trainer.step(next(batches_of(trainer.run)))
        named = trainer.run.named_trainable()
        before = {name: parameter.detach().clone() for name, parameter in named}
        for _, parameter in named[::2]:
            parameter.grad = None
        trainer.run.optimizer.step()
        moved = [name for name, parameter in named[::2] if not torch.equal(parameter, before[name])]
        still = [
            name
            for name, parameter in named[1::2]
            if torch.equal(parameter, before[name]) and parameter.grad.any()
        ]
    if moved:
        return f"{len(moved)} parameters without gradient were stepped, first {moved[0]}"
    return (
        f"{len(still)} parameters with gradient were not stepped, first {still[0]}" if still else ""
    )


def optimizer_obeys_the_rate(config: RunConfig) -> str:
    """The learning rate that the engine puts into each group is the one that is used: at 0 nothing moves."""
    with trainer_of(config) as trainer:
        trainer.step(next(batches_of(trainer.run)))
        before = {
            name: parameter.detach().clone() for name, parameter in trainer.run.named_trainable()
        }
        set_learning_rate(trainer.run.optimizer, 0.0)
        trainer.run.optimizer.step()
        moved = [
            name
            for name, parameter in trainer.run.named_trainable()
            if not torch.equal(parameter, before[name])
        ]
    return (
        f"{len(moved)} parameters moved at a learning rate of 0, first {moved[0]}" if moved else ""
    )


def optimizer_learns(config: RunConfig) -> str:
    """At its default rate the loss of a tiny task falls in 40 updates."""
    config = change_config(config, {"train": {"updates": 40}})
    with trainer_of(config) as trainer:
        first = evaluate(trainer.run, "valid")["loss"]
        for batches in itertools.islice(batches_of(trainer.run), 40):
            trainer.step(batches)
        last = evaluate(trainer.run, "valid")["loss"]
    return "" if last < first else f"the loss went from {first:.3f} to {last:.3f}"


OPTIMIZER_RULES = {
    "resume": rule_resume,
    "nothing without gradient": optimizer_leaves_what_has_no_gradient,
    "learning rate": optimizer_obeys_the_rate,
    "learns": optimizer_learns,
}


# -- rules for schedules ---------------------------------------------------------------------------------------------


def _schedule(name: str, options: Mapping[str, Any]) -> Any:
    cls = registry.get("schedule", name).cls
    return cls(build_config(cls, options))


def _whole_run(schedule: Any, total: int | None) -> list[float]:
    end = total or 300
    return [schedule.factor(update, total, (update - 1) / end) for update in range(1, end + 1)]


def schedule_is_a_factor(name: str, options: Mapping[str, Any]) -> str:
    """Every factor lies in [0, 1], however long the run is and whatever counts its length."""
    for warmup in (0.0, 1.0, 7.0, 500.0, 0.3):
        for total in (1, 2, 3, 10, 300, None):
            factors = _whole_run(_schedule(name, {**options, "warmup": warmup}), total)
            if bad := [(update, f) for update, f in enumerate(factors, 1) if not 0 <= f <= 1]:
                return f"update {bad[0][0]} of {total} after a warm-up of {warmup:g} has the factor {bad[0][1]}"
    return ""


def schedule_is_pure(name: str, options: Mapping[str, Any]) -> str:
    """A factor depends on nothing that was asked before, so a resumed run has the rates of one that never stopped."""
    straight, one = _whole_run(_schedule(name, options), 50), _schedule(name, options)
    backwards = [one.factor(update, 50, (update - 1) / 50) for update in range(50, 0, -1)]
    return "" if backwards[::-1] == straight else "asked backwards it gives other factors"


SCHEDULE_RULES = {"a factor": schedule_is_a_factor, "pure": schedule_is_pure}


# -- running the kit -------------------------------------------------------------------------------------------------


def check(
    kind: str,
    name: str,
    options: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    user_dirs: Sequence[str] = (),
) -> list[Result]:
    """Every rule for one registered name. options: the component's; base: a nested mapping laid over the tiny config
    (another task, views, an encoder). FwkError inside a rule is its failure."""
    load_plugins(tuple(user_dirs))
    cls = registry.get(kind, name).cls
    options = options or {}
    if kind == "criterion":
        rules = {
            rule: _of_config(f, lambda: _criterion_config(name, options, base, user_dirs))
            for rule, f in CRITERION_RULES.items()
        }
    elif kind == "noiser" and not issubclass(cls, torch.nn.Module):
        rules = {rule: (lambda f=f: f(name, options)) for rule, f in NOISER_RULES.items()}
    elif (
        kind == "noiser"
    ):  # a learned one keeps the rules of criteria, as the maker of a view that one of them reads
        network = {
            "name": "bert",
            "layers": 1,
            "width": 16,
            "heads": 2,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
        noised = {"noiser": name, "of": "masked", "network": network, **options}
        changed = merge_settings(
            {
                "criterion": {"masked_lm": {"view": "noised"}},
                "views": {"masked": {"noiser": "bert_mask"}, "noised": noised},
            },
            base or {},
        )
        rules = {
            rule: _of_config(f, lambda: tiny_config(changed, user_dirs))
            for rule, f in CRITERION_RULES.items()
        }
    elif kind == "model":
        still = {
            key: 0.0
            for key in ("dropout", "attention_dropout")
            if key in cls.Config.__dataclass_fields__
        }
        own = {"name": name, **still, **options}
        # one that is made after the main encoder encodes a view beside it
        beside = {
            "networks": {"other": own},
            "views": {"masked": {"noiser": "bert_mask", "encoder": "other"}},
        }
        changed = merge_settings({"model": own} if cls.standalone else beside, base or {})
        rules = {
            rule: _of_config(f, lambda: tiny_config(changed, user_dirs))
            for rule, f in ENCODER_RULES.items()
        }
    elif kind == "optimizer":
        own = {"name": name, "lr": cls.Config.__dataclass_fields__["lr"].default, **options}
        changed = merge_settings({"criterion": "masked_lm", "optimizer": own}, base or {})
        rules = {
            rule: _of_config(f, lambda: tiny_config(changed, user_dirs))
            for rule, f in OPTIMIZER_RULES.items()
        }
    elif kind == "schedule":
        rules = {rule: (lambda f=f: f(name, options)) for rule, f in SCHEDULE_RULES.items()}
    else:
        rules = {}
    rules["options documented"] = lambda: _undocumented(cls)
    expected = getattr(cls, "expected_failures", {})
    results = []
    for rule, run in rules.items():
        try:
            detail = run()
        except FwkError as error:
            detail = f"{type(error).__name__}: {error}"
        results.append(Result(rule, not detail, detail, expected.get(rule, "")))
    return results


def assert_conforms(kind: str, name: str, **arguments: Any) -> None:
    """AssertionError lists every rule that is broken without a declared reason, or kept in spite of one."""
    results = check(kind, name, **arguments)
    broken = [f"{r.name}: {r.detail}" for r in results if not r.passed and not r.expected]
    stale = [
        f"{r.name}: declared to fail ({r.expected}), but holds"
        for r in results
        if r.passed and r.expected
    ]
    assert not broken and not stale, f"{kind} '{name}' breaks the contract:\n  " + "\n  ".join(
        broken + stale
    )


def _of_config(
    rule: Callable[[RunConfig], str], make: Callable[[], RunConfig]
) -> Callable[[], str]:
    return lambda: rule(make())


def change_config(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return a copy of `config` with the nested mapping `changes` laid over it."""
    return from_mapping(merge_settings(config.to_mapping(), changes))


@contextmanager
def stopped_at(update: int) -> Iterator[None]:
    """Stop every run inside the block, as a signal would, once it has done `update` updates."""
    step = Trainer.step

    def stopping(self: Trainer, batches: Any) -> bool:
        if self.run.update >= update:
            self.stop.signal = 15
        return step(self, batches)

    Trainer.step = stopping
    try:
        yield
    finally:
        Trainer.step = step
