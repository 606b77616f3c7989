"""Weights of sources copied into the module of a new run, and a report of what was loaded, new and left over.

A network with `from` takes the weights of the source's network of the same name, else of its main encoder. A head goes
with its encoder: a criterion takes weights from the source of the network whose views it reads, and a learned noiser
from the source of its network. They come from the part of the source with the same label (or view), or else, of a head,
from the only part that has a head of the same role.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fwk.config.run_config import RunConfig
from fwk.contracts.heads import HeadOutputs
from fwk.contracts.task import Task
from fwk.data.tokenizers import Tokenizer
from fwk.engine.module import ObjectiveModule
from fwk.engine.parts import MAIN, Part
from fwk.errors import ConfigError
from fwk.runs.origin import is_stated, network_name, require_tokenizer
from fwk.runs.source import Source, SourcePart

DEPTH = 3  # components of a name that a line of the report shows, as in networks.main.layers


def require_same_tokenizer(task: Task, sources: Mapping[str, Source]) -> None:
    """Raise ConfigError where the task reads other tokens than a source was trained on."""
    tokenizer = getattr(task, "tokenizer", None)  # tasks without text have none
    for key, source in sources.items():
        if isinstance(tokenizer, Tokenizer):
            require_tokenizer(tokenizer, source, key)


def start_from(
    module: ObjectiveModule, sources: Mapping[str, Source], config: RunConfig, length: int
) -> list[str]:
    """Copy the weights of sources, by the key of the network, into a module; return the lines of the report.

    length: tokens of the task's longest sequence. Raises ConfigError for shapes that do not fit.
    """
    start = _Start(module, config)
    by_network = {network_name(key): (key, source) for key, source in sources.items()}
    for name in module.networks:
        if name in by_network:
            start.load_network(name, *by_network[name])
    for part in module.parts.values():
        if part.path and _network_of(module, part) in by_network:
            start.load_part(part, *by_network[_network_of(module, part)])
    for name, (key, source) in by_network.items():
        _require_length(module, name, key, source, length)
    start.require_teachers(by_network)
    return list(start.report(sources))


def heads_without_weights(module: ObjectiveModule, sources: Mapping[str, Source]) -> list[str]:
    """Return the criteria that have parameters, and of whose head no source has the weights."""
    by_network = {network_name(key): source for key, source in sources.items()}
    missing = []
    for part in module.parts.values():
        if part.name in module.criteria and any(True for _ in part.component.parameters()):
            source = by_network.get(_network_of(module, part))
            if source is None or _matching(part, source)[1] is None:
                missing.append(part.name)
    return missing


def _network_of(module: ObjectiveModule, part: Part) -> str:
    """Return the network whose encodings a criterion reads, or that a learned noiser runs."""
    if part.name not in module.encodes:
        return part.network
    networks = {module.specs[view].encoder for view in module.encodes[part.name]}
    return min(networks) if len(networks) == 1 else MAIN


def _require_length(
    module: ObjectiveModule, name: str, key: str, source: Source, length: int
) -> None:
    longest = int(getattr(module.networks[name], "longest", 0))
    if 0 < longest < length:
        raise ConfigError(
            "task.length",
            f"is {length}, and the weights of {key}.from={source.place} have learned positions for {longest} tokens; "
            f"set task.length={longest}, or start from weights with more positions",
        )


@dataclass
class _Start:
    """Copies weights, and keeps account of them."""

    module: ObjectiveModule
    config: RunConfig
    filled: dict[int, str] = field(default_factory=dict)  # by identity of the tensor: its name
    loaded: dict[str, Tensor] = field(default_factory=dict)  # by name in the module
    new: dict[str, Tensor] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # why a part is new
    used: dict[int, set[str]] = field(default_factory=dict)  # by identity of the source: names

    def load_network(self, name: str, key: str, source: Source) -> None:
        """Load all weights of a network that the source has."""
        prefix = f"networks.{source.network(name)}."
        given = {n: v for n, v in source.tensors.items() if n.startswith(prefix)}
        for inner, target in self.module.networks[name].state_dict(keep_vars=True).items():
            full = f"networks.{name}.{inner}"
            value = given.get(prefix + inner)
            if id(target) in self.filled:
                self._use(source, prefix + inner)
            elif value is None:
                self.new[full] = target
            else:
                self._require_fit(full, target, value, key, source)
                self._copy(full, target, value, source, prefix + inner)

    def load_part(self, part: Part, key: str, source: Source) -> None:
        """Load the weights of a criterion or learned noiser; all are new where one of them has another shape."""
        targets = self._own_tensors(part)
        place, found = _matching(part, source)
        names = {} if found is None else _their_names(part, found, part.name in source.parts)
        given = {} if found is None else self._given(part, found, names, source)
        for inner, target in part.component.state_dict(keep_vars=True).items():
            if inner in given and id(target) in self.filled and inner not in targets:
                self._require_equal(f"{part.path}.{inner}", target, given[inner], key, source)
                self._use(source, f"{place}.{names[inner]}")
        misfit = next(
            (n for n, v in targets.items() if n in given and not _fits(v, given[n])), None
        )
        if misfit is not None:
            theirs, ours = list(given[misfit].shape), list(targets[misfit].shape)
            self.reasons[part.path] = f"{misfit} is {theirs} in {source.place} and {ours} here"
        for inner, target in targets.items():
            if inner in given and misfit is None:
                self._copy(
                    f"{part.path}.{inner}", target, given[inner], source, f"{place}.{names[inner]}"
                )
            else:
                self.new[f"{part.path}.{inner}"] = target

    def require_teachers(self, by_network: Mapping[str, tuple[str, Source]]) -> None:
        """Raise ConfigError where a frozen network, or the head of a teacher, has no weights of its source."""
        for full in self.new:
            if not self.module.teachers.is_frozen(full):
                continue
            kind, name, *_ = full.split(".")
            network = (
                name if kind == "networks" else _network_of(self.module, self.module.parts[name])
            )
            key, source = by_network[network]
            reason = next((why for path, why in self.reasons.items() if full.startswith(path)), "")
            raise ConfigError(
                f"{kind.replace('criteria', 'criterion')}.{name}",
                f"is frozen, and {source.place} ({key}.from) has no weights for {full}"
                f"{f': {reason}' if reason else ''}",
            )

    def _given(
        self, part: Part, found: SourcePart, names: Mapping[str, str], source: Source
    ) -> Mapping[str, Tensor]:
        """Return the weights that a source has for a part; none where its head reads something else."""
        ours, theirs = part.component.head_outputs(), found.outputs
        if ours.form and theirs.form and ours.form != theirs.form:
            self.reasons[part.path] = (
                f"it has {ours.form}, and in {source.place} {theirs.form}, which is taken where the config states no "
                "option of it"
            )
            return {}
        given = {name: found.tensors[their_name] for name, their_name in names.items()}
        return _in_order(given, part.component.head_path, ours, theirs)

    def _own_tensors(self, part: Part) -> dict[str, Tensor]:
        """Return the tensors of a part, by name within it, without those of networks."""
        networks = {id(v) for v in self.module.networks.state_dict(keep_vars=True).values()}
        return {
            name: value
            for name, value in part.component.state_dict(keep_vars=True).items()
            if id(value) not in networks
        }

    def _copy(self, full: str, target: Tensor, value: Tensor, source: Source, name: str) -> None:
        with torch.no_grad():
            target.copy_(value)
        self.filled[id(target)] = full
        self.loaded[full] = target
        self._use(source, name)

    def _use(self, source: Source, name: str) -> None:
        self.used.setdefault(id(source), set()).add(name)

    def _require_fit(
        self, name: str, target: Tensor, value: Tensor, key: str, source: Source
    ) -> None:
        if _fits(target, value):
            return
        raise ConfigError(
            f"{key}.from",
            f"{name} is {list(value.shape)} in {source.place} and {list(target.shape)} in this run"
            f"{self._stated_differences(key, source)}",
        )

    def _stated_differences(self, key: str, source: Source) -> str:
        """Return which stated options of the network differ from the source's."""
        theirs = source.networks[source.network(network_name(key))]
        ours = self.config.to_mapping()
        for part in key.split("."):
            ours = ours[part]
        differing = [
            f"{key}.{name}={value} (there {theirs[name]})"
            for name, value in ours.items()
            if name in theirs and value != theirs[name] and is_stated(self.config, f"{key}.{name}")
        ]
        if not differing:
            return "; the tokenizer or the task has another size"
        return (
            f"; the config states {', '.join(differing)}: leave out the options that change shapes"
        )

    def _require_equal(
        self, name: str, target: Tensor, value: Tensor, key: str, source: Source
    ) -> None:
        """Raise ConfigError where a tensor of a part is tied to a network's, and they differ in the source."""
        if value.shape == target.shape and value.equal(target.detach().to(value.dtype)):
            return
        raise ConfigError(
            f"{key}.from",
            f"{name} is tied to {self.filled[id(target)]} in this run, and {source.place} has different values for "
            "the two; untie them (tied_output=false of the criterion)",
        )

    def report(self, sources: Mapping[str, Source]) -> Iterator[str]:
        """Yield the lines of the report."""
        for key, place in {key: source.place for key, source in sources.items()}.items():
            yield f"{key}.from={place}"
        yield from _lines("loaded", self.loaded, {})
        yield from _lines("new", self.new, self.reasons)
        for source in {id(source): source for source in sources.values()}.values():
            used = self.used.get(id(source), set())
            pointers = {source.tensors[name].data_ptr() for name in used if name in source.tensors}
            left = {
                name: source.tensors[name]
                for name in source.names
                if name not in used and source.tensors[name].data_ptr() not in pointers
            }
            yield from _lines("left over", left, {})
            if source.left_behind:
                yield f"  left over  {', '.join(source.left_behind[:8])}"


