"""Calls of encoders: several views in one call, without dropout or gradient, or with averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fwk.config.spec import ViewSpec
from fwk.contracts.criterion import Criterion
from fwk.contracts.encoder import Encoder
from fwk.contracts.views import Encoded, View
from fwk.engine.plan import Group, Node, share_calls
from fwk.engine.speed.recompute import keep_activations
from fwk.errors import ConfigError, DataError


class Encoding:
    """The networks of an objective and the ways in which they are called."""

    def __init__(self, objective: nn.Module, networks: nn.ModuleDict, pad: int) -> None:
        # has the names of all parameters, and says whether it is training
        self.objective = objective
        self.networks = networks
        self.pad = pad  # the token id of padding
        self.states: dict[str, tuple[str, ...]] = {}  # by network: the states that criteria read
        self.first_only: frozenset[str] = frozenset()  # views whose first position alone is read
        self.of_parts: frozenset[str] = frozenset()  # views of some examples each, together a batch
        self.averages: dict[str, Tensor] | None = None  # averaged weights by parameter name
        self.backend: str | None = None  # of torch.compile, where it is in use
        self.calls = 0
        self.masked: set[tuple[str, bool]] = (
            set()
        )  # (network, training) that were called with a mask

    @property
    def longest(self) -> int:
        """Positions of the longest sequence that every network reads; 0: any number."""
        limits = (cast(Encoder, network).longest for network in self.networks.values())
        return min((limit for limit in limits if limit), default=0)

    def encode_group(
        self, views: Iterable[View], group: Group, seed: Callable[[str], None]
    ) -> Iterator[View]:
        """Yield every view of a group with its encoding, in as few calls as padding allows.

        seed: called before each call of the network with a name for it, to seed its dropout.
        """
        network, mode, ema = group
        alike: dict[tuple, list[View]] = {}  # views that can be stacked
        for view in self._with_segments(list(views)):
            if len(view):
                alike.setdefault((view.mask is None, *sorted(view.inputs)), []).append(view)
            else:  # a view of some rows only may have none in this micro-batch
                yield view.replace(encoded=self._empty(view, network))

        for members in alike.values():
            sizes = [0 if view.mask is None else view.mask.shape[1] for view in members]
            calls = [[*range(len(members))]]
            # the examples of a batch are one call, whichever of several tasks they belong to
            if not all(view.name in self.of_parts for view in members):
                calls = share_calls(sizes, [len(view) for view in members])
            for call in calls:
                stacked = [members[number] for number in call]
                seed(f"encode/{stacked[0].name}")
                first = all(view.name in self.first_only for view in stacked)
                first = first and self._network(network).computes_first_alone
                results = self.encode(stacked, network, mode, ema, first_only=first)
                for view, encoded in zip(stacked, results):
                    yield view.replace(encoded=encoded, ema=ema)

    def _with_segments(self, views: list[View]) -> list[View]:
        """Return views of parts so that all have segments where some of them have, to be encoded in one call."""
        if not any("segments" in view.inputs and view.name in self.of_parts for view in views):
            return views
        return [
            view.replace(inputs={**view.inputs, "segments": torch.zeros_like(view.tokens)})
            if view.name in self.of_parts and "segments" not in view.inputs
            else view
            for view in views
        ]

    def encode(
        self,
        views: Sequence[View],
        network: str = "main",
        mode: str = "train",
        ema: bool = False,
        states: Sequence[str] | None = None,
        first_only: bool = False,
    ) -> list[Encoded]:
        """Return the encodings of several views from one call of a network, padded to a common T.

        mode: 'train', 'quiet' (no dropout) or 'teacher' (no dropout, no gradient). ema: use the averaged weights.
        states: the inner states to return (None: those that criteria read). first_only: as `Encoder.forward` of the
        networks that take it. Raises DataError where a sequence is
        longer than the network reads.
        """
        encoder = self._network(network)
        stacked = stack(views, self.pad)
        T = max((view.mask.shape[1] for view in views if view.mask is not None), default=0)
        if encoder.longest and encoder.longest < T:
            raise DataError(
                f"the view '{views[0].name}' has a sequence of {T:,} positions, more than the {encoder.longest:,} that "
                f"the network '{network}' reads; expected shorter sequences, or a network for longer ones"
            )
        mask = stacked.mask
        if self.backend:
            mask = self._one_kind_of_mask(views, mask, network)
        states = self.states[network] if states is None else states

        self.calls += 1
        arguments: tuple = (stacked.inputs, mask, stacked.embedding_change, states)
        if first_only:
            arguments += (True,)
        encoded = self.call(encoder, arguments, mode, ema)
        return [encoded] if len(views) == 1 else list(_split(encoded, views))

    def call(self, module: nn.Module, arguments: tuple, mode: str, ema: bool) -> Any:
        """Return what a network or a head returns for these arguments in a mode, see `encode`."""
        if mode == "train" and not ema:
            return module(*arguments)
        gradient = torch.no_grad() if mode == "teacher" else nullcontext()
        with gradient, self._without_dropout(module, mode != "train"):
            if ema:
                with keep_activations():
                    result = torch.func.functional_call(module, self.averaged(module), arguments)
            else:
                result = module(*arguments)
        device = next(self.objective.parameters()).device
        if mode == "teacher" and torch.is_autocast_enabled(device.type):
            # autocast caches weights that were cast without gradient; older versions of torch reuse them in calls with
            # gradient
            torch.clear_autocast_cache()
        return result

    def _network(self, name: str) -> Encoder:
        return cast(Encoder, self.networks[name])

    def _empty(self, view: View, network: str) -> Encoded:
        """Return the encoding of a view without rows."""
        encoder, T = self._network(network), 0 if view.mask is None else view.mask.shape[1]
        like = next(self.objective.parameters())
        of_sequences = encoder.states_of_sequences()
        states = {}
        for state in self.states[network]:
            width = encoder.state_width(state)
            states[state] = like.new_zeros((0, width) if state in of_sequences else (0, T, width))
        return Encoded(features=like.new_zeros((0, T, encoder.width)), states=states)

    def _one_kind_of_mask(
        self, views: Sequence[View], mask: Tensor | None, network: str
    ) -> Tensor | None:
        """Return a mask for a compiled network that has been called with one before.

        A call with a mask and one without are two graphs. Where lengths vary, a call without padding is rare, and its
        graph would be compiled in the middle of a run.
        """
        situation = (network, self.objective.training)
        if mask is not None:
            self.masked.add(situation)
            return mask
        masks = [view.mask for view in views if view.mask is not None]
        if situation in self.masked and len(masks) == len(views):
            return torch.cat(masks)
        return None

    def averaged(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the averaged weights under the names used inside `module`.

        A tied parameter has one average, so parameters are matched by identity.
        """
        averages = self.averages
        if averages is None:
            raise ConfigError(
                "train.ema",
                "a component asks for averaged weights, but the run keeps no average; set train.ema to a decay such "
                "as 0.999",
            )
        names = {id(parameter): name for name, parameter in self.objective.named_parameters()}
        return {
            name: averages[names[id(parameter)]]
            for name, parameter in module.named_parameters(remove_duplicate=False)
        }

    @contextmanager
    def _without_dropout(self, module: nn.Module, quiet: bool) -> Iterator[None]:
        if not (quiet and self.objective.training):
            yield
            return
        was_training = module.training  # a frozen network never is
        module.eval()
        try:
            yield
        finally:
            module.train(was_training)


