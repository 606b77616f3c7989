"""Where a value that is not finite came from. A failed update is run again with hooks on every module; noise and
dropout are keyed, so it takes the same course. A healthy update pays nothing for this.

Looked for in this order: weights and averages that were not finite before the update; data that is not; the first
module whose output is not; the first loss term; then, term by term, the first gradient on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from fwk.contracts.views import View
from fwk.engine.module import ObjectiveModule
from fwk.engine.run import Run
from fwk.engine.update import MicroBatch, Update

NOTHING = "run again, nothing in it is not finite on any rank"


@dataclass(frozen=True)
class Finding:
    """text: a clause. kind: 'weights', 'data' or 'pass'. order: (micro-batch, events before it), by which the first of
    several ranks is told."""

    text: str
    kind: str
    order: tuple[int, int] = (0, 0)


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the floating-point tensors with an entry that is not finite."""
    return [name for name, tensor in tensors.items() if bad(tensor)]


def diagnose(run: Run, micros: Sequence[MicroBatch], step: Update) -> Finding:
    """The first thing that was not finite in an update whose gradient was not. Every rank calls this, and gets the
    same answer. Uses up `.grad`."""
    found = _agree(run, _weights(run) or _data(run, micros))
    if found is None:
        gradients = _gradients(run)
        found = _agree(run, _pass(run, micros, step)) or Finding(f"{NOTHING}; {gradients}", "pass")
    return found


def _agree(run: Run, mine: Finding | None) -> Finding | None:
    """The earliest finding of all ranks."""
    told = run.world.gather_objects([*mine.order, mine.kind, mine.text] if mine else None)
    found = [(*what[:2], rank, *what[2:]) for rank, what in enumerate(told) if what]
    if not found:
        return None
    *order, rank, kind, text = min(found)
    return Finding(
        text + (f" on rank {rank}" if run.world_size > 1 and kind != "weights" else ""),
        kind,
        tuple(order),
    )


def _weights(run: Run) -> Finding | None:
    tensors = {**dict(run.module.named_parameters()), **dict(run.module.named_buffers())}
    names = not_finite(tensors)
    what = "parameter"
    if not names and run.average is not None:
        names, what = not_finite(run.average.values), "the moving average of"
    if not names:
        return None
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return Finding(f"{what} {names[0]}{more} was not finite before the update", "weights")


def _data(run: Run, micros: Sequence[MicroBatch]) -> Finding | None:
    """Inputs and labels as the task gave them, and embedding changes of static views."""
    for micro in micros:
        for view in micro.views.values():
            if view.outline:
                continue
            given = {f"input '{name}'": value for name, value in view.inputs.items()}
            given |= {f"label '{name}'": value for name, value in view.labels.items()}
            given["the embedding change"] = view.embedding_change
            for what, value in given.items():
                if isinstance(value, Tensor) and bad(value):
                    rows = (
                        (~torch.isfinite(value)).flatten(1).any(1)
                        if value.dim() > 1
                        else ~torch.isfinite(value)
                    )
                    draws = view.draws[rows]
                    return Finding(
                        f"{what} of view '{view.name}' is not finite in the data of {_draws(draws)} "
                        f"({_examples(run, draws)})",
                        "data",
                        (micro.index, 0),
                    )
    return None


def _examples(run: Run, draws: Tensor, most: int = 3) -> str:
    """Which examples of which sources these draws are."""
    names = list(run.task.sources("train"))
    sources, indices, _ = run.order.locate(draws[:most].cpu().numpy())
    said = ", ".join(
        f"example {index} of source '{names[source]}'"
        for source, index in zip(sources.tolist(), indices.tolist())
    )
    return said + (", ..." if len(draws) > most else "")


def _gradients(run: Run) -> str:
    """What is wrong with the gradient that was about to be applied."""
    gradients = {name: p.grad for name, p in run.named_trainable() if p.grad is not None}
    if names := not_finite(gradients):
        hooks = [hook.plugin_name for hook in run.hooks.hook.fwk_combine_gradients.get_hookimpls()]
        how = (
            f"as combined by hook {', '.join(hooks)}"
            if hooks
            else "as summed over micro-batches and ranks"
        )
        return f"the gradient of {names[0]}{f' (and {len(names) - 1} more)' if len(names) > 1 else ''}, {how}, is not"
    largest = max(
        ((float(g.abs().max()), name) for name, g in gradients.items() if g.numel()),
        default=(0.0, "none"),
    )
    return f"entries of the gradient reach {largest[0]:.3g} ({largest[1]}), and its norm overflows"


