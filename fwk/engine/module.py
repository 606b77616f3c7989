"""Views -> losses: the one `nn.Module` that the trainer sees. It holds networks, learned noisers and criteria, so that
one distributed wrapper covers all of them and its forward runs once per micro-batch in the gradient phase.

    static views  --plan-->  make learned views, encode groups of views  -->  criteria  -->  learned noisers' own losses

It knows views, terms and counts, and no objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    pass

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fwk.config.spec import ViewSpec
from fwk.contracts.context import Context
from fwk.contracts.criterion import Criterion
from fwk.contracts.encoder import Encoder
from fwk.contracts.keyed import Key, fold
from fwk.contracts.noiser import LearnedNoiser, Noiser
from fwk.contracts.views import Batch, Encoded, NotYetKnown, Output, View
from fwk.engine.feed.static import StaticViews
from fwk.engine.plan import BATCH, Encode, Make, Node, Plan, make_plan, share_calls
from fwk.engine.ranks.world import World
from fwk.engine.speed.recompute import keep_activations
from fwk.errors import ConfigError, DataError, RunError, UserError, did_you_mean
from fwk.nn.compiled import compiling


@dataclass(kw_only=True)
class Update:
    """What is the same for every micro-batch of an update. micro_batches: how many there are, on each rank. counts: global
    counts by term; None in evaluation."""

    update: int = 0
    micro_batches: int = 1
    progress: float = 0.0
    split: str = "train"
    counts: Mapping[str, float] | None = None


@dataclass(kw_only=True)
class MicroBatch:
    """One forward pass's worth of examples on its way through the phases of an update.

    views: what is known by name (static views, then outlines or prepared views of the rest). prepared: by criterion
    label, what its `prepare` returned. over_update: by criterion label and name, the rows of the whole update and which
    of them are ours.
    """

    index: int
    views: dict[str, View]
    prepared_views: dict[str, View] = field(default_factory=dict)
    prepared: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    prepared_draws: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    over_update: dict[str, dict[str, tuple[Tensor, Tensor]]] = field(default_factory=dict)

    @property
    def batch(self) -> View:
        return self.views[BATCH]


class StepOutput(NamedTuple):
    """loss: 0-d, this micro-batch's share of the update's loss (times the world size, which averaging divides away);
    None in evaluation. terms: the same per term where gradients per term were asked for. sums: detached sums by term.
    statistics: detached, by 'component/name'. weights: what each term's mean is multiplied by."""

    loss: Tensor | None
    sums: dict[str, Tensor]
    statistics: dict[str, Tensor]
    terms: dict[str, Tensor]
    weights: dict[str, float]


