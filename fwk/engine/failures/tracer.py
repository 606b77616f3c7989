"""Hooks on every module of an objective that record the first value that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from fwk.contracts.views import View
from fwk.engine.module import ObjectiveModule
from fwk.engine.update import MicroBatch
from fwk.nn.finite import is_finite


@dataclass(frozen=True)
class Event:
    """A value that is not finite."""

    text: str  # a clause of the message
    order: tuple[int, int]  # micro-batch, and hook calls before this one


@dataclass
class _Call:
    """One call of a module."""

    name: str  # of the module, dotted
    place: str  # micro-batch, views and draws, for messages
    outputs: list[_Node] = field(default_factory=list)


@dataclass
class _Node:
    """A tensor that passes from module to module."""

    made_by: list[_Call] = field(default_factory=list)  # calls that returned it, innermost first
    read_by: list[_Call] = field(default_factory=list)  # calls that were passed it
    reached: bool = False  # whether it had a finite gradient


ABSENT = "absent_is_minus_infinity"  # attribute of modules whose output has -inf where something is absent


class NotFiniteTracer:
    """A context in which the passes of an objective are searched; `event` holds the first value that is not finite.

    Call `start` before each micro-batch, and set `term` before the backward pass of a loss term.
    """

    def __init__(self, module: ObjectiveModule) -> None:
        self.module = module
        self.event: Event | None = None
        self.doubtful: Event | None = None  # -inf where it may be intended, as in an attention mask
        self.term: str | None = None  # the loss term whose backward pass runs
        self.calls = 0  # of hooks in this micro-batch
        self.views: list[View] = []  # that are being encoded
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> NotFiniteTracer:
        for name, module in self.module.named_modules():
            if name:
                hook = self._forward_hook(name)
                self.handles.append(module.register_forward_hook(hook, with_kwargs=True))
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.handles.append(parameter.register_hook(self._parameter_hook(name)))
        self._watch_encode()
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()
        del self.module.encoding.encode
        self.event = self.event or self.doubtful

    def _watch_encode(self) -> None:
        """Replace the module's `encode`, so that messages can name the views of a call."""
        encode = self.module.encoding.encode

        def watched(views: Sequence[View], *arguments: Any, **keywords: Any) -> Any:
            outer, self.views = self.views, list(views)
            try:
                return encode(views, *arguments, **keywords)
            finally:
                self.views = outer

        self.module.encoding.encode = watched  # type: ignore[method-assign]

    def start(self, micro: MicroBatch) -> None:
        """Begin with a micro-batch."""
        self.micro, self.term, self.views, self.calls = micro, None, [], 0
        self.nodes: MutableMapping[Tensor, _Node] = WeakTensorKeyDictionary()

    def record(self, text: str, place: str | None = None, doubtful: bool = False) -> None:
        """Record an event, where it is the first."""
        event = Event(f"{text} ({place or self._place()})", (self.micro.index, self.calls))
        if doubtful:
            self.doubtful = self.doubtful or event
        else:
            self.event = self.event or event

    # -- forward -----------------------------------------------------------------------------------------------------

    def _forward_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, keywords: dict, output: Any) -> None:
            self.calls += 1
            # in the backward pass, a layer with activation checkpointing runs forward again
            if self.event or self.term is not None:
                return
            inputs, outputs = list(floats_in((arguments, keywords))), list(floats_in(output))
            for value in outputs:
                if not is_finite(value):
                    self._record_output(name, module, inputs, value)
                    if self.event:
                        return
            self._remember_call(name, inputs, outputs)

        return hook

    def _record_output(
        self, name: str, module: nn.Module, inputs: Sequence[Tensor], value: Tensor
    ) -> None:
        is_leaf = next(module.children(), None) is None
        kind = kind_of(value)
        if kind == "-inf" and getattr(module, ABSENT, False):
            return
        # a module with children may be passed a mask with -inf
        faulty = [
            x for x in inputs if (not is_finite(x) if is_leaf else kind_of(x) in ("NaN", "inf"))
        ]
        parent, _, child = name.rpartition(".")
        if faulty and parent:
            text = f"inside {parent}, {kind_of(faulty[0])} reaches '{child}', and every value before is finite"
        else:
            magnitudes = [
                float(x.detach().abs().max()) for x in inputs if x.numel() and is_finite(x)
            ]
            text = f"the output of {name} is the first that is not finite: {kind}"
            if magnitudes:
                text += f" from inputs of at most {max(magnitudes):.3g}"
        is_certain = is_leaf and bool(module._parameters)
        self.record(text, self._place(value), doubtful=kind == "-inf" and not is_certain)

    def _remember_call(
        self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Note which module reads and makes which tensors, for the backward pass."""
        needs_place = any(value.requires_grad for value in outputs)
        call = _Call(name, self._place(outputs[0]) if needs_place else "")
        for value in inputs:
            if value.requires_grad:
                self._node(value).read_by.append(call)
        for value in outputs:
            if value.requires_grad:
                node = self._node(value)
                node.made_by.append(call)
                call.outputs.append(node)

    # -- backward ----------------------------------------------------------------------------------------------------

    def _node(self, tensor: Tensor) -> _Node:
        if tensor not in self.nodes:
            node = self.nodes[tensor] = _Node()
            if not tensor.is_leaf:
                tensor.register_hook(lambda gradient: self._check_gradient(node, gradient))
        return self.nodes[tensor]

    def _check_gradient(self, node: _Node, gradient: Tensor) -> None:
        """Check the gradient of a tensor between modules."""
        self.calls += 1
        if is_finite(gradient):
            node.reached = True
            return
        if self.event:
            return
        kind = kind_of(gradient)
        readers = [call for call in node.read_by if any(output.reached for output in call.outputs)]
        if readers:
            text = f"{readers[0].name} turns a finite gradient into {kind}"
            place = readers[0].place
        elif node.made_by:
            inner, outer = node.made_by[0], node.made_by[-1]
            text = f"{kind} arises inside {outer.name.rpartition('.')[0]}, after {inner.name}"
            place = inner.place
        else:
            names = " and ".join(call.name for call in node.read_by)
            text = f"the gradient of the input of {names} is {kind}"
            place = node.read_by[0].place
        self.record(f"backward of {self._pass_name()}: {text}", place)

    def _parameter_hook(self, name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            self.calls += 1
            if not self.event and not is_finite(gradient):
                self.record(
                    f"backward of {self._pass_name()}: the gradient of parameter {name} is the first that is not "
                    f"finite: {kind_of(gradient)}"
                )

        return hook

    def _pass_name(self) -> str:
        return f"loss term {self.term}" if self.term else "a gradient taken inside the forward pass"

    # -- messages ----------------------------------------------------------------------------------------------------

    def _place(self, value: Tensor | None = None) -> str:
        """Return micro-batch, views and draws.

        For a tensor with a row per sequence, the draws are those of the rows that are not finite.
        """
        draws = self.micro.batch.draws
        views = self.views if value is not None else []
        rows = torch.cat([view.draws for view in views]) if views else draws
        has_rows = value is not None and value.dim() > 1 and len(value) == len(rows)
        if value is not None and has_rows and not is_finite(value):
            draws = rows[(~torch.isfinite(value.detach())).flatten(1).any(1)].unique()
        names = f", view {' and '.join(view.name for view in views)}" if views else ""
        return f"micro-batch {self.micro.index}{names}, {describe_draws(draws)}"


def kind_of(value: Tensor) -> str:
    """Return 'NaN', 'inf' or '-inf', or '' where every entry is finite."""
    if is_finite(value):
        return ""
    value = value.detach()
    if bool(value.isnan().any()):
        return "NaN"
    return "inf" if bool((value == torch.inf).any()) else "-inf"


def floats_in(value: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors inside tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from floats_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from floats_in(entry)
    elif is_dataclass(value):
        for f in fields(value):
            yield from floats_in(getattr(value, f.name))


def describe_draws(draws: Tensor, most: int = 8) -> str:
    """Return 'draw 3', 'draws 3, 5' or 'draws 3 to 9'."""
    numbers = sorted(set(draws.tolist()))
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"draws {numbers[0]} to {numbers[-1]}"
    listed = ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
    return f"draw{'s' if len(numbers) > 1 else ''} {listed}"
