"""The parts of a resolved config: components, criteria, networks, views, and the fields that the engine reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fwk.components.registry import Entry, registry
from fwk.contracts.options import FieldSpec, Plain, option, plain, schema_of
from fwk.contracts.plain import PlainMapping
from fwk.errors import ConfigError

if TYPE_CHECKING:  # these import torch
    from fwk.contracts.criterion import Criterion
    from fwk.contracts.noiser import Noiser
    from fwk.contracts.read import Read

DEFAULTS = {
    "task": "mlm",
    "model": "bert",
    "criterion": "masked_lm",
    "optimizer": "adamw",
    "schedule": "linear",
}
DEFAULT_HOOKS = ("terminal", "jsonl", "tensorboard", "summary")
DEFAULT_UPDATES = 600

SLOTS = ("task", "model", "optimizer", "schedule")  # keys that hold one component each
TABLES = {  # keys that hold components by label -> their kind
    "networks": "model",
    "views": "noiser",
    "criterion": "criterion",
    "hooks": "hook",
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of training, batch sizes, precision, and how often to evaluate, save and log."""

    updates: int | None = option(
        None,
        f"stop after this many updates ({DEFAULT_UPDATES} where no other limit is set)",
        low=1,
    )
    epochs: float | None = option(
        None, "stop after this many passes over the training data", above=0
    )
    tokens: int | None = option(
        None, "stop after this many non-padding tokens of original text", low=1
    )
    minutes: float | None = option(None, "stop after this many minutes of training", above=0)
    batch: int = option(
        32, "sequences per update, over all ranks and micro-batches", low=1, high=10_000_000
    )
    micro_batch: int | None = option(
        None, "sequences per forward pass (null: a rank's whole share of the batch)", low=1
    )
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = option(
        "fp32", "arithmetic of the forward and backward pass"
    )
    scale_growth_interval: int = option(
        2000, "fp16: updates without an overflow after which the loss scale is doubled", low=1
    )
    clip: float = option(1.0, "largest norm of the gradient (0: no clipping)", low=0)
    compile: bool = option(
        False, "compile encoders, and losses that support it, with torch.compile"
    )
    activation_checkpointing: bool = option(
        False,
        "keep only the inputs of the encoders' layers and recompute the rest in the backward pass",
    )
    validate_every: int | None = option(
        250,
        "updates between evaluations on the valid split (0: only at the end; null where validate_epochs is set)",
        low=0,
    )
    validate_epochs: float | None = option(
        None,
        "instead of validate_every: passes over the training data between evaluations, such as 0.5",
        above=0,
    )
    validate_batches: int = option(0, "batches per evaluation (0: the whole split)", low=0)
    save_every: int | None = option(
        250,
        "updates between checkpoints (0: only at the end; null where save_epochs is set)",
        low=0,
    )
    save_epochs: float | None = option(
        None,
        "instead of save_every: passes over the training data between checkpoints",
        above=0,
    )
    async_save: bool = option(
        True, "write checkpoints in the background, from a copy in host memory"
    )
    keep_last: int = option(2, "latest checkpoints to keep", low=1)
    keep_best: int = option(1, "best checkpoints to keep", low=0)
    keep_at: tuple[float, ...] = option(
        (),
        "shares of the run, such as 0.25, at which a checkpoint is saved that is never removed",
        above=0,
        high=1,
    )
    best_metric: str = option(
        "loss",
        "metric of the valid split by which the best checkpoint is chosen; its last part where that is unique, such as "
        "accuracy for classification/accuracy",
    )
    best_mode: Literal["auto", "min", "max"] = option(
        "auto",
        "whether the best metric is the smallest or the largest (auto: by its name; losses and errors smallest, "
        "accuracies, F1 and correlations largest)",
    )
    patience: int = option(
        0,
        "end the run after this many evaluations in a row without an improvement of best_metric (0: never)",
        low=0,
    )
    min_improvement: float = option(
        0.0, "by how much best_metric must change for an improvement (patience)", low=0
    )
    log_every: int = option(10, "updates between training lines in metrics.jsonl", low=1)
    device: str = option("auto", "cpu, cuda, cuda:N, or auto: a GPU if the machine has one")
    workers: int = option(
        0, "data-loading processes per rank (0: load in the training process)", low=0, high=4096
    )
    threads: int = option(0, "CPU threads per process (0: torch's default)", low=0, high=1024)
    ema: float = option(
        0.0, "decay of the moving average of the weights, per update (0: none)", low=0, high=1
    )
    evaluate_average: bool = option(
        False, "evaluate with the moving average of the weights (train.ema)"
    )
    deterministic: bool = option(
        True, "use deterministic kernels, so that a resumed run is bit-identical"
    )
    timeout: float = option(
        600.0,
        "seconds that a rank may wait for the others, or for a data-loading worker, before the run fails",
        low=1,
        high=1e9,
    )
    check_ranks_every: int = option(
        100,
        "updates between comparisons of the weights of all ranks (0: only at the start and when saving)",
        low=0,
    )


