"""Configuration: YAML files, flags and dotted overrides -> a typed, validated `RunConfig`, each value with its origin.

Later wins: registered defaults < files in order < flags < `key=value`. Every layer is brought into canonical form
(a mapping label -> {name, options} wherever components stand) before OmegaConf merges it into what came before;
OmegaConf also resolves `${key.path}`. Each component's options are then checked against its schema. Nothing here
imports torch for built-in and first-party components, until `Component.config` or `complete_views` is asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fwk import yaml_text
from fwk.errors import ConfigError, nearest
from fwk.registry import Entry, registry
from fwk.schema import FieldSpec, convert, option, plain, schema_of, shown

__all__ = [
    "option",
    "RunConfig",
    "TrainConfig",
    "Component",
    "CriterionSpec",
    "NetworkSpec",
    "ViewSpec",
    "Resolved",
    "resolve",
    "read",
    "from_mapping",
    "from_python",
    "build",
    "complete_views",
    "with_views",
    "to_yaml",
    "differences",
    "identity",
]

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
RESOLVERS = ("oc.select",)  # ${oc.select:key.path,default}; every other resolver is refused

# may change between two starts of a run: length of training, logging, device, world size, workers, micro-batch, compile,
# activation checkpointing
MAY_CHANGE = (
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
OF_ONE_RANK = (
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


# ---- what a config is ----


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


# ---- from the user's words to a config ----


def resolve(
    files: Sequence[str | Path] = (),
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    user_dirs: Sequence[str | Path] = (),
    allow_broken: bool = False,
    layers: Sequence[tuple[str, Mapping]] = (),
) -> Resolved:
    """files: YAML, later wins. flags: task, model, criterion (a list), optimizer, schedule, run, seed. overrides:
    "key.path=value". user_dirs: loaded first, with those that the files name. layers: (origin, mapping) laid between
    files and flags. Raises UserError naming the key; imports no torch unless user code does."""
    from fwk.plugins import discover, existing

    flags = dict(flags or {})
    read_layers = [yaml_text.read(path) for path in files]
    read_layers += [yaml_text.Layer(plain(values), {}, origin) for origin, values in layers]
    parsed = [yaml_text.override(text) for text in overrides]

    folders: list[str] = []
    for layer in read_layers:
        folders += _listed(layer, "user_dirs")
    for path, value, _, text in parsed:
        if path == ("user_dirs",):
            folders += _listed(yaml_text.Layer({"user_dirs": value}, {}, text), "user_dirs")
    folders += [str(path) for path in user_dirs]
    folders = list(dict.fromkeys(str(existing(folder)) for folder in folders))
    discover(folders, allow_broken)

    merge = _Merge()
    for layer in read_layers:
        merge.mapping(layer)
    merge.flags(flags)
    for path, value, raw, text in parsed:
        merge.override(path, value, raw, text)
    return merge.finish(folders, ["--user-dir"] * bool(user_dirs))


def read(
    path: str | Path, user_dirs: Sequence[str | Path] = (), overrides: Sequence[str] = ()
) -> RunConfig:
    """One YAML file, such as RUN/config.yaml. user_dirs: used instead of the file's when given. overrides: "key.path=value"."""
    if not user_dirs:
        return resolve([path], overrides=overrides).config
    layer = yaml_text.read(path)
    return resolve(
        layers=[(layer.name, {k: v for k, v in layer.values.items() if k != "user_dirs"})],
        overrides=overrides,
        user_dirs=user_dirs,
    ).config


def from_mapping(values: Mapping[str, Any]) -> RunConfig:
    """Nested plain data, as a config file would have it."""
    return resolve(layers=[("config", values)]).config


def from_python(
    config: Any = None, options: Mapping[str, Any] | None = None, allow_broken: bool = False
) -> RunConfig:
    """What `fwk.train` accepts: a file, several, a mapping or a RunConfig; and options by flag name or dotted key."""
    files, layers = [], []
    given = config if isinstance(config, (list, tuple)) else [] if config is None else [config]
    for item in given:
        if isinstance(item, RunConfig):
            layers.append(("config", item.to_mapping()))
        elif isinstance(item, Mapping):
            layers.append(("config", plain(item)))
        elif isinstance(item, (str, Path)):
            layer = yaml_text.read(item)
            layers.append((layer.name, layer.values))
        else:
            raise ConfigError(
                "", f"fwk.train: expected a path, a mapping or a RunConfig, got {shown(item)}"
            )
    options = dict(options or {})
    user_dirs = options.pop("user_dirs", ())
    user_dirs = [user_dirs] if isinstance(user_dirs, (str, Path)) else user_dirs
    flags = {}
    for name in ("task", "model", "optimizer", "schedule"):
        if isinstance(options.get(name), str):
            flags[name] = options.pop(name)
    chosen = options.get("criterion")
    if (
        isinstance(chosen, str)
        or isinstance(chosen, (list, tuple))
        and all(isinstance(c, str) for c in chosen)
    ):
        flags["criterion"] = (
            [options.pop("criterion")]
            if isinstance(chosen, str)
            else list(options.pop("criterion"))
        )
    for name in ("run", "seed"):
        if name in options:
            value = options.pop(name)
            flags[name] = str(value) if isinstance(value, Path) else value
    overrides = [
        yaml_text.Given(tuple(key.split(".")), plain(value)) for key, value in options.items()
    ]
    return resolve(files, flags, overrides, user_dirs, allow_broken, layers).config


