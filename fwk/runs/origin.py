"""What a run starts from: its sources of weights, and the config with what follows from them.

A network with `from` has the model and the options of its source where the config does not state others, and the task
has the tokenizer of the source. A run that has a checkpoint needs no source any more: what its config does not state is
read from RUN/config.yaml, and the tokenizer from RUN/tokenizer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fwk.config.resolve import from_mapping
from fwk.config.resolve import read as read_config
from fwk.config.run_config import RunConfig
from fwk.config.yaml_text import read as read_file
from fwk.contracts.json_files import fitted, read_json
from fwk.contracts.option_paths import HUB
from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.data import tokenizers
from fwk.data.tokenizers import KINDS, Tokenizer
from fwk.engine.saving import checkpoint
from fwk.errors import CheckpointError, ConfigError
from fwk.files import user_path, write_atomically
from fwk.runs.folder import folder_of, require_no_copy
from fwk.runs.head_options import Options, options_of_sources, recorded_options
from fwk.runs.source import Source, open_source

RECORD = "started_from.json"  # in the run's folder
ADVICE = "choose another --run, or start anew with --overwrite"
MODEL, RATE = "model", "optimizer.lr"  # keys
STRUCTURE = ("from", "tie", "frozen")  # keys of a network that are no options of its model


@dataclass
class Origin:
    """The complete config of a run, and the sources that it starts from now."""

    config: RunConfig
    # by the key of the network; empty where the run has a checkpoint to resume from
    sources: dict[str, Source] = field(default_factory=dict)
    # the values of `from`, and the fingerprints of what they lead to
    record: dict[str, dict[str, str]] = field(default_factory=dict)
    has_tokenizer_of_source: bool = False  # the config states none

    def release(self) -> None:
        """Free the memory of the weights."""
        self.sources = {}

    def facts(self) -> dict[str, str]:
        """Return what must be equal on all ranks."""
        return {f"{key}.from": entry["fingerprint"] for key, entry in self.record.items()}

    def write(self, folder: Path) -> None:
        """Write down what the run started from; a run that was killed in the folder may have left other facts."""
        if self.record or (folder / RECORD).exists():
            write_atomically(folder / RECORD, (json.dumps(self.record, indent=1) + "\n").encode())

    def described(self, config: RunConfig, folder: Path) -> RunConfig:
        """Return the config for RUN/config.yaml: its tokenizer is that of the run, as the source may be deleted."""
        if not self.has_tokenizer_of_source:
            return config
        values = {**config.task.values, "tokenizer": os.path.abspath(folder / "tokenizer")}
        return replace(config, task=replace(config.task, values=values))


def find_origin(config: RunConfig, overwrite: bool = False) -> Origin:
    """Return the origin of the run that a config describes.

    overwrite: the run begins anew, whatever its folder holds. Raises ConfigError where a source cannot be used, and
    CheckpointError where the run in the folder started from other weights.
    """
    if not config.weights_from():
        return Origin(config)
    folder = folder_of(config)
    if not overwrite:
        require_no_copy(folder)
        if checkpoint.list_checkpoints(folder) and (folder / "config.yaml").is_file():
            return Origin(_as_recorded(config, folder))
        _require_places(config, folder)
    sources = _open_sources(config)
    places = {key: _absolute(place) for key, place in config.weights_from().items()}
    networks = {
        key: source.networks[source.network(network_name(key))] for key, source in sources.items()
    }
    complete = _with_networks(config, networks, places)
    user_dirs = (folder for source in sources.values() for folder in source.user_dirs)
    complete["user_dirs"] = list(dict.fromkeys((*config.user_dirs, *user_dirs)))
    by_network = {network_name(key): source for key, source in sources.items()}
    _fill_criteria(complete, options_of_sources(config, by_network))
    rate = config.optimizer.cls.trained_rate
    if MODEL in sources and rate is not None and not is_stated(config, RATE):
        complete["optimizer"] = {**complete["optimizer"], "lr": rate}
    tokenizer = _tokenizer_to_use(config, sources)
    if tokenizer is not None:
        complete["task"] = {**complete["task"], "tokenizer": str(tokenizer)}
    record = {
        key: {"from": places[key], "fingerprint": source.fingerprint}
        for key, source in sources.items()
    }
    return Origin(_resolved(config, complete), sources, record, tokenizer is not None)


def _open_sources(config: RunConfig) -> dict[str, Source]:
    """Return the sources by the key of the network; networks that name the same place share one."""
    opened: dict[str, Source] = {}
    sources = {}
    for key, place in config.weights_from().items():
        if place not in opened:
            opened[place] = open_source(place, f"{key}.from", config.user_dirs)
        sources[key] = opened[place]
    return sources


def require_same_origin(folder: Path, origin: Origin) -> None:
    """Raise CheckpointError where a run without a checkpoint started from other weights before."""
    known = _read_record(folder)
    if not origin.record or not known or checkpoint.list_checkpoints(folder):
        return
    for key in sorted({*known, *origin.record}):
        before, now = known.get(key, {}), origin.record.get(key, {})
        if before.get("fingerprint") != now.get("fingerprint"):
            raise CheckpointError(
                f"{folder} holds a run without a checkpoint that started from other weights ({key}.from was "
                f"{_shown(before)}, is now {_shown(now)}); {ADVICE}"
            )


def other_weights(
    folder: Path, config: RunConfig, keys: Sequence[str], fingerprints: dict[str, str]
) -> str | None:
    """Return the first of the keys of networks whose source has other weights now than when the run began, or None.

    fingerprints: of sources by their place, as far as they are known; added to. Raises ConfigError where a source
    cannot be read.
    """
    known, places = _read_record(folder), config.weights_from()
    for key in keys:
        if key not in known or key not in places:
            continue
        place = _absolute(places[key])
        if place not in fingerprints:
            source = open_source(places[key], f"{key}.from", config.user_dirs)
            fingerprints[place] = source.fingerprint
        if fingerprints[place] != known[key]["fingerprint"]:
            return key
    return None


def _shown(entry: Mapping[str, str]) -> str:
    return f"{entry['from']} with the fingerprint {entry['fingerprint'][:12]}" if entry else "null"


def _read_record(folder: Path) -> dict[str, dict[str, str]]:
    """Return what a run in the folder started from, by the key of the network; {} where it says nothing."""
    path = folder / RECORD
    if not path.is_file():
        return {}
    record = fitted(
        {"record": read_json(path, CheckpointError)},
        {"record": "dict[str, dict[str, str]]"},
        path,
        CheckpointError,
    )["record"]
    for entry in record.values():
        fitted(entry, {"from": "str", "fingerprint": "str"}, path, CheckpointError)
    return record


def _require_places(config: RunConfig, folder: Path) -> None:
    """Raise CheckpointError where the run has begun without a checkpoint, and what it started from is gone."""
    record = _read_record(folder)
    for key, place in config.weights_from().items():
        before = record.get(key, {}).get("from", "")
        if before == _absolute(place) and not before.startswith(HUB) and not os.path.exists(before):
            raise CheckpointError(
                f"{folder} holds a run that ended before its first checkpoint, and the weights that it started from "
                f"({key}.from={place}) are gone; restore them, or {ADVICE}"
            )


def _absolute(place: str) -> str:
    """Return a path as an absolute one, and a name on the hub as it is."""
    return place if place.startswith(HUB) else os.path.abspath(user_path(place))


def network_name(key: str) -> str:
    """Return the name in a module of the network of a key in the config."""
    first, *rest = key.split(".")
    if first == "model":
        return "main"
    return rest[0] if first == "networks" else f"{rest[0]}_network"


def _with_networks(
    config: RunConfig, networks: Mapping[str, PlainMapping], places: Mapping[str, str]
) -> PlainDict:
    """Return a config as plain data, with what its networks do not state filled in; by the key of each network.

    networks: model and options. places: the values of `from`.
    """
    complete = config.to_mapping()
    for key, known in networks.items():
        *parents, last = key.split(".")
        node = complete
        for parent in parents:
            node = node[parent]
        stated = {
            name: value
            for name, value in node[last].items()
            if name in STRUCTURE or is_stated(config, f"{key}.{name}")
        }
        fits = stated.get("name", known["name"]) == known["name"]
        node[last] = {**(known if fits else {}), **stated, "from": places[key]}
    return complete


def _fill_criteria(complete: PlainDict, options: Options) -> None:
    """Set options of criteria, by label, in the plain data of a config."""
    for label, values in options.items():
        complete["criterion"][label] = {**complete["criterion"][label], **values}


def is_stated(config: RunConfig, key: str) -> bool:
    """Return whether the value at a key was given by a file, a flag or an override."""
    return config.provenance.get(key, "") != "default"


def _resolved(config: RunConfig, complete: PlainDict) -> RunConfig:
    """Return the config of complete plain data, with the origins of its values."""
    resolved = from_mapping(complete)
    return replace(
        resolved,
        provenance={
            key: config.provenance[key]
            if config.provenance.get(key, "default") != "default"
            else _origin_of(key, config)
            for key in resolved.provenance
        },
    )


def _origin_of(key: str, config: RunConfig) -> str:
    """Return the origin of a value that the config did not state."""
    for network, place in config.weights_from().items():
        if key.startswith(f"{network}."):
            return f"{network}.from={place}"
    if key in ("task.tokenizer", RATE):
        return next(f"{network}.from={place}" for network, place in config.weights_from().items())
    return "default"


# -- tokenizer -------------------------------------------------------------------------------------------------------


def _reads_tokenizer(config: RunConfig) -> bool:
    """Return whether the task has the option `tokenizer`."""
    return any(spec.name == "tokenizer" for spec in config.task.entry.schema)


def _tokenizer_to_use(config: RunConfig, sources: Mapping[str, Source]) -> Path | None:
    """Return the tokenizer that the task takes from its sources; None where it states one or has no such option.

    Raises ConfigError where sources, or the stated tokenizer, differ from each other.
    """
    known = {key: source for key, source in sources.items() if source.tokenizer is not None}
    if not known or not _reads_tokenizer(config):
        return None
    first, source = next(iter(known.items()))
    for key, other in known.items():
        if not _are_same(other.tokenizer, source.tokenizer):
            raise ConfigError(
                f"{key}.from",
                f"{other.place} has another tokenizer than {source.place} ({first}.from); networks of one run read "
                "the same tokens",
            )
    if not is_stated(config, "task.tokenizer"):
        return source.tokenizer_path
    stated = config.task.values["tokenizer"]
    if isinstance(stated, str) and stated not in KINDS and user_path(stated).exists():
        require_tokenizer(tokenizers.load(stated), source, first)
    return None


def _are_same(a: Tokenizer | None, b: Tokenizer | None) -> bool:
    return a is not None and b is not None and a.fingerprint == b.fingerprint


def require_tokenizer(tokenizer: Tokenizer, source: Source, key: str) -> None:
    """Raise ConfigError where a tokenizer is not that of a source. key: of the network."""
    if source.tokenizer is not None and not _are_same(tokenizer, source.tokenizer):
        raise ConfigError(
            "task.tokenizer",
            f"it is another tokenizer (fingerprint {tokenizer.fingerprint[:12]}) than the one that the weights of "
            f"{key}.from={source.place} were trained with ({source.tokenizer.fingerprint[:12]}); leave "
            "task.tokenizer out to use that one",
        )


# -- resuming --------------------------------------------------------------------------------------------------------


def _as_recorded(config: RunConfig, folder: Path) -> RunConfig:
    """Return a config with what it does not state as the run in the folder has it.

    Raises CheckpointError where that run started from something else.
    """
    path = folder / "config.yaml"
    recorded = read_config(path, config.user_dirs, needs_hooks=False)
    before, places = recorded.weights_from(), config.weights_from()
    recorded_run = read_file(path).values.get("run")
    changed = [
        f"{key}.from was {before.get(key)}, is now {places.get(key)}"
        for key in sorted({*before, *places})
        if not _is_same_place(before.get(key), places.get(key), recorded_run, folder)
    ]
    if changed:
        raise CheckpointError(
            f"{folder} holds a run with another config ({'; '.join(changed)}; see {path}); {ADVICE}"
        )
    networks = {}
    for key in places:
        node = recorded.to_mapping()
        for part in key.split("."):
            node = node[part]
        networks[key] = {name: value for name, value in node.items() if name not in STRUCTURE}
    complete = _with_networks(config, networks, before)
    _fill_criteria(complete, recorded_options(config, recorded))
    complete["user_dirs"] = list(dict.fromkeys((*config.user_dirs, *recorded.user_dirs)))
    if recorded.optimizer.name == config.optimizer.name and not is_stated(config, RATE):
        rate = recorded.optimizer.values["lr"]
        complete["optimizer"] = {**complete["optimizer"], "lr": rate}
    if _reads_tokenizer(config) and not is_stated(config, "task.tokenizer"):
        tokenizer = recorded.task.values.get("tokenizer")
        complete["task"] = {**complete["task"], "tokenizer": tokenizer}
    return _resolved(config, complete)


def _is_same_place(
    before: str | None, place: str | None, recorded_run: object, folder: Path
) -> bool:
    """Return whether two values of `from` name the same: also where a project was moved with its runs."""
    if before is None or place is None:
        return before == place
    now = _absolute(place)
    if HUB in (before[: len(HUB)], now[: len(HUB)]) or not isinstance(recorded_run, str):
        return before == now
    moved = os.path.relpath(now, os.path.abspath(folder))
    return before == now or os.path.relpath(before, recorded_run) == moved
