"""The `Context` that a component receives while it runs: its encoder, heads, counts, and rows of other ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fwk.config.spec import ViewSpec
from fwk.contracts.context import Context
from fwk.contracts.criterion import Criterion
from fwk.contracts.noiser import LearnedNoiser, Noiser
from fwk.contracts.views import Encoded, View
from fwk.engine.encoding import Encoding
from fwk.engine.parts import MAIN, Part
from fwk.engine.prepared import over_update
from fwk.engine.ranks.world import World
from fwk.engine.update import MicroBatch, Update
from fwk.errors import ConfigError, RunError, did_you_mean


class Objective(Protocol):
    """What contexts use of the module that they belong to."""

    seed: int
    training: bool
    world: World
    encoding: Encoding
    parts: dict[str, Part]
    criteria: nn.ModuleDict
    noisers: dict[str, Noiser]
    specs: dict[str, ViewSpec]
    encodes: dict[str, tuple[str, ...]]


class Contexts:
    """Makes the contexts of an objective's components."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def context(
        self,
        part: Part,
        micro: MicroBatch,
        update: Update,
        views: Mapping[str, View] | None = None,
    ) -> Context:
        """Return what a part may ask about a micro-batch in training and evaluation.

        views: all views, encoded, about which it may ask teachers.
        """
        context = self._context(part.name, part.network, micro, update)
        if views is not None:
            context.teacher = partial(self._taught_by, micro, update, views)
        return context

    @torch.no_grad()
    def _taught_by(
        self, micro: MicroBatch, update: Update, views: Mapping[str, View], label: str
    ) -> Mapping[str, Tensor]:
        part = self.objective.parts[label]
        assert isinstance(part.component, Criterion)
        return part.component.teach(part.views_of(views), self.context(part, micro, update))

    def for_scoring(self, path: str, micro: MicroBatch, update: Update, budget: int) -> Context:
        """Return what a criterion ('criteria.LABEL') or noiser ('learned.VIEW') may ask in `log_probs`.

        budget: tokens that it may encode in one call.
        """
        part = next((part for part in self.objective.parts.values() if part.path == path), None)

        def ask(view: str, text: View) -> Tensor:
            noiser = self.objective.noisers[view]
            if type(noiser).log_probs is Noiser.log_probs:
                raise ConfigError(
                    f"views.{view}.noiser",
                    "does not know the probability of a token given all others; scoring needs a noiser that does",
                )
            learned = isinstance(noiser, LearnedNoiser)
            noiser_path = self.objective.parts[view].path if learned else path
            context = self.for_scoring(noiser_path, micro, update, budget)
            return noiser.log_probs(text, micro.views, noiser.Scoring(), context)

        name = part.name if part is not None else path  # a noiser without a network is no part
        context = self._context(name, self._network_for_scoring(part), micro, update)
        return replace(context, log_probs=ask, budget=budget)

    def encode_one(
        self,
        view: View,
        mode: str = "train",
        ema: bool = False,
        network: str | None = None,
        states: Sequence[str] | None = None,
        default: str = MAIN,
    ) -> Encoded:
        """Return the encoding of a view that is not in the plan."""
        return self.objective.encoding.encode([view], network or default, mode, ema, states)[0]

    def head(self, path: str, mode: str = "train", ema: bool = False) -> Callable[..., Any]:
        """Return a sub-module of a criterion ('label' or 'label.attribute'), to be called in a mode."""
        module = self._find_head(path)
        if mode == "train" and not ema:
            return module
        return lambda *arguments: self.objective.encoding.call(module, arguments, mode, ema)

    def _context(self, name: str, network: str, micro: MicroBatch, update: Update) -> Context:
        objective = self.objective
        return Context(
            seed=objective.seed,
            training=objective.training,
            update=update.number,
            progress=update.progress,
            micro_batch=micro.index,
            encode=partial(self.encode_one, default=network),
            head=self.head,
            gather=objective.world.gather_with_gradient
            if objective.training
            else _rows_of_this_rank,
            over_update=partial(over_update, micro, name),
            count=partial(_count, update.counts, name),
            prepared=micro.prepared.get(name, {}),
        )

    def _network_for_scoring(self, part: Part | None) -> str:
        """Return the network that encodes a criterion's views; a noiser's own network; else the main one."""
        if part is None:
            return MAIN
        encodes = self.objective.encodes.get(part.name, ()) if part.reads is not None else ()
        return self.objective.specs[encodes[0]].encoder if encodes else part.network

    def _find_head(self, path: str) -> nn.Module:
        label = path.split(".")[0]
        criteria = self.objective.criteria
        if label not in criteria:
            raise ConfigError(
                "criterion",
                f"Unknown criterion '{label}', of which a component uses the head '{path}'"
                f"{did_you_mean(label, criteria)}",
            )
        try:
            return criteria.get_submodule(path)
        except AttributeError:
            names = [name for name, _ in criteria[label].named_children()]
            raise ConfigError(
                f"criterion.{label}", f"it has no head '{path}'{did_you_mean(path, names)}"
            ) from None


def _count(counts: Mapping[str, float], component: str, term: str) -> float:
    path = f"{component}/{term}"
    if path not in counts:
        raise RunError(
            f"'{component}' asks for the global count of '{term}', but counts exist in training only, for the terms "
            f"that `normalizers` names{did_you_mean(path, counts)}"
        )
    return counts[path]


def _rows_of_this_rank(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tensor and which of its rows are this rank's, as `World.gather_with_gradient` on one rank does."""
    return tensor, torch.arange(len(tensor), device=tensor.device)
