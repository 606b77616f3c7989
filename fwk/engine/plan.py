"""The order in which views are made and encoded.

Every view is encoded once, and the encoder is called as few times as the dependencies allow.

Static views of static views are made before the forward pass, because counts are taken from their positions.
Inside the forward pass, each action either makes a view or encodes a group of views in one call. A view that
only criteria read waits for the others, so that it shares their call; a view whose encoding a noiser reads goes
first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from fwk.errors import ConfigError, did_you_mean

BATCH = "batch"  # the name under which the unchanged batch is a parent
Group = tuple[str, str, bool]  # network, mode, whether with averaged weights


@dataclass(frozen=True, kw_only=True)
class Node:
    """A view, as far as the order is concerned."""

    name: str
    parent: str = BATCH  # the view that it is made of
    learned: bool = False  # its noiser has a network
    reads_encoding: bool = False  # its noiser reads the parent's encoding
    group: Group = ("main", "train", False)  # views of one group may share an encoder call


@dataclass(frozen=True)
class Make:
    """An action: make a view."""

    view: str


@dataclass(frozen=True)
class Encode:
    """An action: encode views of one group."""

    views: tuple[str, ...]


Action = Make | Encode


@dataclass(frozen=True)
class Plan:
    """The order of all work on the views of a micro-batch."""

    static: tuple[str, ...]  # views made before the forward pass, in order
    actions: tuple[Action, ...]  # inside the forward pass
    dynamic: tuple[str, ...]  # views that exist only inside the forward pass, in order

    @property
    def encoded(self) -> tuple[tuple[str, ...], ...]:
        """The views that are encoded, group by group."""
        return tuple(action.views for action in self.actions if isinstance(action, Encode))

    def until(self, views: Iterable[str], nodes: Mapping[str, Node]) -> tuple[Action, ...]:
        """Return the actions that make `views`, without encoding them, for the `prepare` phase."""
        wanted = needed(views, nodes)
        actions: list[Action] = []
        for action in self.actions:
            if isinstance(action, Make):
                if action.view in wanted:
                    actions.append(action)
            elif any(
                nodes[name].reads_encoding and nodes[name].parent in action.views for name in wanted
            ):
                actions.append(action)
                # the whole call is repeated, so that dropout falls the same way
                wanted |= needed(action.views, nodes)
        return tuple(actions)


def needed(views: Iterable[str], nodes: Mapping[str, Node]) -> set[str]:
    """Return these views and all views that they are made of, without the batch itself."""
    names: set[str] = set()
    pending = list(views)
    while pending:
        name = pending.pop()
        if name not in names and name != BATCH:
            names.add(name)
            pending.append(nodes[name].parent)
    return names


def make_plan(nodes: Mapping[str, Node], encoded: Iterable[str]) -> Plan:
    """Return the plan for views by name.

    encoded: the views whose encodings criteria read. Raises ConfigError for an unknown parent, for views that are made
    of each other in a circle, and where a noiser reads the encoded batch.
    """
    for node in nodes.values():
        if node.parent != BATCH and node.parent not in nodes:
            raise ConfigError(
                f"views.{node.name}.of",
                f"there is no view '{node.parent}'{did_you_mean(node.parent, nodes)}",
            )
    read_by_noisers = {node.parent for node in nodes.values() if node.reads_encoding}
    wanted = set(encoded) | read_by_noisers
    if BATCH in wanted:
        raise ConfigError(
            "views",
            "a noiser reads the encoded batch; let it read a view of the noiser 'identity' instead",
        )
    return _Planner(nodes).plan(wanted)


@dataclass
class _Planner:
    """A plan that is being made."""

    nodes: Mapping[str, Node]
    pending: dict[str, Node] = field(init=False)  # views that are not made yet
    made: set[str] = field(default_factory=lambda: {BATCH})
    encoded: set[str] = field(default_factory=set)
    actions: list[Action] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pending = dict(self.nodes)

    def plan(self, wanted: Collection[str]) -> Plan:
        """Return the whole plan. wanted: the views to encode."""
        static = self.make_static()
        dynamic = self.make_dynamic()
        self.encode(name for name in wanted if name not in self.encoded)
        return Plan(tuple(static), tuple(self.actions), tuple(dynamic))

    def make_static(self) -> list[str]:
        """Make the views that need no network; return their names in order."""
        static = []
        while ready := [
            node.name
            for node in self.pending.values()
            if node.parent in self.made and not node.learned and not node.reads_encoding
        ]:
            static += ready
            self.mark_made(ready)
        return static

    def make_dynamic(self) -> list[str]:
        """Make all other views, with the encodings that noisers read; return their names in order."""
        dynamic = []
        while self.pending:
            ready = [
                node.name
                for node in self.pending.values()
                if node.parent in self.made
                and (not node.reads_encoding or node.parent in self.encoded)
            ]
            if ready:
                self.actions += [Make(name) for name in ready]
                dynamic += ready
                self.mark_made(ready)
                continue
            blocking = {
                node.parent
                for node in self.pending.values()
                if node.reads_encoding and node.parent in self.made
            }
            if not blocking:
                names = ", ".join(sorted(self.pending))
                raise ConfigError("views", f"the views {names} are made of each other in a circle")
            self.encode(blocking)
        return dynamic

    def mark_made(self, names: Iterable[str]) -> None:
        """Note that these views exist."""
        for name in names:
            self.made.add(name)
            del self.pending[name]

    def encode(self, names: Iterable[str]) -> None:
        """Encode views, each group in one action, in the order of the config."""
        order = {name: number for number, name in enumerate(self.nodes)}
        groups: dict[Group, list[str]] = {}
        for name in sorted(names, key=order.__getitem__):
            groups.setdefault(self.nodes[name].group, []).append(name)
        self.actions += [Encode(tuple(views)) for views in groups.values()]
        self.encoded.update(*groups.values())


def share_calls(lengths: list[int], rows: list[int], waste: float = 0.15) -> list[list[int]]:
    """Return which views of a group go into one encoder call, as lists of their numbers.

    lengths, rows: T and B of each view. waste: the largest share of a call that padding to a common T may cost.
    Views of one length always share a call.
    """
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    calls: list[list[int]] = []
    for number in order:
        for call in calls:
            together = [*call, number]
            total = lengths[call[0]] * sum(rows[member] for member in together)
            useful = sum(lengths[member] * rows[member] for member in together)
            if total - useful <= waste * total:
                call.append(number)
                break
        else:
            calls.append([number])
    return [sorted(call) for call in sorted(calls, key=min)]