@dataclass(frozen=True)
class Component:
    """A registered name with its options."""

    kind: str
    name: str
    values: PlainMapping = field(default_factory=dict)  # complete, each checked by its type
    key: str = ""  # the component's place in the config, for errors
    # of a model, its key `from`: where its first weights come from
    weights_from: str | None = None

    @property
    def entry(self) -> Entry:
        """The registry's entry."""
        return registry.get(self.kind, self.name)

    @property
    def cls(self) -> type[Any]:
        """The class; Any because each kind has a base class of its own."""
        return self.entry.cls

    @property
    def config(self) -> Any:
        """The options as an instance of the class's `Config`. Raises ConfigError where it refuses a value."""
        return construct(self.cls, self.values, self.key)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn a ValueError of the component's constructor, which runs inside, into a ConfigError at its key."""
        try:
            yield
        except ValueError as error:
            raise ConfigError(self.key, " ".join(str(error).split())) from error

    def to_mapping(self) -> dict[str, Plain]:
        """Return the component as a config file has it."""
        return {"name": self.name, **self.start(), **plain(self.values)}

    def start(self) -> dict[str, Plain]:
        """Return the key `from`, where it is set."""
        return {} if self.weights_from is None else {FROM.name: self.weights_from}


@dataclass(frozen=True)
class CriterionSpec:
    """A criterion under its label."""

    label: str
    component: Component
    # a number, or {from, to, start, end}: linear over the progress of the run, in [0, 1]
    weight: float | dict[str, float] = 1.0
    normalise: Literal["auto", "examples", "task"] = "auto"

    @property
    def name(self) -> str:
        """The registered name."""
        return self.component.name

    @property
    def cls(self) -> type[Criterion[Any]]:
        """The criterion's class."""
        return self.component.cls

    def reads(self) -> dict[str, Read]:
        """Return the views that the criterion reads, by name."""
        return self.cls.reads(self.component.config)

    def to_mapping(self) -> dict[str, Plain]:
        """Return the criterion as a config file has it."""
        return {
            "name": self.name,
            "weight": plain(self.weight),
            # only where it is stated, so that runs of earlier versions keep their identity
            **({"normalise": self.normalise} if self.normalise != "auto" else {}),
            **plain(self.component.values),
        }


@dataclass(frozen=True)
class NetworkSpec:
    """A further encoder."""

    component: Component
    tie: tuple[str, ...] = ()  # names of its parts that it shares with the main encoder
    frozen: bool = False  # it is never trained, and has no dropout

    @property
    def name(self) -> str:
        """The registered name of the model."""
        return self.component.name

    def to_mapping(self) -> dict[str, Plain]:
        """Return the network as a config file has it."""
        component = self.component
        return {
            "name": self.name,
            "tie": list(self.tie),
            # only where it is used, so that runs of earlier versions keep their identity
            **({FROZEN.name: True} if self.frozen else {}),
            **component.start(),
            **plain(component.values),
        }


@dataclass(frozen=True)
class ViewSpec:
    """How a view is made and encoded."""

    name: str
    component: Component
    of: str | None = None  # the parent view; None: the batch
    network: str | NetworkSpec | None = None  # a learned noiser's: a name in `networks`, or inline
    mode: Literal["train", "teacher"] = "train"
    ema: bool = False  # encode with the moving average of the weights
    encoder: str = "main"  # the network that encodes it
    prepare: bool = False  # make it without gradient before counts are taken
    fields: tuple[str, ...] = ()  # the named texts that it renders; empty: the batch as it is
    part: str | None = None  # the task whose examples it shows, of several; None: all

    @property
    def noiser(self) -> str:
        """The registered name of the noiser."""
        return self.component.name

    @property
    def cls(self) -> type[Noiser]:
        """The noiser's class."""
        return self.component.cls

    def to_mapping(self) -> dict[str, Plain]:
        """Return the view as a config file has it."""
        network = self.network
        return {
            "noiser": self.noiser,
            "of": self.of,
            "network": network.to_mapping() if isinstance(network, NetworkSpec) else network,
            "mode": self.mode,
            "ema": self.ema,
            "encoder": self.encoder,
            "prepare": self.prepare,
            # only where it is used, so that runs of earlier versions keep their identity
            **({"fields": list(self.fields)} if self.fields else {}),
            **({"part": self.part} if self.part is not None else {}),
            **plain(self.component.values),
        }