# -- running it again ------------------------------------------------------------------------------------------------


def _pass(run: Run, micros: Sequence[MicroBatch], step: Update) -> Finding | None:
    """Forward and backward of every micro-batch, to the end even when something is found: other ranks wait in the same
    collectives."""
    module, parameters = run.module, run.trainable
    for parameter in module.parameters():
        parameter.grad = None
    compiled = (
        torch.compiler.set_stance("force_eager") if run.config.train.compile else nullcontext()
    )
    with compiled, NotFiniteTracer(module) as watch:
        for micro in micros:
            watch.begin(micro)
            with run.precision.autocast():
                output = module(micro, step, per_term=True)
            for name, value in (*output.sums.items(), *output.terms.items()):
                if bad(value):
                    watch.find(
                        f"loss term {name} is the first that is not finite: the output of every module is finite"
                    )
            terms = [(name, loss) for name, loss in output.terms.items() if loss.requires_grad]
            for number, (name, loss) in enumerate(terms, start=1):
                watch.term = name
                torch.autograd.grad(
                    loss * run.precision.scale,
                    parameters,
                    allow_unused=True,
                    retain_graph=number < len(terms),
                )
            del output, terms
    return watch.found


@dataclass
class _Call:
    """One call of a module. name: its dotted name. outputs: what it returned."""

    name: str
    where: str
    outputs: list[_Node] = field(default_factory=list)


@dataclass
class _Node:
    """A tensor between modules. made_by: the calls that returned it, the innermost first; read_by: those that were given
    it. reached: it had a finite gradient."""

    made_by: list[_Call] = field(default_factory=list)
    read_by: list[_Call] = field(default_factory=list)
    reached: bool = False