class Stacked(NamedTuple):
    """The arguments of one encoder call on several views, rows below each other."""

    inputs: dict[str, Tensor]  # by name, each [sum B, T, ...]
    mask: Tensor | None  # bool [sum B, T]; None without padding
    embedding_change: Tensor | None  # [sum B, T, E]


def stack(views: Sequence[View], pad: int) -> Stacked:
    """Return the inputs of several views below each other, padded to the longest."""
    if len(views) == 1:
        view = views[0]
        mask = view.mask if view.padded else None
        return Stacked(dict(view.inputs), mask, view.embedding_change)

    lengths = [None if view.mask is None else view.mask.shape[1] for view in views]
    T = max((length for length in lengths if length is not None), default=0)

    def column(tensors: Sequence[Tensor], fill: float) -> Tensor:
        return torch.cat(
            [_padded(tensor, length, T, fill) for tensor, length in zip(tensors, lengths)]
        )

    inputs = {
        name: column([view.inputs[name] for view in views], pad if name == "tokens" else 0)
        for name in views[0].inputs
    }
    mask, masks = None, [view.mask for view in views if view.mask is not None]
    shorter = any(length is not None and length < T for length in lengths)
    if len(masks) == len(views) and (shorter or any(view.padded for view in views)):
        mask = column(masks, False)
    change = _changes(views)
    return Stacked(inputs, mask, None if change is None else column(change, 0.0))


def _padded(tensor: Tensor, length: int | None, T: int, fill: float) -> Tensor:
    """Return a tensor [B, length, ...] padded to T positions; one without positions is returned as it is."""
    if length is None or length >= T or tensor.dim() < 2 or tensor.shape[1] != length:
        return tensor
    behind = (*[0, 0] * (tensor.dim() - 2), 0, T - length)
    return F.pad(tensor, behind, value=fill)


def _changes(views: Sequence[View]) -> list[Tensor] | None:
    """Return every view's embedding change, zeros for a view without; None where no view has one."""
    changes = [view.embedding_change for view in views]
    like = next((change for change in changes if change is not None), None)
    if like is None:
        return None
    return [
        like.new_zeros((len(view), view.content.shape[1], *like.shape[2:]))
        if change is None
        else change
        for view, change in zip(views, changes)
    ]


def _split(encoded: Encoded, views: Sequence[View]) -> Iterator[Encoded]:
    """Yield each view's rows of the encoding of a stack, cut back to the view's own length."""
    start = 0
    for view in views:
        length = None if view.mask is None else view.mask.shape[1]
        yield encoded.rows(start, start + len(view), length)
        start += len(view)


def read_first_only(criteria: Mapping[str, Criterion], nodes: Iterable[Node]) -> frozenset[str]:
    """Return the views whose encodings are read at the first position alone, by all criteria and by no noiser."""
    wanted: dict[str, bool] = {}
    for criterion in criteria.values():
        for name, read in type(criterion).reads(criterion.config).items():
            if read.encoded:
                wanted[name] = wanted.get(name, True) and read.first_only
    others = {node.parent for node in nodes if node.reads_encoding}
    return frozenset(name for name, first in wanted.items() if first and name not in others)


def states_to_read(
    criteria: Mapping[str, Criterion],
    encodes: Mapping[str, Sequence[str]],
    views: Mapping[str, ViewSpec],
    networks: Mapping[str, Encoder],
) -> dict[str, tuple[str, ...]]:
    """Return the inner states that criteria read of each network.

    encodes: the views whose encodings a criterion reads. Raises ConfigError where a network lacks a state.
    """
    states: dict[str, dict[str, None]] = {name: {} for name in networks}
    for label, criterion in criteria.items():
        for view in encodes[label]:
            network = views[view].encoder
            networks[network].check_states(criterion.states(), f"criterion '{label}'")
            states[network].update(dict.fromkeys(criterion.states()))
    return {name: tuple(names) for name, names in states.items()}