class ObjectiveModule(nn.Module):
    """networks: encoders by name ('main' is `model:`). noisers: by view. criteria and weights: by label."""

    def __init__(
        self,
        *,
        networks: Mapping[str, Encoder],
        noisers: Mapping[str, Noiser],
        criteria: Mapping[str, Criterion],
        weights: Mapping[str, float | Mapping[str, float]],
        views: Mapping[str, ViewSpec],
        reads: Mapping[str, Sequence[str]],
        encoded: Mapping[str, Sequence[str]],
        seed: int,
        pad: int = 0,
    ):
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.learned = nn.ModuleDict(
            {n: x for n, x in noisers.items() if isinstance(x, LearnedNoiser)}
        )
        self.criteria = nn.ModuleDict(criteria)
        # reached by every loss, so that a rank without one term still takes part in the reduction; never optimised
        self.anchor = nn.Parameter(torch.zeros(()))
        self.noisers, self.weights, self.specs = dict(noisers), dict(weights), dict(views)
        self.reads = {label: tuple(names) for label, names in reads.items()}
        self.encoded = {label: tuple(names) for label, names in encoded.items()}
        self.seed, self.pad = seed, pad
        self.world = World()
        self.ema: dict[str, Tensor] | None = None
        self.encoder_calls = 0
        self.compiled: str | None = None  # the backend of torch.compile, where it is in use
        self.masked: set[tuple[str, bool]] = (
            set()
        )  # networks that have been given a mask, and in which mode
        self.nodes = {
            name: Node(
                name=name,
                source=spec.of or BATCH,
                learned=name in self.learned,
                reads_encoding=noisers[name].reads_encoding,
                group=(spec.encoder, spec.mode, spec.ema),
            )
            for name, spec in views.items()
        }
        make_plan(
            self.nodes, {name for names in self.encoded.values() for name in names}
        )  # refuses circles at once
        self.states = self._states_by_network()
        self.switch_off(())
        self.static_of_all_phases = self.static  # what any phase can ask for

    def switch_off(self, labels: Iterable[str]) -> None:
        """Leaves out these criteria and learned noisers' losses (labels and view names), and every view that nothing
        else needs. RunError on a name there is not."""
        off = frozenset(labels)
        if unknown := sorted(off - {*self.criteria, *self.learned}):
            raise RunError(
                f"there is no criterion or learned view '{unknown[0]}' to switch off"
                f"{did_you_mean(unknown[0], [*self.criteria, *self.learned])}"
            )
        self.off = off
        active = [label for label in self.criteria if label not in off]
        needed: set[str] = set()
        pending = [name for label in active for name in self.reads[label]] + [
            n for n in self.learned if n not in off
        ]
        while pending:
            name = pending.pop()
            if name not in needed and name != BATCH:
                needed.add(name)
                pending.append(self.nodes[name].source)
        nodes = {name: node for name, node in self.nodes.items() if name in needed}
        self.plan: Plan = make_plan(
            nodes, {name for label in active for name in self.encoded[label]}
        )
        self.static = StaticViews(
            self.seed,
            {name: self.noisers[name] for name in self.plan.static},
            {name: nodes[name].source for name in self.plan.static},
        )
        self.prepared_views = tuple(name for name in self.plan.dynamic if self.specs[name].prepare)

    def work(self, micro_batches: int = 1) -> list[tuple[str, str, tuple[str, ...]]]:
        """Which network runs on which views, and which criterion reads them, in an update of so many micro-batches: name, what
        it does in words, and the names under which `fwk.flops.count` counts it."""
        found = []
        for step in self.plan.steps:
            if isinstance(step, Encode):
                network, mode, ema = self.nodes[step.views[0]].group
                how = [mode] * (mode != "train") + ["averaged weights"] * ema
                found.append(
                    (
                        network,
                        f"encodes {', '.join(step.views)}"
                        + (f" ({', '.join(how)})" if how else ""),
                        tuple(f"encoder on {view}" for view in step.views),
                    )
                )
            elif step.view in self.learned and self.learned[step.view].network is not None:
                found.append(
                    (
                        self._network_of(f"learned.{step.view}"),
                        f"makes {step.view} of {self.nodes[step.view].source}",
                        (f"views.{step.view}",),
                    )
                )
        found += [
            (label, f"reads {', '.join(self.encoded[label])}", (f"criterion.{label}",))
            for label in self.criteria
            if label not in self.off
        ]
        return found + [
            (
                label,
                "has the views made and encoded once more before, without gradient",
                ("prepare",),
            )
            for label in self.preparing(micro_batches)[:1]
        ]

    def _states_by_network(self) -> dict[str, tuple[str, ...]]:
        wanted: dict[str, dict[str, None]] = {name: {} for name in self.networks}
        for label, criterion in self.criteria.items():
            for view in self.encoded[label]:
                network = self.specs[view].encoder
                self.networks[network].check_states(criterion.states(), f"criterion '{label}'")
                wanted[network].update(dict.fromkeys(criterion.states()))
        return {name: tuple(states) for name, states in wanted.items()}

    # -- before the forward pass -------------------------------------------------------------------------------------

    def begin(
        self, batch: Batch | Mapping[str, View], index: int, step: Update, device: torch.device
    ) -> MicroBatch:
        """Static views and outlines of the rest, on `device`. batch: or the static views that were made of it already."""
        made = self.static(batch, step.split) if isinstance(batch, Batch) else batch
        views = {name: view.to(device) for name, view in made.items()}
        for name in self.plan.dynamic:
            noiser, source = self.noisers[name], views[self.nodes[name].source]
            if isinstance(noiser, LearnedNoiser):
                outline = noiser.outline(source, self._key(name, source, step))
                unknown = [what for what in ("changed", "log_q") if getattr(outline, what) is None]
            else:  # what it does to tokens that are not there yet, nobody knows
                outline = source
                unknown = [
                    "target",
                    "positions",
                    "valid",
                    "mask",
                    "special",
                    "changed",
                    "log_q",
                    "alignment",
                    "draws",
                    "labels",
                    "source",
                ]
            missing = {what: NotYetKnown(name, what) for what in unknown}
            views[name] = outline.replace(name=name, outline=True, **missing)
        return MicroBatch(index=index, views=views)

    def prepares(self, step: Update) -> bool:
        return bool(self.prepared_views or self.preparing(step.micro_batches))

    def preparing(self, micro_batches: int) -> tuple[str, ...]:
        """Criteria whose `prepare` is run in an update of so many micro-batches."""
        return tuple(
            label
            for label, criterion in self.criteria.items()
            if label not in self.off and criterion.prepares(criterion.config, micro_batches)
        )

    @torch.no_grad()
    def prepare(self, micro: MicroBatch, step: Update) -> None:
        """The targets that need networks before counts are known, of one micro-batch."""
        preparing = self.preparing(step.micro_batches)
        steps = self.plan.steps if preparing else self.plan.until(self.prepared_views, self.nodes)
        views = self._run(steps, micro, step)
        for name in self.prepared_views:
            micro.prepared_views[name] = micro.views[name] = views[name].detached()
        for label in preparing:
            context = self._context(f"criteria.{label}", micro, step)
            self._seed(step, micro, f"criteria.{label}")
            readable = self._readable(label, views)
            micro.prepared[label] = self.criteria[label].prepare(readable, context)
            micro.prepared_draws[label] = {
                name: _draws_of(label, name, rows, readable.values())
                for name, rows in micro.prepared[label].items()
            }

    @torch.no_grad()
    def exchange(self, micros: Sequence[MicroBatch], alone: bool = False) -> None:
        """Makes prepared tensors available over the whole update: all micro-batches of all ranks (`alone`: of this
        one, as in evaluation, where ranks may differ in their number of batches), in draw order."""
        world = World() if alone else self.world
        for label in micros[0].prepared:
            for name in micros[0].prepared[label]:
                own = [micro.prepared_draws[label][name] for micro in micros]
                draws = world.gather_rows(torch.cat(own))
                order = draws.argsort()
                place = {draw: row for row, draw in enumerate(draws[order].tolist())}
                rows = world.gather_rows(
                    torch.cat([micro.prepared[label][name] for micro in micros])
                )[order]
                for micro, mine in zip(micros, own):
                    where = torch.tensor(
                        [place[draw] for draw in mine.tolist()],
                        dtype=torch.int64,
                        device=rows.device,
                    )
                    micro.over_update.setdefault(label, {})[name] = (rows, where)

    def normalizers(self, micro: MicroBatch, step: Update) -> dict[str, Tensor]:
        """Counts of this micro-batch by 'component/term'."""
        counts = {}
        for path, component in self._components():
            context = self._context(path, micro, step)
            name = path.split(".", 1)[1]
            views = (
                self._readable(name, micro.views) if path.startswith("criteria.") else micro.views
            )
            counts.update(
                {
                    f"{name}/{term}": count
                    for term, count in component.normalizers(views, context).items()
                }
            )
        return counts

    # -- the forward pass --------------------------------------------------------------------------------------------

    def forward(self, micro: MicroBatch, step: Update, per_term: bool = False) -> StepOutput:
        with compiling(self.compiled):
            return self._weigh(self._outputs(micro, step), step, per_term)

    def _outputs(self, micro: MicroBatch, step: Update) -> dict[str, Output]:
        """What criteria and learned noisers return, by name."""
        views = self._run(self.plan.steps, micro, step)
        outcomes: dict[str, Mapping[str, Tensor]] = {}
        outputs: dict[str, Output] = {}
        for path, component in self._components():
            name = path.split(".", 1)[1]
            self._seed(step, micro, path)
            context = self._context(path, micro, step)
            if path.startswith("criteria."):
                outputs[name] = component(self._readable(name, views), context)
                outcomes[name] = outputs[name].outcomes
            else:
                outputs[name] = component.losses(views, outcomes, context)
        return outputs

    @property
    def predictors(self) -> tuple[str, ...]:
        """The criteria that predict."""
        return tuple(
            label
            for label, criterion in self.criteria.items()
            if label not in self.off and type(criterion).predict is not Criterion.predict
        )

    @property
    def longest(self) -> int:
        """Positions of the longest sequence that every network reads; 0: any number."""
        return min(
            (network.longest for network in self.networks.values() if network.longest), default=0
        )

    @torch.no_grad()
    def predictions(self, micro: MicroBatch, step: Update) -> dict[str, tuple[Tensor, Tensor]]:
        """What criteria predict, by label: draws [N] and values [N, ...]. UserError where two predict one label."""
        views, found, said_by = self._run(self.plan.steps, micro, step), {}, {}
        for label in self.predictors:
            readable = self._readable(label, views)
            for name, values in (
                self.criteria[label]
                .predict(readable, self._context(f"criteria.{label}", micro, step))
                .items()
            ):
                if said_by.setdefault(name, label) != label:
                    raise UserError(
                        f"criterion: '{said_by[name]}' and '{label}' both predict the label '{name}', so there are two answers; "
                        "expected one criterion for each label that is predicted"
                    )
                found[name] = readable[self.encoded[label][0]].draws, values
        return found

    def _weigh(self, outputs: Mapping[str, Output], step: Update, per_term: bool) -> StepOutput:
        """Sigma_k w_k (Sigma sum_k) / (Sigma count_k): the inner sums run over ranks and micro-batches, so each
        micro-batch divides by the count of the whole update. A term whose count is 0 is left out of the graph."""
        shares: list[Tensor] = []
        sums, statistics, terms, weights = {}, {}, {}, {}
        for name, output in outputs.items():
            weight = weight_at(self.weights.get(name, 1.0), step.progress)
            for term, value in output.terms.items():
                path = f"{name}/{term}"
                sums[path] = value.sum.detach()
                weights[path] = weight * value.weight
                if value.sum.dtype in (torch.float16, torch.bfloat16):
                    raise RunError(
                        f"'{name}' summed the loss term '{term}' in {value.sum.dtype}; sum in float32 or wider"
                    )
                if step.counts is None:
                    continue
                if path not in step.counts:
                    raise RunError(
                        f"'{name}' returned the loss term '{term}' without a count of that name; its "
                        f"normalizers gave {', '.join(sorted(step.counts)) or 'none'}"
                    )
                if step.counts[path] > 0:
                    share = value.sum * (weights[path] * self.world.size / step.counts[path])
                    terms[path] = share
                    shares.append(share)
            statistics.update(
                {f"{name}/{key}": value.detach() for key, value in output.statistics.items()}
            )
        loss = None
        if step.counts is not None and not per_term:
            loss = sum(shares[1:], shares[0]) if shares else self.anchor * 0.0
            if self.world.size > 1 or not loss.requires_grad:
                # nothing to the loss, and a gradient that is not finite on every rank where the loss is not on one
                loss = loss + self.anchor * (loss.detach() * 0.0)
        return StepOutput(
            loss=loss,
            sums=sums,
            statistics=statistics,
            terms=terms if per_term else {},
            weights=weights,
        )

    def _run(
        self, steps: Iterable[Make | Encode], micro: MicroBatch, step: Update
    ) -> dict[str, View]:
        views = dict(micro.views)
        for action in steps:
            if isinstance(action, Make):
                views[action.view] = self._make(action.view, views, step, micro)
            else:
                self._encode_group(action.views, views, micro, step)
        return views

    def _make(
        self, name: str, views: Mapping[str, View], step: Update, micro: MicroBatch | None
    ) -> View:
        noiser, source = self.noisers[name], views[self.nodes[name].source]
        key = self._key(name, source, step)
        if isinstance(noiser, LearnedNoiser):
            self._seed(step, micro, f"noiser/{name}")
            context = self._context(f"learned.{name}", micro, step)
            made = noiser.apply(source, key, context, micro.prepared_views.get(name))
        else:
            made = noiser.apply(source, key)
        return made.replace(name=name, encoded=None, ema=False, outline=False)

    def _encode_group(
        self, names: Sequence[str], views: dict[str, View], micro: MicroBatch, step: Update
    ) -> None:
        network, mode, ema = self.nodes[names[0]].group
        alike: dict[tuple, list[View]] = {}
        for view in (views[name] for name in names):
            if len(view):
                alike.setdefault((view.mask is None, *sorted(view.inputs)), []).append(view)
            else:  # a view that keeps some rows only may have none here
                T = 0 if view.mask is None else view.mask.shape[1]
                encoder = self.networks[network]
                states = {
                    name: self.anchor.new_zeros((0, T, encoder.state_width(name)))
                    for name in self.states[network]
                }
                empty = self.anchor.new_zeros((0, T, encoder.width))
                views[view.name] = view.replace(encoded=Encoded(features=empty, states=states))
        for members in alike.values():
            lengths = [0 if view.mask is None else view.mask.shape[1] for view in members]
            calls = (
                share_calls(lengths, [len(view) for view in members]) if len(members) > 1 else [[0]]
            )
            for call in calls:
                chosen = [members[i] for i in call]
                self._seed(step, micro, f"encode/{chosen[0].name}")
                for view, encoded in zip(chosen, self.encode(chosen, network, mode, ema)):
                    views[view.name] = view.replace(encoded=encoded, ema=ema)

    def encode(
        self,
        views: Sequence[View],
        network: str = "main",
        mode: str = "train",
        ema: bool = False,
        states: Sequence[str] | None = None,
    ) -> list[Encoded]:
        """One call of one network on several views, padded to a common T. `quiet`: no dropout; `teacher`: no dropout
        and no gradient; `ema`: with the averaged weights."""
        encoder = self.networks[network]
        inputs, mask, change = _stack(views, self.pad)
        T = max((view.mask.shape[1] for view in views if view.mask is not None), default=0)
        if encoder.longest and T > encoder.longest:
            raise DataError(
                f"the view '{views[0].name}' has a sequence of {T:,} positions, more than the {encoder.longest:,} that the "
                f"network '{network}' reads; expected shorter ones, or a longer network"
            )
        if self.compiled:
            mask = self._one_kind_of_mask(views, mask, network)
        states = self.states[network] if states is None else states
        self.encoder_calls += 1
        encoded = self._call(encoder, (inputs, mask, change, states), mode, ema)
        if len(views) == 1:
            return [encoded]
        parts, start = [], 0
        for view in views:
            parts.append(
                encoded.rows(
                    start, start + len(view), None if view.mask is None else view.mask.shape[1]
                )
            )
            start += len(view)
        return parts

    def _one_kind_of_mask(
        self, views: Sequence[View], mask: Tensor | None, network: str
    ) -> Tensor | None:
        """With a mask and without are two graphs. Where lengths vary, a call in which nothing happens to be padded is
        rare, and would be compiled in the middle of a run: it gets a mask as well."""
        if mask is not None:
            self.masked.add((network, self.training))
        elif (network, self.training) in self.masked and all(
            view.mask is not None for view in views
        ):
            return torch.cat([view.mask for view in views])
        return mask

    def _call(self, module: nn.Module, arguments: tuple, mode: str, ema: bool) -> Any:
        if mode == "train" and not ema:
            return module(*arguments)
        with (
            torch.no_grad() if mode == "teacher" else nullcontext(),
            self._quiet(module, mode != "train"),
        ):
            if ema:
                with keep_activations():
                    result = torch.func.functional_call(module, self._averaged(module), arguments)
            else:
                result = module(*arguments)
        if mode == "teacher" and torch.is_autocast_enabled(self.anchor.device.type):
            # weights cast without gradient are cached, and older versions of torch hand them to calls with gradient
            torch.clear_autocast_cache()
        return result

    def _averaged(self, module: nn.Module) -> dict[str, Tensor]:
        """The averaged weights of a sub-module by its own names; tied ones are found by what they are."""
        if self.ema is None:
            raise ConfigError(
                "train.ema",
                "averaged weights are asked for, and there are none; set train.ema to a decay "
                "such as 0.999",
            )
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        return {
            own: self.ema[names[id(p)]]
            for own, p in module.named_parameters(remove_duplicate=False)
        }

    # -- what components are told ------------------------------------------------------------------------------------

    def _components(self) -> Iterator[tuple[str, Any]]:
        """Criteria, then learned noisers, that are not switched off."""
        yield from (
            (f"criteria.{label}", criterion)
            for label, criterion in self.criteria.items()
            if label not in self.off
        )
        yield from (
            (f"learned.{name}", noiser)
            for name, noiser in self.learned.items()
            if name not in self.off
        )

    def _readable(self, label: str, views: Mapping[str, View]) -> dict[str, View]:
        return {name: views[name] for name in self.reads[label]}

    def _context(self, path: str, micro: MicroBatch, step: Update) -> Context:
        name = path.split(".", 1)[1]
        return Context(
            seed=self.seed,
            training=self.training,
            update=step.update,
            progress=step.progress,
            micro_batch=micro.index,
            encode=partial(self._encode_one, default=self._network_of(path)),
            head=self._head,
            gather=self.world.gather_with_gradient if self.training else _alone,
            over_update=partial(_over_update, micro, name),
            count=partial(_count, step, name),
            prepared=micro.prepared.get(name, {}),
        )

    def scoring_context(self, path: str, micro: MicroBatch, step: Update, budget: int) -> Context:
        """What a component at `path` may ask in `log_probs`."""

        def ask(view: str, text: View) -> Tensor:
            noiser, there = self.noisers[view], f"learned.{view}" if view in self.learned else path
            if type(noiser).log_probs is Noiser.log_probs:
                raise ConfigError(
                    f"views.{view}.noiser",
                    "does not know how likely it is to draw a token, given all others; one "
                    "that does is needed to score",
                )
            return noiser.log_probs(
                text,
                micro.views,
                noiser.Scoring(),
                self.scoring_context(there, micro, step, budget),
            )

        kind, name = path.split(".", 1)
        network = (
            self.specs[self.encoded[name][0]].encoder
            if kind == "criteria" and self.encoded[name]
            else self._network_of(path)
        )
        encode = partial(self._encode_one, default=network)
        return replace(
            self._context(path, micro, step), encode=encode, log_probs=ask, budget=budget
        )

    def _network_of(self, path: str) -> str:
        """The network a component encodes with unless it says otherwise: a learned noiser's own, else the main one."""
        kind, name = path.split(".", 1)
        mine = self.learned[name].network if kind == "learned" else None
        return next((other for other, network in self.networks.items() if network is mine), "main")

    def _encode_one(
        self,
        view: View,
        mode: str = "train",
        ema: bool = False,
        network: str | None = None,
        states: Sequence[str] | None = None,
        default: str = "main",
    ) -> Encoded:
        return self.encode([view], network or default, mode, ema, states)[0]

    def _head(self, path: str, mode: str = "train", ema: bool = False) -> Callable[..., Any]:
        module = self._find_head(path)
        if mode == "train" and not ema:
            return module
        return lambda *arguments: self._call(module, arguments, mode, ema)

    def _find_head(self, path: str) -> nn.Module:
        label = path.split(".")[0]
        if label not in self.criteria:
            raise ConfigError(
                "criterion",
                f"there is no criterion '{label}' to take a head of{did_you_mean(label, self.criteria)}",
            )
        try:
            return self.criteria.get_submodule(path)
        except AttributeError:
            names = [name for name, _ in self.criteria[label].named_children()]
            raise ConfigError(
                f"criterion.{label}", f"it has no head '{path}'{did_you_mean(path, names)}"
            ) from None

    def _key(self, name: str, source: View, step: Update) -> Key:
        return Key(self.seed, f"{step.split}/{name}", source.draws)

    def _seed(self, step: Update, micro: MicroBatch, call: str) -> None:
        """Dropout is the one thing that draws from torch's generators: they are re-seeded before each call that may."""
        if self.training:
            word = fold(self.seed, "dropout", step.update, micro.index, self.world.rank, call)
            torch.default_generator.manual_seed(word)
            if self.anchor.is_cuda:
                torch.cuda.manual_seed(word)

    @contextmanager
    def _quiet(self, module: nn.Module, quiet: bool) -> Iterator[None]:
        if not (quiet and self.training):
            yield
            return
        module.eval()
        try:
            yield
        finally:
            module.train()


