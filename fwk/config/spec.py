"""The dataclasses of a resolved config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from fwk.components.registry import Entry, registry
from fwk.contracts.options import FieldSpec, option, plain, schema_of
from fwk.errors import ConfigError

DEFAULTS = {
    "task": "mlm",
    "model": "bert",
    "criterion": "masked_lm",
    "optimizer": "adamw",
    "schedule": "linear",
}


DEFAULT_HOOKS = ("terminal", "jsonl", "tensorboard", "summary")


DEFAULT_UPDATES = 600


SINK_HOOKS = ("fwk_run_begin", "fwk_logged", "fwk_validated", "fwk_exception", "fwk_run_end")


# may change between two starts of a run: length of training, logging, device, world size, workers, micro-batch, compile,
# activation checkpointing
KEYS_THAT_MAY_CHANGE = (
    "run",
    "user_dirs",
    "train.updates",
    "train.epochs",
    "train.tokens",
    "train.minutes",
    "train.log_every",
    "train.validate_every",
    "train.validate_batches",
    "train.save_every",
    "train.keep_last",
    "train.keep_best",
    "train.keep_at",
    "train.device",
    "train.timeout",
    "train.workers",
    "train.threads",
    "train.micro_batch",
    "train.compile",
    "train.activation_checkpointing",
    "train.async_save",
    "train.check_ranks_every",
)


KEYS_PER_RANK = (
    "train.device",
    "train.workers",
    "train.threads",
)  # may differ between the processes of one job


_SLOTS = ("task", "model", "optimizer", "schedule")  # one component each


_TABLES = {
    "networks": "model",
    "views": "noiser",
    "criterion": "criterion",
    "hooks": "hook",
}  # label -> component


_LABEL = re.compile(r"[A-Za-z0-9_][\w-]*")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at a time, in which precision, and how often something is looked at or kept."""

    updates: int | None = option(
        None,
        f"stop after so many updates ({DEFAULT_UPDATES} when nothing else says when to stop)",
        low=1,
    )
    epochs: float | None = option(None, "stop after so many passes over the training data", above=0)
    tokens: int | None = option(
        None, "stop after so many non-padding tokens of original text", low=1
    )
    minutes: float | None = option(None, "stop after so many minutes of training", above=0)
    batch: int = option(
        32, "sequences per update, over all ranks and micro-batches", low=1, high=10_000_000
    )
    micro_batch: int | None = option(
        None, "sequences per forward pass (null: all that a rank has of the batch)", low=1
    )
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = option(
        "fp32", "arithmetic of the forward and backward pass"
    )
    scale_growth_interval: int = option(
        2000, "fp16: updates in a row without an overflow before the loss scale is doubled", low=1
    )
    clip: float = option(1.0, "largest norm of the gradient (0: no clipping)", low=0)
    compile: bool = option(
        False, "compile encoders and the losses that are marked for it with torch.compile"
    )
    activation_checkpointing: bool = option(
        False,
        "keep only the inputs of the encoders' layers and run them again in the backward pass",
    )
    validate_every: int = option(
        250, "updates between evaluations on the valid split (0: only at the end)", low=0
    )
    validate_batches: int = option(0, "batches per evaluation (0: the whole split)", low=0)
    save_every: int = option(250, "updates between checkpoints (0: only at the end)", low=0)
    async_save: bool = option(
        True, "write checkpoints in the background, from a copy in host memory"
    )
    keep_last: int = option(2, "latest checkpoints to keep", low=1)
    keep_best: int = option(1, "best checkpoints to keep", low=0)
    keep_at: tuple[float, ...] = option(
        (),
        "shares of the run, as in 0.25, at which a checkpoint is saved and kept for good",
        above=0,
        high=1,
    )
    best_metric: str = option(
        "loss", "metric of the valid split that says which checkpoint is best"
    )
    best_mode: Literal["min", "max"] = option(
        "min", "whether the best metric is the smallest or the largest"
    )
    log_every: int = option(10, "updates between training lines in metrics.jsonl", low=1)
    device: str = option("auto", "cpu, cuda, cuda:N, or auto: a GPU where there is one")
    workers: int = option(
        0, "data-loading processes per rank (0: load in the training process)", low=0
    )
    threads: int = option(0, "CPU threads per process (0: torch's default)", low=0)
    ema: float = option(
        0.0, "decay of the moving average of the weights, per update (0: none)", low=0, high=1
    )
    evaluate_average: bool = option(
        False, "evaluate with the moving average of the weights (train.ema)"
    )
    deterministic: bool = option(
        True, "deterministic kernels, so that a resumed run is bit-identical"
    )
    timeout: float = option(
        600.0,
        "seconds a rank may wait for the others, or for a data-loading worker, before the run fails",
        low=1,
    )
    check_ranks_every: int = option(
        100,
        "updates between comparisons of the weights over ranks (0: only at the start and when saving)",
        low=0,
    )


@dataclass(frozen=True)
class Component:
    """A registered name with its options: `values` is complete (defaults filled in) and checked field by field.
    key: where it stands in the config."""

    kind: str
    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def entry(self) -> Entry:
        return registry.get(self.kind, self.name)

    @property
    def cls(self) -> type:
        return self.entry.cls

    @property
    def config(self) -> Any:
        """The typed configuration, an instance of the class's `Config`. Raises ConfigError when it refuses a value."""
        return _construct(self.cls, self.values, self.key)

    def to_mapping(self) -> dict[str, Any]:
        return {"name": self.name, **plain(self.values)}


