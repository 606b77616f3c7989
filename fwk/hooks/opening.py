"""The opening screen of a run: its size, and the work in each update."""

from __future__ import annotations

from dataclasses import dataclass

from fwk.contracts.noiser import LearnedNoiser
from fwk.engine.feed.draws import count_micro_batches
from fwk.engine.module import ObjectiveModule
from fwk.engine.plan import Encode, Make
from fwk.engine.run import Run
from fwk.hooks.lines import number, quantity


@dataclass(frozen=True)
class Work:
    """A piece of the work in an update."""

    component: str  # a network or a criterion
    description: str  # of what it does, in words
    counted_as: tuple[str, ...]  # its keys in the parts of `fwk.flops.count`


def sizes_line(run: Run) -> str:
    """Return the size of the model, the tokens that the run reads at most, and its operations."""
    parameters = sum(parameter.numel() for _, parameter in run.named_trainable())
    facts = [f"{quantity(parameters)} parameters"]
    updates, length = run.total_updates, run.task.length()
    if updates and length:
        facts.append(f"at most {quantity(updates * run.config.train.batch * length)} tokens")
    operations = run.operations
    if operations is not None:
        fact = f"{number(operations.update)} FLOPs per update"
        if updates:
            fact += f", {number(operations.update * updates)} in all"
        if operations.uncounted:
            fact += f" (without {', '.join(operations.uncounted)})"
        facts.append(fact)
    return "  ".join(facts)


def data_line(run: Run) -> str:
    """Return how many documents and examples each split holds, and the size of the vocabulary."""
    facts = []
    for split in run.task.splits():
        examples = sum(len(source) for source in run.task.sources(split).values())
        amounts = [(run.task.documents(split), "document"), (examples, "example")]
        counted = [_counted(amount, noun) for amount, noun in amounts if amount is not None]
        facts.append(f"{split}: {' in '.join(reversed(counted))}")
    vocabulary = run.task.vocabulary()
    if vocabulary is not None:
        facts.append(f"vocabulary: {vocabulary.size:,}")
    return "  ".join(facts)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def work_lines(run: Run) -> list[str]:
    """Return which networks run on which views, which criteria read them, and the operations of each."""
    train = run.config.train
    pieces = work_in_update(
        run.module, count_micro_batches(train.batch, run.world_size, train.micro_batch)
    )
    width = max((len(piece.component) for piece in pieces), default=0)
    return [
        f"  {piece.component:<{width}}  {piece.description}{_cost(piece, run)}" for piece in pieces
    ]


def _cost(piece: Work, run: Run) -> str:
    """Return the operations of a piece of work in words; empty where they were not counted."""
    if run.operations is None:
        return ""
    operations = sum(run.operations.parts.get(key, 0.0) for key in piece.counted_as)
    if not operations:
        return ""
    return f"  {number(2 * run.operations.sequences * operations)} FLOPs per update"


def work_in_update(module: ObjectiveModule, micro_batches: int) -> list[Work]:
    """Return the pieces of work in an update of so many micro-batches, in the order in which they happen."""
    on_views = (_work_on_views(module, action) for action in module.plan.actions)
    pieces = [piece for piece in on_views if piece is not None]
    for part, _ in module.active_criteria:
        encoded = ", ".join(module.encodes[part.name])
        pieces.append(Work(part.name, f"reads {encoded}", (f"criterion.{part.name}",)))
    for label in module.preparing(micro_batches)[:1]:
        description = "makes and encodes all views once more beforehand, without gradient"
        pieces.append(Work(label, description, ("prepare",)))
    return pieces


def _work_on_views(module: ObjectiveModule, action: Make | Encode) -> Work | None:
    """Return the work of an action of the plan; None where no network takes part."""
    if isinstance(action, Encode):
        network, mode, ema = module.nodes[action.views[0]].group
        details = [] if mode == "train" else [mode]
        if ema:
            details.append("averaged weights")
        description = f"encodes {', '.join(action.views)}"
        if details:
            description += f" ({', '.join(details)})"
        return Work(network, description, tuple(f"encoder on {view}" for view in action.views))

    noiser = module.noisers[action.view]
    if not isinstance(noiser, LearnedNoiser) or noiser.network is None:
        return None
    description = f"makes {action.view} of {module.nodes[action.view].parent}"
    return Work(module.parts[action.view].network, description, (f"views.{action.view}",))
