"""The runs that a run needs: which of them exist, which are missing, and in what order these are trained.

A needed run that is finished is reused, and what it needed itself is not looked at. One that has a checkpoint resumes;
it and the main run then need only what they still read, which weights that they started from are not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fwk.config.chain import depends_on, mentions
from fwk.config.resolve import read as read_config
from fwk.config.run_config import NeededRun, RunConfig
from fwk.config.user_paths import with_absolute_paths
from fwk.contracts.metrics import find_metric
from fwk.contracts.plain import PlainDict
from fwk.data.targets import read_origin
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, ConfigError, DataError, UserError
from fwk.hooks.jsonl import read_metrics
from fwk.runs.children import Job, run_jobs
from fwk.runs.folder import differences_in, folder_of
from fwk.runs.origin import find_origin, other_weights

Status = Literal["missing", "unfinished", "finished"]

# beside what decides the identity of a run: with another length it is another source of weights
LENGTH = ("updates", "epochs", "tokens", "minutes", "patience", "min_improvement")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What the folder of a needed run holds."""

    status: Status
    update: int = 0  # of its newest checkpoint
    metric: str = ""  # of a finished run, for people
    has_targets: bool = True  # those that are asked for, made of these weights

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to do."""
        return self.status == "finished" and self.has_targets

    def __str__(self) -> str:
        if self.status == "finished":
            targets = "" if self.has_targets else ", without targets"
            return f"finished{f', {self.metric}' if self.metric else ''}{targets}"
        return f"unfinished, at update {self.update}" if self.status == "unfinished" else "missing"


def train_needed(
    config: RunConfig, *, overwrite: bool = False, allow_broken_plugins: bool = False
) -> None:
    """Train every run that a config needs and that is missing, those that do not need each other at the same time.

    overwrite: the run itself begins anew; needed runs are reused all the same. Raises CheckpointError where a folder
    holds a run with other values than asked for, and NeededRunFailed.
    """
    if not config.needs.runs:
        return
    _ = config.views_by_name  # raises now instead of after hours
    for needed in config.needs.runs:
        _check(needed)
    plan = Plan(config, overwrite)
    plan.make()
    if plan.work and os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        names = ", ".join(f"{needed.name} ({needed.run})" for needed in plan.work)
        raise ConfigError(
            "needs",
            f"not everything that this run needs is finished ({names}); start the command once without torchrun, which "
            "trains what is missing, or train each of them by its own command first",
        )
    for needed, state in plan.reused:
        logger.info("%s: reused, %s (%s)", needed.key, state, needed.run)
    jobs = [Job(needed, tuple(dep.run for dep in deps)) for needed, deps in plan.work_with_needs()]
    run_jobs(jobs, config.needs.parallel, allow_broken_plugins, state_of)


def states(config: RunConfig) -> dict[str, str]:
    """Return for each needed run, by name, what its folder holds, as text."""
    known = {}
    for needed in config.needs.runs:
        try:
            known[needed.name] = str(state_of(needed))
        except UserError as error:
            known[needed.name] = f"cannot be used: {error}"
    return known


def starts_from_missing(config: RunConfig) -> bool:
    """Return whether a config starts from the weights of a needed run that has none yet."""
    starts = (m for m in mentions(config, config.needs.runs) if m.is_start)
    return any(not checkpoint.list_checkpoints(Path(m.needed.run)) for m in starts)


def _check(needed: NeededRun) -> None:
    """Raise ConfigError for what a config states wrongly beyond names, keys and types, before anything is trained."""
    try:
        with_absolute_paths(
            needed.config
        )  # views too; raises where config.yaml could not hold a path
    except ConfigError as error:
        text = str(error).removeprefix(f"{error.key}: ")
        raise ConfigError(f"{needed.key}.{error.key}", text) from None


# -- plan ------------------------------------------------------------------------------------------------------------


@dataclass
class Plan:
    """Which needed runs are reused, and which are trained, each after those that it needs."""

    config: RunConfig
    overwrite: bool
    reused: list[tuple[NeededRun, State]] = field(default_factory=list)
    work: list[NeededRun] = field(default_factory=list)
    _needs: dict[str, list[NeededRun]] = field(default_factory=dict)  # by name
    _states: dict[str, State] = field(default_factory=dict)  # by name
    _compared: set[str] = field(default_factory=set)  # names
    _fingerprints: dict[str, str] = field(default_factory=dict)  # of weights by their place

    def make(self) -> None:
        """Find out what is to be done. Raises CheckpointError for a folder with another run."""
        folder = folder_of(self.config)
        has_begun = not self.overwrite and _has_begun(folder)
        for needed in self._required(self.config, has_begun):
            self._add(needed)

    def work_with_needs(self) -> list[tuple[NeededRun, list[NeededRun]]]:
        """Return what is trained, in order, each with those of the others that it waits for."""
        working = {needed.name for needed in self.work}
        return [
            (needed, [dep for dep in self._needs[needed.name] if dep.name in working])
            for needed in self.work
        ]

    def _add(self, needed: NeededRun) -> None:
        if needed.name in self._states:
            return
        state = self._states[needed.name] = state_of(needed, self._fingerprints)
        if state.is_complete:
            self.reused.append((needed, state))
            self._needs[needed.name] = []
            self._compare_needs(needed)
            return
        # of a run that has a checkpoint, no weights to start from are read again
        direct = self._required(needed.config, has_begun=state.status != "missing")
        self._needs[needed.name] = direct
        for other in direct:
            self._add(other)
        self.work.append(needed)

    def _compare_needs(self, needed: NeededRun) -> None:
        """Raise CheckpointError where what a finished run started from is still there, and not as it is asked for."""
        for other in depends_on(needed.config, self.config.needs.runs):
            if other.name not in self._compared:
                self._compared.add(other.name)
                state_of(other, self._fingerprints)
                self._compare_needs(other)

    def _required(self, config: RunConfig, has_begun: bool) -> list[NeededRun]:
        """Return the runs that must be complete before a run starts."""
        runs = self.config.needs.runs
        if not has_begun:
            return depends_on(config, runs)
        read = [m for m in mentions(config, runs) if not m.is_start]
        return list({m.needed.name: m.needed for m in read if not os.path.exists(m.path)}.values())


def _has_begun(folder: Path) -> bool:
    """Return whether a run has what it started from no more need of, as `find_origin` judges it."""
    return bool(checkpoint.list_checkpoints(folder)) and (folder / "config.yaml").is_file()


# -- what a folder holds ---------------------------------------------------------------------------------------------


def state_of(needed: NeededRun, fingerprints: dict[str, str] | None = None) -> State:
    """Return what the folder of a needed run holds. Raises CheckpointError where it is a run with other values.

    fingerprints: as of `other_weights`; None: nothing is known.
    """
    folder = Path(needed.run)
    if not _has_begun(folder):
        return State("missing", has_targets=False)
    _require_same(needed, folder, {} if fingerprints is None else fingerprints)
    newest = checkpoint.list_checkpoints(folder)[-1]
    update = checkpoint.update_of(newest)
    last = _last_records(folder)
    if last.get("event", {}).get("event") != "finished":
        return State("unfinished", update, has_targets=False)
    metric = _metric(needed.config, last.get("valid", {}).get("metrics"))
    return State("finished", update, metric, _has_targets(needed, newest))


def _require_same(needed: NeededRun, folder: Path, fingerprints: dict[str, str]) -> None:
    """Raise CheckpointError where the run in a folder was made with other values, or from other weights."""
    path = folder / "config.yaml"
    try:
        config = find_origin(needed.config).config
        recorded = read_config(path, config.user_dirs, needs_hooks=False)
        changed = differences_in(path, config)
    except CheckpointError as error:
        raise CheckpointError(f"{needed.key}: {error}") from None
    for name in LENGTH:
        old, new = getattr(recorded.train, name), getattr(config.train, name)
        if old != new:
            changed[f"train.{name}"] = (old, new)
    remedy = f"give this one another folder ({needed.key}.run=FOLDER), or remove {folder}"
    for key, (old, new) in sorted(changed.items()):
        raise CheckpointError(
            f"{needed.key}: {folder} holds a run that was made with other values ({key} was {old}, is now {new}; see "
            f"{path}); {remedy}"
        )
    keys = _keys_of_finished_sources(needed)
    stale = other_weights(folder, needed.config, keys, fingerprints)
    if stale is not None:
        raise CheckpointError(
            f"{needed.key}: the run in {folder} started from other weights than {needed.config.weights_from()[stale]} "
            f"has now ({stale}.from); {remedy}, so that it is trained anew"
        )


def _keys_of_finished_sources(needed: NeededRun) -> list[str]:
    """Return the keys of the networks that start from a folder whose run is finished."""
    return [
        key
        for key, place in needed.config.weights_from().items()
        if _last_records(Path(place)).get("event", {}).get("event") == "finished"
    ]


def _last_records(folder: Path) -> dict[str, PlainDict]:
    """Return the last evaluation of the valid split and the last line, if it is an event, of a run's log."""
    try:
        records = read_metrics(folder / "metrics.jsonl")
    except OSError:
        return {}
    last = {str(record.get("split")): record for record in records}
    return {**last, "event": records[-1]} if records and "event" in records[-1] else last


def _metric(config: RunConfig, metrics: object) -> str:
    """Return the metric that ranks a run's checkpoints, as text; '' where it is not known."""
    if not isinstance(metrics, Mapping):
        return ""
    try:
        name = find_metric(config.train.best_metric, metrics, "train.best_metric")
    except ConfigError:
        return ""
    value = metrics[name]
    return f"{name} {value:.4g}" if isinstance(value, (int, float)) else ""


def _has_targets(needed: NeededRun, newest: Path) -> bool:
    """Return whether the targets that are asked for exist, and are those of a checkpoint's weights."""
    if needed.targets is None:
        return True
    path = Path(needed.targets)
    try:
        return path.is_file() and read_origin(path).get("weights") == checkpoint.weights_digest(
            newest
        )
    except (DataError, CheckpointError):
        return False
