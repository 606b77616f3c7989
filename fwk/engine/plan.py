"""In which order views are made and encoded, so that every view is encoded once and the encoder is called as few times
as the dependencies allow.

Static views of static views are made before the forward pass (their positions are what counts are taken from). Inside
it, each step either makes a view or encodes a group of views in one call. A view that only criteria need waits for the
others, so it shares their call; a view that a learned noiser reads encoded goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fwk.errors import ConfigError, did_you_mean

BATCH = "batch"  # the name under which the unchanged batch is a source


@dataclass(frozen=True, kw_only=True)
class Node:
    """A view, as far as the order is concerned. source: the view it is made of. learned: its noiser has a network.
    reads_encoding: its noiser wants the source encoded. group: views of one group may share an encoder call."""

    name: str
    source: str = BATCH
    learned: bool = False
    reads_encoding: bool = False
    group: tuple = ("main", "train", False)


@dataclass(frozen=True)
class Make:
    view: str


@dataclass(frozen=True)
class Encode:
    views: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """static: views made before the forward pass, in order. steps: what happens inside it. dynamic: views that exist
    only inside the forward pass, in order."""

    static: tuple[str, ...]
    steps: tuple[Make | Encode, ...]
    dynamic: tuple[str, ...]

    def until(self, views: Iterable[str], nodes: Mapping[str, Node]) -> tuple[Make | Encode, ...]:
        """The steps that are needed to make `views` (not to encode them), for the `prepare` phase."""
        needed, encoded = set(), set()

        def want(name: str) -> None:
            if name == BATCH or name in needed:
                return
            needed.add(name)
            if nodes[name].reads_encoding:
                encoded.add(nodes[name].source)
            want(nodes[name].source)

        for view in views:
            want(view)
        steps = []
        for step in self.steps:
            if isinstance(step, Make) and step.view in needed:
                steps.append(step)
            elif isinstance(step, Encode) and encoded.intersection(step.views):
                steps.append(step)
                for name in step.views:
                    want(name)  # the whole call is repeated, so that dropout falls the same way
        return tuple(steps)


def make_plan(nodes: Mapping[str, Node], encoded: Iterable[str]) -> Plan:
    """nodes by view name; encoded: the views somebody reads encoded. ConfigError on unknown sources and cycles."""
    for node in nodes.values():
        if node.source != BATCH and node.source not in nodes:
            raise ConfigError(
                f"views.{node.name}.of",
                f"there is no view '{node.source}'{did_you_mean(node.source, nodes)}",
            )
    static, pending = [], dict(nodes)
    made = {BATCH}
    while ready := [
        n for n in pending.values() if n.source in made and not n.learned and not n.reads_encoding
    ]:
        for node in ready:
            static.append(node.name)
            made.add(node.name)
            del pending[node.name]
    steps: list[Make | Encode] = []
    dynamic = []
    wanted = set(encoded) | {n.source for n in nodes.values() if n.reads_encoding}
    if BATCH in wanted:
        raise ConfigError(
            "views", "a noiser reads the encoded batch; give it a view of noiser 'identity' to read"
        )
    order = {name: number for number, name in enumerate(nodes)}
    done: set[str] = set()

    def encode(names: Iterable[str]) -> None:
        groups: dict[tuple, list[str]] = {}
        for name in sorted(names, key=order.__getitem__):
            groups.setdefault(nodes[name].group, []).append(name)
        steps.extend(Encode(tuple(group)) for group in groups.values())
        done.update(*groups.values())

    while pending:
        ready = [
            n
            for n in pending.values()
            if n.source in made and (not n.reads_encoding or n.source in done)
        ]
        if ready:
            for node in ready:
                steps.append(Make(node.name))
                dynamic.append(node.name)
                made.add(node.name)
                del pending[node.name]
            continue
        blocking = {n.source for n in pending.values() if n.reads_encoding and n.source in made}
        if not blocking:
            raise ConfigError(
                "views",
                f"the views {', '.join(sorted(pending))} are made of each other in a circle",
            )
        encode(blocking)
    encode(name for name in wanted if name not in done)
    return Plan(tuple(static), tuple(steps), tuple(dynamic))


def share_calls(lengths: list[int], rows: list[int], waste: float = 0.15) -> list[list[int]]:
    """Which views of a group go into one encoder call: padding to a common T must cost at most `waste` of the call.

    lengths, rows: T and B of each view. Returns lists of indices; views of one length always share a call.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    calls: list[list[int]] = []
    for i in order:
        for call in calls:
            longest = lengths[call[0]]
            total = longest * (rows[i] + sum(rows[j] for j in call))
            useful = lengths[i] * rows[i] + sum(lengths[j] * rows[j] for j in call)
            if total - useful <= waste * total:
                call.append(i)
                break
        else:
            calls.append([i])
    return [sorted(call) for call in sorted(calls, key=min)]