@dataclass(frozen=True)
class CriterionSpec:
    """A criterion under its label. weight: a number, or {from, to, start, end}: linear over progress in [0, 1]."""

    label: str
    component: Component
    weight: float | dict[str, float] = 1.0

    @property
    def name(self) -> str:
        return self.component.name

    def to_mapping(self) -> dict[str, Any]:
        return {"name": self.name, "weight": plain(self.weight), **plain(self.component.values)}


@dataclass(frozen=True)
class NetworkSpec:
    """A further encoder. tie: names of its parts that are the main encoder's."""

    component: Component
    tie: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.component.name

    def to_mapping(self) -> dict[str, Any]:
        return {"name": self.name, "tie": list(self.tie), **plain(self.component.values)}


@dataclass(frozen=True)
class ViewSpec:
    """How a view is made and encoded. of: the view it is made of (None: the batch). network: a name in `networks`, a
    private one, or None. encoder: which network encodes it. prepare: targets are made before counts are known."""

    name: str
    component: Component
    of: str | None = None
    network: str | NetworkSpec | None = None
    mode: Literal["train", "teacher"] = "train"
    ema: bool = False
    encoder: str = "main"
    prepare: bool = False

    @property
    def noiser(self) -> str:
        return self.component.name

    def to_mapping(self) -> dict[str, Any]:
        network = (
            self.network.to_mapping() if isinstance(self.network, NetworkSpec) else self.network
        )
        return {
            "noiser": self.noiser,
            "of": self.of,
            "network": network,
            "mode": self.mode,
            "ema": self.ema,
            "encoder": self.encoder,
            "prepare": self.prepare,
            **plain(self.component.values),
        }


_VIEW_FIELDS = tuple(
    FieldSpec(name=n, type=t, default=d, doc=doc)
    for n, t, d, doc in (
        ("noiser", "str", "", "what makes the view"),
        ("of", "str | None", None, "the view it is made of (null: the batch itself)"),
        (
            "network",
            "str | dict[str, Any] | None",
            None,
            "a learned noiser's network: a name in networks, or its own",
        ),
        (
            "mode",
            "Literal['train', 'teacher']",
            "train",
            "how it is encoded (teacher: no dropout, no gradient)",
        ),
        ("ema", "bool", False, "encode with the moving average of the weights"),
        ("encoder", "str", "main", "which network encodes it"),
        ("prepare", "bool", False, "make it without gradient before the update's counts are taken"),
    )
)


_WEIGHT = FieldSpec(
    name="weight",
    type="float | dict[str, float]",
    default=1.0,
    doc="factor of this criterion's loss, or {from, to, start, end}: linear over the run's progress",
)


_TIE = FieldSpec(
    name="tie", type="tuple[str, ...]", default=[], doc="parts shared with the main encoder"
)


_SEED = FieldSpec(
    name="seed", type="int", default=1, doc="of everything that is random", low=0, high=2**63 - 1
)


_RUN = FieldSpec(
    name="run", type="str | None", doc="the run's folder (null: runs/TASK-CRITERIA-HASH)"
)


_USER_DIRS = FieldSpec(
    name="user_dirs", type="tuple[str, ...]", default=[], doc="folders or files with your own code"
)


TRAIN_SCHEMA = schema_of(TrainConfig, "train")


_EXTRAS = {"criterion": (_WEIGHT,), "networks": (_TIE,), "views": _VIEW_FIELDS[1:]}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes. views: what the config says of views, by name; with the criteria's
    own defaults it is `complete_views(config)`."""

    seed: int
    run: str | None
    user_dirs: tuple[str, ...]
    task: Component
    model: Component
    networks: Mapping[str, NetworkSpec]
    views: Mapping[str, Mapping[str, Any]]
    criterion: Mapping[str, CriterionSpec]
    optimizer: Component
    schedule: Component
    hooks: Mapping[str, Component]
    train: TrainConfig
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that `from_mapping` reads back to an equal config."""
        removed = (
            {label: None for label in DEFAULT_HOOKS if label not in self.hooks}
            if self.hooks
            else {}
        )
        return {
            "seed": self.seed,
            "run": self.run,
            "user_dirs": list(self.user_dirs),
            "task": self.task.to_mapping(),
            "model": self.model.to_mapping(),
            "networks": {name: spec.to_mapping() for name, spec in self.networks.items()},
            "views": {name: plain(view) for name, view in self.views.items()},
            "criterion": {label: spec.to_mapping() for label, spec in self.criterion.items()},
            "optimizer": self.optimizer.to_mapping(),
            "schedule": self.schedule.to_mapping(),
            "train": {f.name: plain(getattr(self.train, f.name)) for f in fields(self.train)},
            "hooks": {
                **{label: hook.to_mapping() for label, hook in self.hooks.items()},
                **removed,
            },
        }


@dataclass(frozen=True)
class Resolved:
    """A config, and for every dotted key where its value came from."""

    config: RunConfig
    provenance: dict[str, str]


def _construct(cls: type, values: Mapping[str, Any], key: str) -> Any:
    config = getattr(cls, "Config", None)
    if config is None:
        return None
    try:
        return config(**values)
    except ConfigError as error:
        if not key or error.key == key or error.key.startswith(key + "."):
            raise
        message = str(error).removeprefix(f"{error.key}: ")
        raise ConfigError(f"{key}.{error.key}" if error.key else key, message) from None
    except ValueError as error:
        raise ConfigError(key, " ".join(str(error).split())) from error
