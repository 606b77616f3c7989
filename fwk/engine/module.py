"""Views -> losses: the one `nn.Module` that the trainer sees.

It holds networks, learned noisers and criteria, so that one distributed wrapper covers all of them and its forward runs
once per micro-batch.

    static views  --plan-->  make learned views, encode groups of views  -->  criteria  -->  learned noisers' own losses

It knows views, terms and counts, and no objective.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fwk.config.spec import ViewSpec
from fwk.config.views import parts_of_views
from fwk.contracts.criterion import Criterion
from fwk.contracts.encoder import Encoder
from fwk.contracts.keyed import Key, fold
from fwk.contracts.noiser import LearnedNoiser, Noiser
from fwk.contracts.ramp import value_at
from fwk.contracts.views import Outline, Output, View
from fwk.engine.contexts import Contexts
from fwk.engine.encoding import Encoding, read_first_only, states_to_read
from fwk.engine.feed.static import StaticViews
from fwk.engine.finite_mark import FiniteMark
from fwk.engine.losses import shares_of, sums_of
from fwk.engine.parts import Part, parts_of
from fwk.engine.plan import BATCH, Action, Encode, Make, Node, Plan, make_plan, needed
from fwk.engine.prepared import exchange, prepare_tensors
from fwk.engine.ranks.world import World
from fwk.engine.teachers import Teachers
from fwk.engine.update import MicroBatch, StepOutput, Update, Views
from fwk.errors import RunError, did_you_mean
from fwk.nn.compiled import compiling

# fields of a view that are unknown until it is made: by a learned noiser, and by a noiser of a learned view
UNKNOWN_BEFORE_A_NETWORK = ("changed", "log_q")
UNKNOWN_BEFORE_ITS_PARENT = (
    *("target", "positions", "valid", "mask", "special", "changed"),
    *("log_q", "alignment", "draws", "labels", "source"),
)


class ObjectiveModule(nn.Module):
    """Networks, noisers and criteria as one module, whose forward pass returns the loss of a micro-batch."""

    def __init__(
        self,
        *,
        networks: Mapping[str, Encoder],  # by name; 'main' is `model:`
        noisers: Mapping[str, Noiser],  # by view
        criteria: Mapping[str, Criterion],  # by label, as all that follow
        weights: Mapping[str, float | Mapping[str, float]],
        views: Mapping[str, ViewSpec],  # by name
        reads: Mapping[str, Sequence[str]],  # views that a criterion receives
        encodes: Mapping[str, Sequence[str]],  # those of them whose encodings it reads
        counted: Mapping[str, str] | None = None,  # see `Part.counted`
        seed: int,
        pad: int = 0,  # the token id of padding
        frozen: Collection[str] = (),  # networks that are never trained
    ) -> None:
        super().__init__()
        learned = {n: noiser for n, noiser in noisers.items() if isinstance(noiser, LearnedNoiser)}
        self.networks = nn.ModuleDict(networks)
        self.learned = nn.ModuleDict(learned)
        self.criteria = nn.ModuleDict(criteria)
        self.anchor = nn.Parameter(torch.zeros(()))  # see `FiniteMark`
        self.noisers, self.weights, self.specs = dict(noisers), dict(weights), dict(views)
        self.encodes = {label: tuple(names) for label, names in encodes.items()}
        self.seed = seed
        self.world = World()
        self.parts = parts_of(criteria, learned, networks, reads, counted or {})
        self.teachers = Teachers.of(self.encodes, views, frozen)
        self.nodes = _nodes(views, noisers, self.teachers.networks)
        make_plan(self.nodes, _flat(self.encodes.values()))  # refuses circles at once

        self.contexts = Contexts(self)
        self.encoding = Encoding(self, self.networks, pad)
        self.encoding.states = states_to_read(criteria, self.encodes, views, networks)
        self.encoding.first_only = read_first_only(criteria, self.nodes.values())
        self.encoding.of_parts = frozenset(parts_of_views(views))
        self.switch_off(())
        self.static_of_all_phases = self.static_of_this_phase
        self.train()

    def switch_off(self, names: Iterable[str]) -> None:
        """Leave out these criteria and learned noisers' losses, and every view that nothing else needs.

        Raises RunError for an unknown name.
        """
        off = frozenset(names)
        if unknown := sorted(off - self.parts.keys()):
            raise RunError(
                f"Unknown criterion or learned view '{unknown[0]}' among what a phase switches off"
                f"{did_you_mean(unknown[0], self.parts)}"
            )
        off |= {*self.teachers.labels}
        self.active = [part for part in self.parts.values() if part.name not in off]
        asked = self.teachers.asked_by(criterion for _, criterion in self.active_criteria)
        at_work = [*self.active, *(self.parts[name] for name in asked)]
        roots = [name for part in at_work for name in part.roots]
        in_use = needed(roots, self.nodes)
        nodes = {name: node for name, node in self.nodes.items() if name in in_use}
        encodes = [self.encodes.get(part.name, ()) for part in at_work]
        self.plan: Plan = make_plan(nodes, _flat(encodes))
        # what teachers alone read
        self.for_teachers = _flat(encodes) - _flat(encodes[: len(self.active)])
        made = {name: self.specs[name] for name in self.plan.static}
        self.static_of_this_phase = StaticViews.of(self.seed, made, self.noisers)
        self.views_to_prepare = tuple(n for n in self.plan.dynamic if self.specs[n].prepare)

    @property
    def active_criteria(self) -> Iterator[tuple[Part, Criterion]]:
        """The criteria that are not switched off."""
        for part in self.active:
            if isinstance(part.component, Criterion):
                yield part, part.component

    def train(self, mode: bool = True) -> ObjectiveModule:
        super().train(mode)
        self.teachers.switch_dropout_off(self.networks, self.criteria)
        return self

    @property
    def mark(self) -> FiniteMark:
        """The mark by which all ranks see a loss that is not finite on one of them."""
        return FiniteMark(self.anchor)

    # -- before the forward pass -------------------------------------------------------------------------------------

    def ready(self, batches: Sequence[Views], update: Update) -> list[MicroBatch]:
        """Return the micro-batches of an update with everything that counts are taken from.

        batches: the static views of each micro-batch. What views and criteria prepare is made without gradient, and in
        training exchanged over ranks; in evaluation, ranks may differ in their number of batches.
        """
        micros = [self.begin(views, index, update) for index, views in enumerate(batches)]
        if self.views_to_prepare or self.preparing(update.micro_batches):
            for micro in micros:
                self.prepare(micro, update)
            exchange(micros, self.world if self.training else World())
        return micros

    def begin(self, static: Views, index: int, update: Update) -> MicroBatch:
        """Return a micro-batch of static views, with outlines of the views that the forward pass makes."""
        device = self.anchor.device
        views = {name: view.to(device) for name, view in static.items()}
        for name in self.plan.dynamic:
            parent = views[self.nodes[name].parent]
            views[name] = _outline(
                self.noisers[name], name, parent, self._key(name, parent, update)
            )
        return MicroBatch(index=index, views=views)

    def preparing(self, micro_batches: int) -> tuple[str, ...]:
        """Return the labels of criteria that prepare something in an update of so many micro-batches."""
        return tuple(
            part.name
            for part, criterion in self.active_criteria
            if criterion.prepares(criterion.config, micro_batches)
        )

    @torch.no_grad()
    def prepare(self, micro: MicroBatch, update: Update) -> None:
        """Make the views and tensors of a micro-batch that networks make before counts are taken."""
        preparing = self.preparing(update.micro_batches)
        actions = self.plan.actions
        if not preparing:
            actions = self.plan.until(self.views_to_prepare, self.nodes)
        views = self.run_actions(actions, micro, update)

        for name in self.views_to_prepare:
            micro.prepared_views[name] = micro.views[name] = views[name].detached()
        for name in preparing:
            part = self.parts[name]
            self._seed(update, micro, part.path)
            prepare_tensors(part, views, micro, self.contexts.context(part, micro, update))

    def normalizers(self, micro: MicroBatch, update: Update) -> dict[str, Tensor]:
        """Return the counts of a micro-batch, see `Part.counts`."""
        counts: dict[str, Tensor] = {}
        for part in self.active:
            counts.update(part.counts(micro.views, self.contexts.context(part, micro, update)))
        return counts

    # -- the forward pass --------------------------------------------------------------------------------------------

    def forward(self, micro: MicroBatch, update: Update, per_term: bool = False) -> StepOutput:
        """Return the loss of a micro-batch in training, or instead its terms, with the sums behind it."""
        with compiling(self.encoding.backend):
            views = self.run_actions(self.plan.actions, micro, update)
            outputs = self.outputs(micro, update, views)
            sums = sums_of(outputs, self._weights_at(update.progress))
            if per_term:
                return sums._replace(terms=self.weighted_terms(outputs, update))
            return sums._replace(loss=self.weighted_loss(outputs, update))

    def measure(self, micro: MicroBatch, update: Update) -> tuple[StepOutput, dict[str, View]]:
        """Return the sums and statistics of a micro-batch in evaluation, and its encoded views."""
        with compiling(self.encoding.backend):
            views = self.run_actions(self.plan.actions, micro, update)
            outputs = self.outputs(micro, update, views)
            return sums_of(outputs, self._weights_at(update.progress)), views

    def outputs(self, micro: MicroBatch, update: Update, views: Views) -> dict[str, Output]:
        """Return what criteria and learned noisers return, by name. views: all of them, encoded."""
        outcomes: dict[str, Mapping[str, Tensor]] = {}
        outputs: dict[str, Output] = {}
        for part in self.active:
            self._seed(update, micro, part.path)
            context = self.contexts.context(part, micro, update, views)
            own = part.views_of(views)
            if isinstance(part.component, Criterion):
                outputs[part.name] = output = part.component(own, context)
                outcomes[part.name] = output.outcomes
            else:
                outputs[part.name] = part.component.losses(own, outcomes, context)
        return outputs

    def weighted_loss(self, outputs: Mapping[str, Output], update: Update) -> Tensor:
        """Return the loss of one micro-batch.

            Sigma_k  w_k * (sum of term k over this micro-batch) / (count of term k over the whole update)

        times the world size, because DistributedDataParallel averages gradients over ranks and the sum is wanted.
        A term whose count is 0 is left out of the graph.
        """
        shares = list(self.weighted_terms(outputs, update).values())
        loss = sum(shares[1:], shares[0]) if shares else self.anchor * 0.0
        if self.world.size > 1 or not loss.requires_grad:
            loss = self.mark.attached(loss)
        return loss

    def weighted_terms(self, outputs: Mapping[str, Output], update: Update) -> dict[str, Tensor]:
        """Return the summands of `weighted_loss` by 'label/term'."""
        weights = self._weights_at(update.progress)
        return shares_of(outputs, weights, update, self.world.size)

    def _weights_at(self, progress: float) -> dict[str, float]:
        return {name: value_at(self.weights.get(name, 1.0), progress) for name in self.parts}

    # -- views -------------------------------------------------------------------------------------------------------

    def run_actions(
        self, actions: Iterable[Action], micro: MicroBatch, update: Update
    ) -> dict[str, View]:
        """Return all views of a micro-batch after these actions of the plan."""
        views = dict(micro.views)
        for action in actions:
            if isinstance(action, Make):
                views[action.view] = self._make(action.view, views, micro, update)
            else:
                views.update(self._encode(action, views, micro, update))
        return views

    def _make(
        self, name: str, views: Mapping[str, View], micro: MicroBatch, update: Update
    ) -> View:
        noiser, parent = self.noisers[name], views[self.nodes[name].parent]
        key = self._key(name, parent, update)
        if isinstance(noiser, LearnedNoiser):
            self._seed(update, micro, f"noiser/{name}")
            context = self.contexts.context(self.parts[name], micro, update)
            view = noiser.apply(parent, key, context, micro.prepared_views.get(name))
        else:
            view = noiser.apply(parent, key)
        return view.replace(name=name, encoded=None, ema=False, outline=False)

    def _encode(
        self, action: Encode, views: Mapping[str, View], micro: MicroBatch, update: Update
    ) -> dict[str, View]:
        group = self.nodes[action.views[0]].group
        seed = partial(self._seed, update, micro)
        # evaluation asks no teacher
        names = [n for n in action.views if self.training or n not in self.for_teachers]
        encoded = self.encoding.encode_group([views[n] for n in names], group, seed)
        return {view.name: view for view in encoded}

    def _key(self, name: str, parent: View, update: Update) -> Key:
        return Key(self.seed, f"{update.split}/{name}", parent.draws)

    def _seed(self, update: Update, micro: MicroBatch, call: str) -> None:
        """Seed torch's generators before a call that may draw from them, as dropout does."""
        if self.training:
            rank = self.world.rank
            word = fold(self.seed, "dropout", update.number, micro.index, rank, call)
            torch.default_generator.manual_seed(word)
            if self.anchor.is_cuda:
                torch.cuda.manual_seed(word)


def _outline(noiser: Noiser, name: str, parent: View, key: Key) -> Outline:
    """Return what is known of a view before the forward pass makes it."""
    if not isinstance(noiser, LearnedNoiser):
        # nothing about this view is known before its parent has been made
        return Outline.of(parent, name, UNKNOWN_BEFORE_ITS_PARENT)
    known = noiser.outline(parent, key)
    unknown = [what for what in UNKNOWN_BEFORE_A_NETWORK if vars(known)[what] is None]
    return Outline.of(known, name, unknown)


def _nodes(
    views: Mapping[str, ViewSpec], noisers: Mapping[str, Noiser], frozen: Collection[str]
) -> dict[str, Node]:
    return {
        name: Node(
            name=name,
            parent=spec.of or BATCH,
            learned=isinstance(noisers[name], LearnedNoiser),
            reads_encoding=noisers[name].reads_encoding,
            group=(spec.encoder, "teacher" if spec.encoder in frozen else spec.mode, spec.ema),
        )
        for name, spec in views.items()
    }


def _flat(names: Iterable[Iterable[str]]) -> set[str]:
    return {name for group in names for name in group}