def build(cls: type, values: Mapping[str, Any], key: str = "") -> Any:
    """A component class's typed config from options alone, checked as any other (tests and tools use it)."""
    schema = schema_of(cls.Config, cls.__qualname__) if hasattr(cls, "Config") else ()
    return _construct(cls, _filled(schema, plain(values), key, cls.__name__), key)


class _Merge:
    """The layers seen so far: one OmegaConf tree in canonical form, the origin of each value by path, and for each
    place of a component the name it was given explicitly and which of its options were said for which name."""

    def __init__(self) -> None:
        self.merged: DictConfig = OmegaConf.create({})
        self.waiting: dict[
            str, Any
        ] = {}  # not merged yet: OmegaConf merges many values at once faster than one by one
        self.origins: dict[tuple[str, ...], tuple[str, str | None]] = {}
        self.named: dict[tuple[str, ...], str] = {}
        self.owners: dict[tuple[str, ...], dict[str, str | None]] = {}

    # -- layers --

    def mapping(self, layer: yaml_text.Layer) -> None:
        for key, value in layer.values.items():
            self.put((key,), value, layer)

    def flags(self, flags: Mapping[str, Any]) -> None:
        for name in ("task", "model", "optimizer", "schedule"):
            if flags.get(name) is not None:
                self.put((name,), str(flags[name]), yaml_text.Layer({}, {}, f"--{name}"))
        for name in ("run", "seed"):
            if flags.get(name) is not None:
                raw = flags[name]
                value = yaml_text.scalar(raw) if name == "seed" and isinstance(raw, str) else raw
                self.put((name,), value, yaml_text.Layer({}, {}, f"--{name}"))
        chosen = list(flags.get("criterion") or ())
        if twice := next((name for name in chosen if chosen.count(name) > 1), None):
            raise ConfigError(
                "criterion",
                f"--criterion {twice} is given twice; a criterion that is used twice takes a label: "
                f"criterion.second={{name: {twice}}}",
            )
        if chosen:
            layer = yaml_text.Layer({}, {}, "--criterion")
            current = self.labels("criterion")
            for label in current:
                if label not in chosen:
                    self.drop(("criterion", label))
            for label in chosen:
                if label not in current:
                    self.put(("criterion", label), {"name": label}, layer)
            # the order is the order of the flags
            kept = {label: self.tree.criterion._get_node(label) for label in chosen}
            self.tree.criterion = OmegaConf.create(
                {label: OmegaConf.to_container(n) for label, n in kept.items()}
            )

    def override(self, path: tuple[str, ...], value: Any, raw: str | None, text: str) -> None:
        layer = yaml_text.Layer({}, {}, text, raw)
        if path[0] == "user_dirs":
            return
        self.put(path, value, layer)

    # -- one value --

    def put(self, path: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        """Merge `value` at `path`, which is brought into canonical form first."""
        top = path[0]
        if top in ("seed", "run", "user_dirs"):
            if len(path) > 1:
                raise ConfigError(".".join(path), f"'{top}' has no keys of its own")
            self.merge(path, value, layer)
        elif top == "train":
            if len(path) == 1:
                self.expect_mapping(path, value, layer, "a mapping")
                for key, inner in value.items():
                    self.put((top, key), inner, layer)
                return
            _known(
                path[:2], path[1], [f.name for f in TRAIN_SCHEMA], "train", layer.where(path[:2])
            )
            self.merge(path, value, layer)
        elif top in _SLOTS:
            self.component(path[:1], path[1:], value, layer, "name")
        elif top in _TABLES:
            self.table(top, path[1:], value, layer)
        else:
            known = ["seed", "run", "user_dirs", *_SLOTS, *_TABLES, "train"]
            hint = (
                "; write it nested, or give it as an override on the command line"
                if "." in top
                else ""
            )
            raise ConfigError(
                top,
                f"there is no such key{nearest(top.split('.')[0], known)}{hint}"
                f"{_at(layer.where(path[:1]))}",
            )

    def table(self, top: str, rest: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        if not rest:
            if isinstance(value, str) and top == "criterion":
                value = {value: {"name": value}}
            if value is None:
                value = {}
            self.expect_mapping(
                (top,),
                value,
                layer,
                "a mapping of labels" + (" or one name" if top == "criterion" else ""),
            )
            if top == "hooks" and not value:  # no hooks at all, not even the default ones
                for label in DEFAULT_HOOKS:
                    self.merge((top, label), None, layer)
            for key, inner in value.items():
                self.table(top, (key,), inner, layer)
            return
        label = rest[0]
        if top == "criterion":
            rest, label = self.criterion_place(rest, value, layer)
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{top}.{label}",
                f"a label is made of letters, digits, '_' and '-'{_at(layer.where((top, label)))}",
            )
        if len(rest) == 1 and value is None:
            self.drop((top, label))
            self.merge((top, label), None, layer)
            return
        self.component((top, label), rest[1:], value, layer, "noiser" if top == "views" else "name")

    def criterion_place(
        self, rest: tuple[str, ...], value: Any, layer: yaml_text.Layer
    ) -> tuple[tuple[str, ...], str]:
        """Where `criterion.X...` points: X is a label, or with one criterion a key of it."""
        word = rest[0]
        labels = self.labels("criterion") or [DEFAULTS["criterion"]]
        if word in self.labels("criterion"):
            return rest, word
        only = labels[0] if len(labels) == 1 else None
        keys = self.option_names("criterion", only) if only else []
        if only and word in keys:
            return (only, *rest), only
        if word == "name":
            raise ConfigError(
                "criterion.name",
                "'criterion' maps labels to criteria; write criterion: {LABEL: {name: "
                f"{value}}}}}, or criterion: {value}{_at(layer.where(('criterion', word)))}",
            )
        new_label = isinstance(value, (Mapping, str)) or value is None or len(rest) > 1
        registered = (
            word in registry._known("criterion")
            or new_label
            and word in registry.names("criterion")
        )
        if (
            registered
            or rest[1:] == ("name",)
            or (isinstance(value, Mapping) and "name" in value)
            or (isinstance(value, str) and len(rest) == 1 and value in registry.names("criterion"))
        ):
            return rest, word
        where = _at(layer.where(("criterion", *rest)))
        if len(labels) > 1:
            raise ConfigError(
                f"criterion.{'.'.join(rest)}",
                f"there are several criteria, and '{word}' is none of their "
                f"labels: {', '.join(labels)}; write criterion.LABEL.{'.'.join(rest)}{where}",
            )
        known = list(dict.fromkeys([*keys, only, *registry.names("criterion")]))
        raise ConfigError(
            f"criterion.{'.'.join(rest)}",
            f"'{word}' is neither an option of criterion '{only}' nor a "
            f"criterion{nearest(word, known)}{where}",
        )

    def component(
        self,
        place: tuple[str, ...],
        rest: tuple[str, ...],
        value: Any,
        layer: yaml_text.Layer,
        naming: str,
    ) -> None:
        """Merge into the component at `place`: all of it, its name, or one option."""
        if not rest:
            if isinstance(value, str):
                value = {naming: value}
            self.expect_mapping(place, value, layer, "a name or a mapping")
            if naming in value:
                self.name(place, value[naming], layer, naming)
            for key, inner in value.items():
                if key != naming:
                    self.component(place, (key,), inner, layer, naming)
            if not value and OmegaConf.select(self.tree, _dotted(place)) is None:
                self.merge(place, {}, layer)
            if len(place) == 2 and place[0] in ("criterion", "hooks"):
                self.named.setdefault(place, self.current(place, naming))
            return
        if rest[0] == naming:
            if len(rest) > 1:
                raise ConfigError(
                    _dotted((*place, *rest)),
                    f"'{naming}' has no keys of its own{_at(layer.where((*place, *rest)))}",
                )
            self.name(place, value, layer, naming)
            return
        structural = [f.name for f in _EXTRAS.get(place[0], ()) if f.name != "network"]
        if rest[0] not in structural:
            self.owners.setdefault(place, {})[rest[0]] = self.named.get(place)
        self.merge((*place, *rest), value, layer)

    def name(self, place: tuple[str, ...], name: Any, layer: yaml_text.Layer, naming: str) -> None:
        """A component is named: options that were said for another name go."""
        path = (*place, naming)
        if not isinstance(name, str):
            raise ConfigError(
                _dotted(path), f"expected a name, got {shown(name)}{_at(layer.where(path))}"
            )
        if "${" in name:
            raise ConfigError(
                _dotted(path),
                f"a component's name cannot be an interpolation{_at(layer.where(path))}",
            )
        kind = _TABLES.get(place[0], place[0])
        registry.get(kind, name, hint=_for_whom(path, layer))
        owners = self.owners.get(place, {})
        for key in [k for k, owner in owners.items() if owner is not None and owner != name]:
            self.drop((*place, key))
            del owners[key]
        self.named[place] = name
        self.merge(path, name, layer)

    def merge(self, path: tuple[str, ...], value: Any, layer: yaml_text.Layer) -> None:
        value = plain(value)
        for inner, leaf in _leaves(value, path):
            _check_interpolation(leaf, _dotted(inner), _at(layer.where(inner)))
            self.origins[inner] = (layer.where(inner), layer.raw)
        node = self.waiting
        for key in path[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or path[-1] in node:
            _ = self.tree  # what waits there is merged first
            node = self.waiting
            for key in path[:-1]:
                node = node.setdefault(key, {})
        node[path[-1]] = value

    @property
    def tree(self) -> DictConfig:
        """All that has been said so far."""
        if self.waiting:
            waiting, self.waiting = self.waiting, {}
            self.merged.merge_with(waiting)
        return self.merged

    def drop(self, path: tuple[str, ...]) -> None:
        parent = self.tree
        for key in path[:-1]:
            parent = (
                parent._get_node(key)
                if isinstance(parent, DictConfig) and not parent._is_none()
                else None
            )
            if not isinstance(parent, DictConfig):
                return
        if not parent._is_none() and path[-1] in parent:
            del parent[path[-1]]
        for known in (self.origins, self.named, self.owners):
            for inner in [p for p in known if p[: len(path)] == path]:
                del known[inner]

    # -- questions --

    def labels(self, top: str) -> list[str]:
        table = self.tree._get_node(top)
        return (
            []
            if table is None
            else [label for label in table if table._get_node(label)._value() is not None]
        )

    def current(self, place: tuple[str, ...], naming: str = "name") -> str:
        name = OmegaConf.select(self.tree, _dotted((*place, naming)))
        return name or (place[1] if len(place) == 2 else DEFAULTS[place[0]])

    def option_names(self, top: str, label: str) -> list[str]:
        kind = _TABLES[top]
        schema = registry.get(kind, self.current((top, label))).schema
        return [*(f.name for f in schema), *(f.name for f in _EXTRAS.get(top, ()))]

    @staticmethod
    def expect_mapping(
        path: tuple[str, ...], value: Any, layer: yaml_text.Layer, what: str
    ) -> None:
        if not isinstance(value, Mapping):
            advice = (
                "; write label: {name: ..., option: ...} for each"
                if isinstance(value, list)
                else ""
            )
            raise ConfigError(
                _dotted(path),
                f"expected {what}, got {shown(value)}{advice}{_at(layer.where(path))}",
            )

    # -- the end --

    def finish(self, user_dirs: Sequence[str], user_dirs_origin: Sequence[str]) -> Resolved:
        """Fill in defaults, resolve interpolations, check every value."""
        given = OmegaConf.to_container(self.tree, resolve=False)
        tree: dict[str, Any] = {
            "seed": given.get("seed", _SEED.default),
            "run": given.get("run"),
            "user_dirs": list(user_dirs),
        }
        for slot in _SLOTS:
            values = dict(given.get(slot) or {})
            name = values.pop("name", DEFAULTS[slot])
            tree[slot] = {"name": name, **self.filled((slot,), slot, name, values)}
        tables: dict[str, dict[str, Any]] = {top: dict(given.get(top) or {}) for top in _TABLES}
        if not any(v is not None for v in tables["criterion"].values()):
            tables["criterion"] = {DEFAULTS["criterion"]: {}}
        tables["hooks"] = {**{label: {} for label in DEFAULT_HOOKS}, **tables["hooks"]}
        for top, kind in _TABLES.items():
            tree[top] = {}
            for label, values in tables[top].items():
                if values is None:
                    continue
                if top == "views":
                    tree[top][label] = self.view(label, dict(values))
                    continue
                values = dict(values)
                if top == "networks" and "name" not in values:
                    raise ConfigError(
                        f"networks.{label}",
                        "has no name; expected {name: MODEL, option: ...}"
                        f"{_at(self.where(('networks', label)))}",
                    )
                if top == "networks" and label == "main":
                    raise ConfigError(
                        "networks.main", "'main' is the network of 'model'; choose another name"
                    )
                name = values.pop("name", label)
                extras = _EXTRAS.get(top, ())
                head = {f.name: values.pop(f.name, plain(f.default)) for f in extras}
                known = [f.name for f in extras]
                tree[top][label] = {
                    "name": name,
                    **head,
                    **self.filled((top, label), kind, name, values, known),
                }
        train = given.get("train") or {}
        tree["train"] = {f.name: train.get(f.name, f.default) for f in TRAIN_SCHEMA}
        ends = [
            n for n in ("updates", "epochs", "tokens", "minutes") if tree["train"][n] is not None
        ]
        if not ends:
            tree["train"]["updates"] = DEFAULT_UPDATES
        tree = self.interpolated(tree)
        config = self.typed(tree)
        provenance = self.provenance(config.to_mapping(), user_dirs_origin)
        return Resolved(replace(config, provenance=provenance), provenance)

    def filled(
        self,
        place: tuple[str, ...],
        kind: str,
        name: str,
        values: Mapping[str, Any],
        known: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Options with defaults filled in; unknown and missing ones are errors. Values are checked later."""
        schema = registry.get(kind, name, hint=self.whose(place)).schema
        key = _dotted(place)
        for option_name in values:
            _known(
                (*place, option_name),
                option_name,
                [*(f.name for f in schema), *known],
                f"{kind} '{name}'",
                self.where((*place, option_name)),
            )
        return {
            f.name: _value_or_default(f, values, f"{key}.{f.name}", f"{kind} '{name}'")
            for f in schema
        }

    def view(self, label: str, values: dict[str, Any]) -> dict[str, Any]:
        """What is said of a view: keys are checked against its noiser where one is named, else against all of them."""
        noiser = values.get("noiser")
        structural = [f.name for f in _VIEW_FIELDS]
        if noiser is not None:
            schema = registry.get("noiser", noiser, hint=self.whose(("views", label))).schema
            names, whose = [f.name for f in schema], f"noiser '{noiser}'"
        else:
            names = [
                f.name for n in registry.names("noiser") for f in registry.get("noiser", n).schema
            ]
            whose = "a view"
        for key in values:
            _known(
                ("views", label, key),
                key,
                [*structural, *dict.fromkeys(names)],
                whose,
                self.where(("views", label, key)),
            )
        return values

    def interpolated(self, tree: dict[str, Any]) -> dict[str, Any]:
        leaves = dict(_leaves(tree, ()))
        if not any(
            isinstance(leaf, str) and ("${" in leaf or leaf == "???") for leaf in leaves.values()
        ):
            return tree
        known = {_dotted(path[:end]) for path in leaves for end in range(1, len(path) + 1)}
        for path, leaf in leaves.items():
            if leaf == "???":
                raise ConfigError(
                    _dotted(path),
                    f"must be given ('???' stands for a value still missing)"
                    f"{_at(self.where(path))}",
                )
            for target in _targets(leaf):
                if target not in known:
                    raise ConfigError(
                        _dotted(path),
                        f"${{{target}}} names no key{nearest(target, known, 0)}"
                        f"{_at(self.where(path))}",
                    )
        node = OmegaConf.create(tree)
        for path, leaf in leaves.items():
            try:
                parent: Any = node
                for key in path:
                    parent = parent[int(key) if OmegaConf.is_list(parent) else key]
            except (OmegaConfBaseException, RecursionError) as error:
                circular = isinstance(error, RecursionError) or "ecursive" in str(error)
                reason = "refers to itself" if circular else _first_line(error)
                raise ConfigError(
                    _dotted(path), f"interpolation {shown(leaf)}: {reason}{_at(self.where(path))}"
                ) from None
        return OmegaConf.to_container(node, resolve=True)

    def typed(self, tree: Mapping[str, Any]) -> RunConfig:
        def checked(spec: FieldSpec, value: Any, *place: str) -> Any:
            path = (*place, spec.name)
            origin, raw = self.origins.get(path, ("", None))
            return convert(value, spec, _dotted(path), raw, origin)

        def component(kind: str, values: Mapping[str, Any], *place: str) -> Component:
            schema = registry.get(kind, values["name"]).schema
            made = {f.name: checked(f, values[f.name], *place) for f in schema if f.name in values}
            return Component(kind, values["name"], made, _dotted(place))

        criterion = {}
        for label, values in tree["criterion"].items():
            weight = _weight(
                checked(_WEIGHT, values["weight"], "criterion", label), f"criterion.{label}.weight"
            )
            criterion[label] = CriterionSpec(
                label, component("criterion", values, "criterion", label), weight
            )
        networks = {
            label: NetworkSpec(
                component("model", values, "networks", label),
                checked(_TIE, values["tie"], "networks", label),
            )
            for label, values in tree["networks"].items()
        }
        views = {}
        for label, values in tree["views"].items():
            schema = {f.name: f for f in _VIEW_FIELDS}
            if "noiser" in values:
                schema.update({f.name: f for f in registry.get("noiser", values["noiser"]).schema})
            views[label] = {
                key: checked(schema[key], value, "views", label) if key in schema else value
                for key, value in values.items()
            }
            if "name" in (
                values["network"] if isinstance(values.get("network"), Mapping) else ()
            ):  # or a criterion names it
                _network(f"views.{label}.network", values["network"])
        train = TrainConfig(
            **{f.name: checked(f, tree["train"][f.name], "train") for f in TRAIN_SCHEMA}
        )
        return RunConfig(
            seed=checked(_SEED, tree["seed"]),
            run=checked(_RUN, tree["run"]),
            user_dirs=checked(_USER_DIRS, tree["user_dirs"]),
            **{slot: component(slot, tree[slot], slot) for slot in _SLOTS},
            networks=networks,
            views=views,
            criterion=criterion,
            hooks={
                label: component("hook", values, "hooks", label)
                for label, values in tree["hooks"].items()
            },
            train=train,
        )

    def where(self, path: tuple[str, ...]) -> str:
        """Where the value at a path, or the first one inside it, came from."""
        if path in self.origins:
            return self.origins[path][0]
        return next(
            (origin for inner, (origin, _) in self.origins.items() if inner[: len(path)] == path),
            "",
        )

    def whose(self, place: tuple[str, ...]) -> str:
        origin = self.where(place)
        return f"given in {_dotted(place)}" + (f" ({origin})" if origin else "")

    def provenance(
        self, mapping: Mapping[str, Any], user_dirs_origin: Sequence[str]
    ) -> dict[str, str]:
        found = {}
        for path, _ in _leaves(mapping, ()):
            for end in range(len(path), 0, -1):
                if path[:end] in self.origins:
                    found[_dotted(path)] = self.origins[path[:end]][0]
                    break
            else:
                found[_dotted(path)] = "default"
        if user_dirs_origin:
            found.update({key: user_dirs_origin[0] for key in found if key.startswith("user_dirs")})
        return found


# ---- helpers of the merge ----


def _dotted(path: Iterable[str]) -> str:
    return ".".join(path)


def _at(where: str) -> str:
    return f" ({where})" if where else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _for_whom(path: tuple[str, ...], layer: yaml_text.Layer) -> str:
    where = layer.where(path)
    if where.startswith("--"):
        return f"given by {where}; your own components come in with --user-dir"
    return f"given in {_dotted(path)}{_at(where)}; your own components come in with --user-dir"


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar with its path; lists count as inner nodes, empty containers as leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield path, None
        for number, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(number)))
    else:
        yield path, value


def _listed(layer: yaml_text.Layer, key: str) -> list[str]:
    value = layer.values.get(key)
    value = [value] if isinstance(value, str) else [] if value is None else value
    return list(convert(value, _USER_DIRS, key, None, layer.where((key,))))


def _known(path: tuple[str, ...], name: str, known: Sequence[str], whose: str, where: str) -> None:
    if name not in known:
        raise ConfigError(
            _dotted(path), f"{whose} has no option '{name}'{nearest(name, known)}{_at(where)}"
        )


def _value_or_default(spec: FieldSpec, values: Mapping[str, Any], key: str, whose: str) -> Any:
    if spec.name in values:
        return values[spec.name]
    if spec.required:
        raise ConfigError(key, f"{whose} needs this option{': ' + spec.doc if spec.doc else ''}")
    return plain(spec.default)


def _filled(
    schema: Sequence[FieldSpec], values: Mapping[str, Any], key: str, whose: str
) -> dict[str, Any]:
    prefix = f"{key}." if key else ""
    for name in values:
        _known((f"{prefix}{name}",), name, [f.name for f in schema], whose, "")
    return {
        f.name: convert(_value_or_default(f, values, prefix + f.name, whose), f, prefix + f.name)
        for f in schema
    }


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


def _weight(weight: Any, key: str) -> float | dict[str, float]:
    """A number, or a complete {from, to, start, end}."""
    if not isinstance(weight, Mapping):
        return weight
    for name in weight:
        if name not in ("from", "to", "start", "end"):
            raise ConfigError(
                f"{key}.{name}",
                f"a weight that changes has the keys from, to, start, end"
                f"{nearest(name, ('from', 'to', 'start', 'end'), 0)}",
            )
    for name in ("from", "to"):
        if name not in weight:
            raise ConfigError(
                f"{key}.{name}", "a weight that changes needs this key (the weight at that end)"
            )
    made = {
        "from": weight["from"],
        "to": weight["to"],
        "start": weight.get("start", 0.0),
        "end": weight.get("end", 1.0),
    }
    if not 0 <= made["start"] < made["end"] <= 1:
        raise ConfigError(
            key,
            "expected 0 <= start < end <= 1 (shares of the run), got start "
            f"{made['start']:g} and end {made['end']:g}",
        )
    return made


def _network(key: str, values: Mapping[str, Any]) -> NetworkSpec:
    """An inline network of a view."""
    values = dict(values)
    name = values.pop("name", None)
    if not isinstance(name, str):
        known = ", ".join(sorted(entry.name for entry in registry.entries("model")))
        raise ConfigError(
            f"{key}.name", f"a network needs the name of a model; expected one of {known}"
        )
    tie = convert(values.pop("tie", []), _TIE, f"{key}.tie")
    schema = registry.get("model", name, hint=f"given in {key}").schema
    for option_name in values:
        _known(
            (key, option_name),
            option_name,
            [*(f.name for f in schema), "tie"],
            f"model '{name}'",
            "",
        )
    return NetworkSpec(
        Component("model", name, _filled(schema, values, key, f"model '{name}'"), key), tie
    )


# ---- interpolation ----

_PLAIN = re.compile(r"[A-Za-z0-9_][\w-]*(\.[A-Za-z0-9_][\w-]*)*")
_START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")


def _bodies(text: Any) -> Iterator[tuple[str, str]]:
    """The insides of every ${...} in a text, and the whole of it from there on."""
    if not isinstance(text, str):
        return
    for match in _START.finditer(text):
        end = text.find("}", match.end())
        yield (text[match.end() : end] if end >= 0 else ""), text[match.start() :]


def _targets(text: Any) -> list[str]:
    return [body.strip() for body, _ in _bodies(text) if ":" not in body]


def _check_interpolation(text: Any, key: str, at: str) -> None:
    """Only ${key.path} and the resolvers of the list; raises ConfigError before OmegaConf sees the text."""
    for body, rest in _bodies(text):
        body = body.strip()
        if not body or "${" in body:
            raise ConfigError(
                key, f"{shown(rest)} is not an interpolation; expected ${{key.path}}{at}"
            )
        if ":" in body:
            resolver = body.split(":")[0].strip()
            if resolver not in RESOLVERS:
                raise ConfigError(
                    key,
                    f"the resolver '{resolver}' is not allowed; a config may use ${{key.path}} and "
                    f"the resolver{'s' if len(RESOLVERS) > 1 else ''} {', '.join(RESOLVERS)}{at}",
                )
        elif not _PLAIN.fullmatch(body):
            raise ConfigError(
                key,
                f"'${{{body}}}' is not an interpolation; expected ${{key.path}}, a path from the top"
                f"{at}",
            )
    if isinstance(text, str) and "${" in text:
        try:
            OmegaConf.create({"text": text})
        except OmegaConfBaseException as error:
            raise ConfigError(
                key, f"{shown(text)} is not understood: {_first_line(error)}{at}"
            ) from None


# ---- views ----


def complete_views(config: RunConfig) -> dict[str, ViewSpec]:
    """Every view of the run by name: what the criteria bring, overridden by name and key by what the config says.

    A noiser named by the config drops the options of the default one. Raises ConfigError naming the key: views that
    two criteria define differently, unknown views and networks, circles, options of no use. Imports the classes.
    """
    check(config)
    merged: dict[str, dict[str, Any]] = {}
    brought_by: dict[str, str] = {}
    read = [
        (label, *view)
        for label, spec in config.criterion.items()
        for view in spec.component.cls.views(spec.component.config).items()
    ]
    for only_reads in (False, True):
        for label, name, default in read:
            if (default is None) != only_reads or (only_reads and name in merged):
                continue
            view = _overridden(plain(default or {}), config.views.get(name, {}))
            if name in merged and merged[name] != view:
                raise ConfigError(
                    f"views.{name}",
                    f"criteria '{brought_by[name]}' and '{label}' mean different views by "
                    "this name; say under 'views' which it is, or give one of them another view",
                )
            if "noiser" not in view:
                raise ConfigError(
                    f"views.{name}",
                    f"criterion '{label}' reads this view, and nothing says how it is "
                    "made; give it a noiser under 'views'",
                )
            merged[name], brought_by[name] = view, label
    for name, view in config.views.items():
        if name not in merged:
            if "noiser" not in view:
                raise ConfigError(
                    f"views.{name}",
                    f"no criterion reads a view of this name, and it has no noiser"
                    f"{nearest(name, merged)}",
                )
            merged[name] = dict(view)
    specs = {name: _view_spec(name, view) for name, view in merged.items()}
    _check_views(config, specs)
    return specs


def with_views(config: RunConfig) -> RunConfig:
    """The config with every view spelled out; the same config as far as training goes."""
    return replace(
        config, views={name: spec.to_mapping() for name, spec in complete_views(config).items()}
    )


def check(config: RunConfig) -> None:
    """Build every component's typed config, so that what its dataclass refuses is reported before any work."""
    for component in (
        config.task,
        config.model,
        config.optimizer,
        config.schedule,
        *config.hooks.values(),
        *(spec.component for spec in config.criterion.values()),
        *(spec.component for spec in config.networks.values()),
    ):
        component.config  # noqa: B018 raises ConfigError
    if config.train.evaluate_average and not config.train.ema:
        raise ConfigError(
            "train.evaluate_average",
            "there is no moving average of the weights; set train.ema to its decay, such as 0.999",
        )


def unused(config: RunConfig, views: Mapping[str, ViewSpec] | None = None) -> list[str]:
    """Dotted keys of views and networks that nothing reads."""
    views = complete_views(config) if views is None else views
    read = {
        name
        for spec in config.criterion.values()
        for name in spec.component.cls.views(spec.component.config)
    }
    pending = list(read)
    while pending:
        source = views[pending.pop()].of
        if source and source in views and source not in read:
            read.add(source)
            pending.append(source)
    networks = {
        value
        for spec in views.values()
        for value in (spec.network, spec.encoder)
        if isinstance(value, str)
    }
    from fwk.noisers.base import LearnedNoiser

    losers = [
        f"views.{n}"
        for n in views
        if n not in read and not issubclass(views[n].component.cls, LearnedNoiser)
    ]
    return losers + [f"networks.{n}" for n in config.networks if n not in networks]


def _overridden(default: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    structural = ("of", "mode", "ema", "encoder")
    if "noiser" in said and said["noiser"] != default.get("noiser"):
        default = {k: v for k, v in default.items() if k in structural}
    networks = [view.get("network") for view in (default, said)]
    if all(isinstance(network, Mapping) for network in networks) and networks[0][
        "name"
    ] != networks[1].get("name", networks[0]["name"]):
        default = {**default, "network": None}  # of another model its options mean nothing
    return OmegaConf.to_container(
        OmegaConf.merge(
            OmegaConf.create(dict(default), flags={"allow_objects": True}), plain(said)
        ),
        resolve=False,
    )


def _view_spec(name: str, values: Mapping[str, Any]) -> ViewSpec:
    key = f"views.{name}"
    values = dict(values)
    noiser = values.pop("noiser")
    entry = registry.get("noiser", noiser, hint=f"given in {key}.noiser")
    said = {
        f.name: convert(values.pop(f.name, f.default), f, f"{key}.{f.name}")
        for f in _VIEW_FIELDS[1:]
    }
    for option_name in values:
        _known(
            (key, option_name),
            option_name,
            [*(f.name for f in entry.schema), *(f.name for f in _VIEW_FIELDS)],
            f"noiser '{noiser}'",
            "",
        )
    component = Component(
        "noiser", noiser, _filled(entry.schema, values, key, f"noiser '{noiser}'"), key
    )
    if isinstance(said["network"], Mapping):
        said["network"] = _network(f"{key}.network", said["network"])
    return ViewSpec(name, component, **said)


def _line(name: str | None, views: Mapping[str, ViewSpec]) -> list[str]:
    """A view and those it is made of, as far as they are known; a circle is walked once."""
    line: list[str] = []
    while name is not None and name in views and name not in line:
        line.append(name)
        name = views[name].of
    return line


def _chosen(name: str | None, views: Mapping[str, ViewSpec]) -> bool:
    """Whether a view has chosen positions, as far as its noisers say."""
    return any(views[n].component.cls.chooses is not False for n in _line(name, views))


def _check_views(config: RunConfig, views: Mapping[str, ViewSpec]) -> None:
    from fwk.noisers.base import LearnedNoiser

    networks = ["main", *config.networks]
    for name, spec in views.items():
        key = f"views.{name}"
        spec.component.config  # noqa: B018 raises ConfigError
        if name == "batch":
            raise ConfigError(key, "'batch' is the batch itself; choose another name")
        if spec.of is not None and spec.of not in views:
            raise ConfigError(f"{key}.of", f"there is no view '{spec.of}'{nearest(spec.of, views)}")
        if spec.encoder not in networks:
            raise ConfigError(
                f"{key}.encoder",
                f"there is no network '{spec.encoder}'{nearest(spec.encoder, networks)}",
            )
        if isinstance(spec.network, str) and spec.network not in networks:
            raise ConfigError(
                f"{key}.network",
                f"there is no network '{spec.network}'{nearest(spec.network, networks)}",
            )
        if isinstance(spec.network, NetworkSpec):
            spec.network.component.config  # noqa: B018 raises ConfigError
        learned = issubclass(spec.component.cls, LearnedNoiser)
        if spec.network is not None and not learned:
            raise ConfigError(
                f"{key}.network",
                f"noiser '{spec.noiser}' is not learned and has no use for a network",
            )
        if spec.prepare and not any(
            issubclass(views[n].component.cls, LearnedNoiser) for n in _line(name, views)
        ):
            raise ConfigError(
                f"{key}.prepare",
                f"noiser '{spec.noiser}' is not learned, nor is any it builds on: the view "
                "is always known before the counts are taken",
            )
        if spec.ema and not config.train.ema:
            raise ConfigError(
                f"{key}.ema",
                "there is no moving average of the weights; set train.ema to its decay",
            )
        seen = [name]
        while (source := views[seen[-1]].of) is not None and source in views:
            if source in seen:
                raise ConfigError(
                    f"{key}.of",
                    f"views are made of each other in a circle: {' of '.join([*seen, source])}",
                )
            seen.append(source)
        if spec.component.cls.reads_positions and not _chosen(spec.of, views):
            source = f"view '{spec.of}'" if spec.of else "the batch itself"
            raise ConfigError(
                f"{key}.of",
                f"noiser '{spec.noiser}' changes the chosen positions of its source, and {source} has none; "
                "name a view whose noiser chooses some, such as 'bert_mask'",
            )
    for label, spec in config.criterion.items():
        for name in spec.component.cls.needs_positions(spec.component.config):
            if not _chosen(name, views):
                raise ConfigError(
                    f"views.{name}.noiser",
                    f"criterion '{label}' reads positions that were chosen, and "
                    f"'{views[name].noiser}' chooses none; expected one that does, such as 'bert_mask'",
                )
        for name in spec.component.cls.needs_log_q(spec.component.config):
            if not views[name].component.cls.knows_log_q:
                known = [
                    e.name
                    for e in registry.entries("noiser")
                    if registry.get("noiser", e.name).cls.knows_log_q
                ]
                raise ConfigError(
                    f"views.{name}.noiser",
                    f"criterion '{label}' needs log q of every token, which '{views[name].noiser}' "
                    f"does not know; expected one of {', '.join(sorted(known)) or 'none there is'}",
                )


# ---- from a config to words ----


def to_yaml(
    config: RunConfig | Resolved, provenance: Mapping[str, str] | None = None, complete: bool = True
) -> str:
    """YAML that `--config` reads back to an equal config, views spelled out (`complete=False`: as they were said).
    With `provenance` each line ends in a comment that says where its value came from."""
    config = config.config if isinstance(config, Resolved) else config
    brought = {}
    if complete:
        full = with_views(config)
        said = {_dotted(p) for p, _ in _leaves(config.to_mapping(), ())}
        brought = {
            _dotted(p): "default"
            for p, _ in _leaves({"views": full.views}, ())
            if _dotted(p) not in said
        }
        config = full
    origins = None if provenance is None else {**brought, **provenance}
    return yaml_text.dump(config.to_mapping(), origins)


def _decisive(config: RunConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that decides what a run computes."""
    mapping = with_views(config).to_mapping()
    hooks = {
        label: hook
        for label, hook in mapping["hooks"].items()
        if label in config.hooks and not _is_sink(config.hooks[label].cls)
    }
    mapping.pop("hooks")
    mapping.update({"hooks": hooks} if hooks else {})
    flat = {_dotted(path): value for path, value in _leaves_whole(mapping, ())}
    return {
        k: v
        for k, v in flat.items()
        if not any(k == m or k.startswith(m + ".") for m in MAY_CHANGE)
    }


def _is_sink(cls: type) -> bool:
    """A hook that only listens: what it is and whether it is there does not change what the run computes."""
    return getattr(cls, "listens_only", False) or all(
        name in SINK_HOOKS for name in dir(cls) if name.startswith("fwk_")
    )


def _leaves_whole(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves_whole(inner, (*path, key))
    else:
        yield path, value


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, with both; keys that may change when a run goes on are left out, and so are hooks
    that only listen."""
    a, b = _decisive(old), _decisive(new)
    return {
        key: (a.get(key), b.get(key))
        for key in sorted({*a, *b})
        if a.get(key) != b.get(key) or (key in a) != (key in b)
    }


def shared_by_ranks(config: RunConfig) -> dict[str, Any]:
    """Dotted key -> value of everything that all processes of one job must have been given alike."""
    train = {f"train.{name}": value for name, value in config.to_mapping()["train"].items()}
    return {
        key: value
        for key, value in {**train, **_decisive(config)}.items()
        if key not in OF_ONE_RANK
    }


def identity(config: RunConfig) -> str:
    """Eight hexadecimal digits that are the same for configs that compute the same (length and logging aside)."""
    text = json.dumps(_decisive(config), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