class NotFiniteTracer:
    """Hooks on every module of an objective that note the first value that is not finite."""

    def __init__(self, module: ObjectiveModule):
        self.module = module
        self.found: Finding | None = None
        self.doubt: Finding | None = None  # -inf where it may be meant, as in an attention mask
        self.term: str | None = None  # the loss term whose gradient is on its way
        self.events = 0
        self.handles: list[Any] = []

    def __enter__(self) -> NotFiniteTracer:
        for name, module in self.module.named_modules():
            if name:
                self.handles.append(
                    module.register_forward_hook(self._after(name), with_kwargs=True)
                )
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                self.handles.append(parameter.register_hook(self._of_parameter(name)))
        encode = self.module.encoding.encode

        def watched(views: Sequence[View], *arguments: Any, **keywords: Any) -> Any:
            before, self.views = self.views, list(views)
            try:
                return encode(views, *arguments, **keywords)
            finally:
                self.views = before

        self.module.encoding.encode = watched
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        del self.module.encoding.encode
        self.found = self.found or self.doubt

    def begin(self, micro: MicroBatch) -> None:
        self.micro, self.term, self.views, self.events = micro, None, [], 0
        self.nodes: Any = WeakTensorKeyDictionary()

    def find(self, text: str, where: str | None = None, doubtful: bool = False) -> None:
        finding = Finding(
            f"{text} ({where or self._where()})", "pass", (self.micro.index, self.events)
        )
        if doubtful:
            self.doubt = self.doubt or finding
        else:
            self.found = self.found or finding

    # -- forward -----------------------------------------------------------------------------------------------------

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple, keywords: dict, output: Any) -> None:
            self.events += 1
            if (
                self.found or self.term is not None
            ):  # a checkpointed layer is run again on the way back
                return
            inputs, outputs = list(_floats((arguments, keywords))), list(_floats(output))
            leaf = next(module.children(), None) is None
            for value in outputs:
                if bad(value):
                    self._not_finite(name, inputs, value, leaf, bool(module._parameters))
                    if self.found:
                        return
            call = _Call(name, "")
            if any(value.requires_grad for value in outputs):
                call.where = self._where(outputs[0])
            for value in inputs:
                if value.requires_grad:
                    self._node(value).read_by.append(call)
            for value in outputs:
                if value.requires_grad:
                    node = self._node(value)
                    node.made_by.append(call)
                    call.outputs.append(node)

        return hook

    def _not_finite(
        self, name: str, inputs: Sequence[Tensor], value: Tensor, leaf: bool, has_parameters: bool
    ) -> None:
        kind = _kind(value)
        came_in = [x for x in inputs if (bad(x) if leaf else _kind(x) in ("nan", "inf"))]
        parent, _, last = name.rpartition(".")
        if came_in and parent:
            text = f"inside {parent}, {_kind(came_in[0])} reaches '{last}': what came before it is finite"
        else:
            reach = max(
                (float(x.detach().abs().max()) for x in inputs if x.numel() and not bad(x)),
                default=None,
            )
            text = f"the output of {name} is the first that is not finite: {kind}" + (
                f" from inputs of at most {reach:.3g}" if reach is not None else ""
            )
        self.find(
            text, self._where(value), doubtful=kind == "-inf" and not (leaf and has_parameters)
        )

    # -- backward ----------------------------------------------------------------------------------------------------

    def _node(self, tensor: Tensor) -> _Node:
        if tensor not in self.nodes:
            node = self.nodes[tensor] = _Node()
            if not tensor.is_leaf:
                tensor.register_hook(lambda gradient: self._arrives(node, gradient))
        return self.nodes[tensor]

    def _arrives(self, node: _Node, gradient: Tensor) -> None:
        self.events += 1
        if not bad(gradient):
            node.reached = True
            return
        if self.found:
            return
        kind = _kind(gradient)
        reader = next(
            (call for call in node.read_by if any(output.reached for output in call.outputs)), None
        )
        if reader is not None:
            self.find(
                f"backward of {self._whose()}: {reader.name} makes {kind} of a finite gradient",
                reader.where,
            )
        elif node.made_by:
            inner, outer = node.made_by[0], node.made_by[-1]
            inside = outer.name.rpartition(".")[0]
            self.find(
                f"backward of {self._whose()}: {kind} arises inside {inside}, after {inner.name}",
                inner.where,
            )
        else:
            readers = " and ".join(call.name for call in node.read_by)
            self.find(
                f"backward of {self._whose()}: the gradient of what {readers} reads is {kind}",
                node.read_by[0].where,
            )

    def _of_parameter(self, name: str) -> Any:
        def hook(gradient: Tensor) -> None:
            self.events += 1
            if not self.found and bad(gradient):
                self.find(
                    f"backward of {self._whose()}: the gradient of parameter {name} is the first that is not finite: "
                    f"{_kind(gradient)}"
                )

        return hook

    def _whose(self) -> str:
        return f"loss term {self.term}" if self.term else "a gradient taken inside the forward pass"

    # -- whereabouts -------------------------------------------------------------------------------------------------

    def _where(self, value: Tensor | None = None) -> str:
        """Micro-batch, views and draws; of a tensor with a row per sequence, the draws of the rows that are not finite."""
        draws = self.micro.batch.draws
        views = self.views if value is not None else []
        rows = torch.cat([view.draws for view in views]) if views else draws
        if value is not None and value.dim() > 1 and len(value) == len(rows) and bad(value):
            draws = rows[(~torch.isfinite(value.detach())).flatten(1).any(1)].unique()
        said = f", view {' and '.join(view.name for view in views)}" if views else ""
        return f"micro-batch {self.micro.index}{said}, {_draws(draws)}"


def bad(value: Tensor) -> bool:
    return value.is_floating_point() and not bool(torch.isfinite(value.detach()).all())


def _kind(value: Tensor) -> str:
    """'nan', 'inf', '-inf', or '' when everything is finite (or not a floating-point number)."""
    if not bad(value):
        return ""
    value = value.detach()
    return (
        "nan"
        if bool(value.isnan().any())
        else "inf"
        if bool((value == torch.inf).any())
        else "-inf"
    )


def _floats(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors inside tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _floats(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _floats(entry)
    elif is_dataclass(value):
        for f in fields(value):
            yield from _floats(getattr(value, f.name))


def _draws(draws: Tensor, most: int = 8) -> str:
    numbers = sorted(set(draws.tolist()))
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"draws {numbers[0]} to {numbers[-1]}"
    said = ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
    return f"draw{'s' if len(numbers) > 1 else ''} {said}"