VIEW_FIELDS = (
    FieldSpec(name="noiser", type="str", default="", doc="what makes the view"),
    FieldSpec(
        name="of",
        type="str | None",
        doc="the view that it is made of (null: the batch itself)",
    ),
    FieldSpec(
        name="network",
        type="str | dict[str, Any] | None",
        doc="a learned noiser's network: a name in networks, or an inline model",
    ),
    FieldSpec(
        name="mode",
        type="Literal['train', 'teacher']",
        default="train",
        doc="how it is encoded (teacher: no dropout, no gradient)",
    ),
    FieldSpec(
        name="ema",
        type="bool",
        default=False,
        doc="encode with the moving average of the weights",
    ),
    FieldSpec(name="encoder", type="str", default="main", doc="the network that encodes it"),
    FieldSpec(
        name="prepare",
        type="bool",
        default=False,
        doc="make it without gradient before the update's counts are taken",
    ),
    FieldSpec(
        name="fields",
        type="tuple[str, ...]",
        default=[],
        doc="the named texts of an example that it renders as one sequence (empty: the batch as it is)",
    ),
    FieldSpec(
        name="part",
        type="str | None",
        doc="the task whose examples alone it shows, of a task that has several (null: all examples)",
    ),
)
NORMALISE = FieldSpec(
    name="normalise",
    type="Literal['auto', 'examples', 'task']",
    default="auto",
    doc="what the loss of one of several tasks is divided by: the examples of all of them in the update, or of its own "
    "(auto: of all where it reads a part of the batch)",
)
WEIGHT = FieldSpec(
    name="weight",
    type="float | dict[str, float]",
    default=1.0,
    doc="factor of this criterion's loss, or {from, to, start, end}: linear over the run's progress",
)
TIE = FieldSpec(
    name="tie", type="tuple[str, ...]", default=[], doc="parts shared with the main encoder"
)
FROZEN = FieldSpec(
    name="frozen",
    type="bool",
    default=False,
    doc="never train it: a teacher, with weights of `from`, without dropout and gradient",
)
FROM = FieldSpec(
    name="from",
    type="str | None",
    doc="weights to start from: a run, a checkpoint, a folder of Hugging Face, or hub:NAME; options that are not given "
    "are the source's (null: random weights)",
    paths=(),
)
NEEDS, RUNS = "needs", "runs"  # the keys about other runs
TOP_LEVEL = ("seed", "run", "user_dirs", *SLOTS, *TABLES, "train", NEEDS, RUNS)  # every key


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """How the runs that a run needs are trained."""

    parallel: int = option(1, "needed runs that are trained at the same time", low=1)


RUNS_SCHEMA = schema_of(RunsConfig, "runs")

SEED = FieldSpec(
    name="seed", type="int", default=1, doc="seed of everything random", low=0, high=2**63 - 1
)
RUN = FieldSpec(
    name="run",
    type="str | None",
    doc="the run's folder (null: runs/TASK-CRITERIA-HASH)",
    paths=(),
)
USER_DIRS = FieldSpec(
    name="user_dirs", type="tuple[str, ...]", default=[], doc="folders or files with your own code"
)
TRAIN_SCHEMA = schema_of(TrainConfig, "train")
# keys that the engine reads beside the options of a component
EXTRAS = {
    "model": (FROM,),
    "criterion": (WEIGHT, NORMALISE),
    "networks": (TIE, FROZEN, FROM),
    "views": VIEW_FIELDS[1:],
}


def construct(cls: type[Any], values: PlainMapping, key: str) -> Any:
    """Return an instance of a component class's `Config`, or None where it has none.

    Raises ConfigError at `key` where the dataclass refuses a value.
    """
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
