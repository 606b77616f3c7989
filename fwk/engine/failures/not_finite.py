"""The search for the origin of NaN and infinity in a failed update.

The update is run again with hooks on every module (tracer.py). Noise and dropout are keyed, so it takes the same
course. A healthy update costs nothing.

The search goes in this order: weights and averages that were not finite before the update; data; the first module whose
output is not finite; the first loss term; then, term by term, the first gradient in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fwk.contracts.views import View
from fwk.engine.failures.tracer import NotFiniteTracer, describe_draws
from fwk.engine.run import Run
from fwk.engine.update import MicroBatch, Update
from fwk.nn.finite import is_finite, names_not_finite

NOT_REPRODUCED = "when the update was run again, every value was finite on every rank"


@dataclass(frozen=True)
class Finding:
    """The first value that was not finite."""

    text: str  # a clause of the message
    kind: str  # where it was found: 'weights', 'data' or 'pass'
    # micro-batch, and events before it: the first of several ranks is reported
    order: tuple[int, int] = (0, 0)


def diagnose(run: Run, micros: Sequence[MicroBatch], update: Update) -> Finding:
    """Return the first value that was not finite in an update whose gradient was not.

    Every rank calls this and gets the same answer. `.grad` is lost.
    """
    finding = _first_over_ranks(run, _search_weights(run) or _search_data(run, micros))
    if finding is not None:
        return finding
    gradients = _describe_gradients(run)
    finding = _first_over_ranks(run, _search_pass(run, micros, update))
    return finding or Finding(f"{NOT_REPRODUCED}; {gradients}", "pass")


def _first_over_ranks(run: Run, finding: Finding | None) -> Finding | None:
    """Return the earliest finding of all ranks, or None where no rank has one."""
    by_rank = run.world.gather_objects(
        [*finding.order, finding.kind, finding.text] if finding else None
    )
    findings = [(*entry[:2], rank, *entry[2:]) for rank, entry in enumerate(by_rank) if entry]
    if not findings:
        return None
    micro_batch, event, rank, kind, text = min(findings)
    names_rank = run.world_size > 1 and kind != "weights"  # all ranks hold the same weights
    return Finding(f"{text} on rank {rank}" if names_rank else text, kind, (micro_batch, event))


def _search_weights(run: Run) -> Finding | None:
    owner = "parameter"
    names = names_not_finite(
        {**dict(run.module.named_parameters()), **dict(run.module.named_buffers())}
    )
    if not names and run.average is not None:
        owner, names = "the moving average of", names_not_finite(run.average.values)
    if not names:
        return None
    return Finding(f"{owner} {_first_name(names)} was not finite before the update", "weights")


def _first_name(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _search_data(run: Run, micros: Sequence[MicroBatch]) -> Finding | None:
    """Search inputs and labels as the task returned them, and the embedding changes of static views."""
    for micro in micros:
        for view in micro.views.values():
            if view.outline:
                continue
            for name, value in _values_of(view):
                if not is_finite(value):
                    return _data_finding(run, micro, view, name, value)
    return None


def _values_of(view: View) -> Iterator[tuple[str, Tensor]]:
    for name, value in view.inputs.items():
        yield f"input '{name}'", value
    for name, value in view.labels.items():
        yield f"label '{name}'", value
    if view.embedding_change is not None:
        yield "the embedding change", view.embedding_change


def _data_finding(run: Run, micro: MicroBatch, view: View, name: str, value: Tensor) -> Finding:
    entries = ~torch.isfinite(value)
    rows = entries.flatten(1).any(1) if value.dim() > 1 else entries
    draws = view.draws[rows]
    return Finding(
        f"{name} of view '{view.name}' is not finite in the data of {describe_draws(draws)} "
        f"({_describe_examples(run, draws)})",
        "data",
        (micro.index, 0),
    )


def _describe_examples(run: Run, draws: Tensor, most: int = 3) -> str:
    """Return the examples of these draws, and their sources."""
    names = list(run.task.sources("train"))
    sources, indices, _ = run.order.locate(draws[:most].cpu().numpy())
    examples = ", ".join(
        f"example {index} of source '{names[source]}'"
        for source, index in zip(sources.tolist(), indices.tolist())
    )
    return examples + (", ..." if len(draws) > most else "")


def _describe_gradients(run: Run) -> str:
    """Return what is wrong with the gradient that was about to be applied."""
    gradients = {name: p.grad for name, p in run.named_trainable() if p.grad is not None}
    names = names_not_finite(gradients)
    if names:
        hooks = [hook.plugin_name for hook in run.hooks.hook.fwk_combine_gradients.get_hookimpls()]
        origin = "as summed over micro-batches and ranks"
        if hooks:
            origin = f"as combined by hook {', '.join(hooks)}"
        return f"the gradient of {_first_name(names)}, {origin}, is not"
    largest, name = max(
        ((float(g.abs().max()), name) for name, g in gradients.items() if g.numel()),
        default=(0.0, "none"),
    )
    return f"entries of the gradient reach {largest:.3g} ({name}), and its norm overflows"


def _search_pass(run: Run, micros: Sequence[MicroBatch], update: Update) -> Finding | None:
    """Run forward and backward of every micro-batch again, with hooks.

    All of them are run even after a finding: other ranks wait in the same collectives.
    """
    for parameter in run.module.parameters():
        parameter.grad = None
    eager = torch.compiler.set_stance("force_eager") if run.config.train.compile else nullcontext()
    with eager, NotFiniteTracer(run.module) as tracer:
        for micro in micros:
            tracer.start(micro)
            _run_again(run, micro, update, tracer)
    event = tracer.event
    return Finding(event.text, "pass", event.order) if event is not None else None


def _run_again(run: Run, micro: MicroBatch, update: Update, tracer: NotFiniteTracer) -> None:
    with run.precision.autocast():
        output = run.module(micro, update, per_term=True)
    for name, value in (*output.sums.items(), *output.terms.items()):
        if not is_finite(value):
            tracer.record(
                f"loss term {name} is the first that is not finite: the output of every module is finite"
            )
    terms = [(name, loss) for name, loss in output.terms.items() if loss.requires_grad]
    for number, (name, loss) in enumerate(terms, start=1):
        tracer.term = name
        torch.autograd.grad(
            loss * run.precision.scale,
            run.trainable,
            allow_unused=True,
            retain_graph=number < len(terms),
        )