def _fits(target: Tensor, value: Tensor) -> bool:
    kinds = target.is_floating_point(), value.is_floating_point()
    return target.shape == value.shape and kinds[0] == kinds[1]


def _matching(part: Part, source: Source) -> tuple[str, SourcePart | None]:
    """Return the part of a source whose weights a part takes, with the path of its tensors; None if it has none."""
    learned = part.path.startswith("learned.")
    name = source.part_for(part.name, part.component.roles, learned)
    if name is None:
        return "", None
    return f"{'learned' if source.is_learned(name) else 'criteria'}.{name}", source.parts[name]


def _their_names(part: Part, found: SourcePart, same: bool) -> dict[str, str]:
    """Return the names of a part's weights -> their names in the part of the source.

    same: the two have the same label, so that weights beside the head correspond, too.
    """
    ours, theirs = f"{part.component.head_path}.", f"{found.head_path}."
    names = {}
    for name in found.tensors:
        if name.startswith(theirs):
            names[ours + name.removeprefix(theirs)] = name
        elif same:
            names[name] = name
    return names


def _in_order(
    given: Mapping[str, Tensor], head_path: str, outputs: HeadOutputs, theirs: HeadOutputs
) -> Mapping[str, Tensor]:
    """Return the weights of a head with its outputs in another order where both have the same names for them."""
    if outputs.names == theirs.names or sorted(outputs.names) != sorted(theirs.names):
        return given
    order = [theirs.names.index(name) for name in outputs.names]
    output = f"{head_path}.output."
    return {n: value[order] if n.startswith(output) else value for n, value in given.items()}


def _lines(what: str, tensors: Mapping[str, Tensor], reasons: Mapping[str, str]) -> Iterable[str]:
    """Yield a line for each module of the tensors, with its number of parameters."""
    groups: dict[str, int] = {}
    for name, value in tensors.items():
        group = ".".join(name.split(".")[:-1][:DEPTH])
        groups[group] = groups.get(group, 0) + value.numel()
    for group, size in groups.items():
        reason = next((why for path, why in reasons.items() if group.startswith(path)), "")
        yield f"  {what:<9}  {group}: {size:,} parameters{f' ({reason})' if reason else ''}"