def weight_at(weight: float | Mapping[str, float], progress: float) -> float:
    """A weight, or a linear schedule {from, to, start, end} over progress in [0, 1], evaluated."""
    if not isinstance(weight, Mapping):
        return float(weight)
    start, end = weight.get("start", 0.0), weight.get("end", 1.0)
    share = 1.0 if end <= start else min(1.0, max(0.0, (progress - start) / (end - start)))
    return weight["from"] + (weight["to"] - weight["from"]) * share


def _stack(
    views: Sequence[View], pad: int
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Inputs of several views below each other, padded to the longest: by name [sum B, T, ...], mask, change."""
    if len(views) == 1:
        view = views[0]
        return dict(view.inputs), view.mask if view.padded else None, view.embedding_change
    masks = [view.mask for view in views]
    T = max((mask.shape[1] for mask in masks if mask is not None), default=0)

    def column(parts: Sequence[Tensor], fill: float) -> Tensor:
        padded = [
            F.pad(part, (*[0, 0] * (part.dim() - 2), 0, T - part.shape[1]), value=fill)
            if mask is not None
            and part.dim() > 1
            and part.shape[1] == mask.shape[1]
            and part.shape[1] < T
            else part
            for part, mask in zip(parts, masks)
        ]
        return torch.cat(padded)

    inputs = {
        name: column([view.inputs[name] for view in views], pad if name == "tokens" else 0)
        for name in views[0].inputs
    }
    padded = any(
        view.padded or (view.mask is not None and view.mask.shape[1] < T) for view in views
    )
    mask = column(masks, False) if padded and all(m is not None for m in masks) else None
    change = None
    if any(view.embedding_change is not None for view in views):
        like = next(view.embedding_change for view in views if view.embedding_change is not None)
        change = column(
            [
                view.embedding_change
                if view.embedding_change is not None
                else like.new_zeros((len(view), view.mask.shape[1], *like.shape[2:]))
                for view in views
            ],
            0.0,
        )
    return inputs, mask, change


def _draws_of(label: str, name: str, rows: Tensor, views: Iterable[View]) -> Tensor:
    """The draw numbers of the rows of a prepared tensor: those of the criterion's first view with as many rows."""
    for view in views:
        if len(view) == len(rows):
            return view.draws
    raise RunError(
        f"criterion '{label}' prepared '{name}' with {len(rows)} rows, and none of its views has as many"
    )


def _over_update(micro: MicroBatch, component: str, name: str) -> tuple[Tensor, Tensor]:
    rows = micro.over_update.get(component, {})
    if name not in rows:
        raise RunError(
            f"'{component}' asks for '{name}' over the update, which its `prepare` did not return"
            f"{did_you_mean(name, rows)}"
        )
    return rows[name]


def _count(step: Update, component: str, term: str) -> float:
    if step.counts is None:
        raise RunError(f"'{component}' asks for a global count outside of training")
    return step.counts[f"{component}/{term}"]


def _alone(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor, torch.arange(len(tensor), device=tensor.device)


def component_metrics(module: ObjectiveModule, sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Named statistics -> numbers: each component's own, by 'component/name'."""
    metrics: dict[str, float] = {}
    for name, component in (*module.criteria.items(), *module.learned.items()):
        prefix = f"stat:{name}/"
        own = {
            path[len(prefix) :]: value for path, value in sums.items() if path.startswith(prefix)
        }
        if own:
            metrics.update(
                {f"{name}/{key}": value for key, value in component.metrics(own).items()}
            )
    return metrics
