"""The data that flows between components.

A task gives a `Batch`; noisers turn it into `View`s; an encoder gives each view an `Encoded`; a criterion turns encoded
views into an `Output`. The first dimension of every tensor is B.

Letters: B sequences, T positions, K chosen positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fwk.contracts.plain import PlainDict, PlainMapping
from fwk.errors import RunError


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return `value` with `change` applied to it if it is a tensor, or to the tensors in it if it is a mapping.

    Any other value is returned as it is.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(entry, change) for name, entry in value.items()}
    return value


def _map_fields(
    instance: Batch | View, change: Callable[[Tensor], Tensor], leave_out: Iterable[str] = ()
) -> PlainDict:
    """Return the fields of a dataclass by name, with `change` applied to every tensor."""
    names = [f.name for f in fields(instance) if f.name not in leave_out]
    return {name: map_tensors(getattr(instance, name), change) for name in names}


class RendersTexts(Protocol):
    """The named texts of a batch (`fwk.contracts.texts.Texts`)."""

    def rendered(self, batch: Batch, fields: Sequence[str], key: str = "fields") -> View:
        """Return the view of the batch that renders these texts. key: where they are named, for errors."""
        ...

    def with_label_names(self, names: Mapping[str, str]) -> RendersTexts:
        """Return the texts with other names of labels. names: by the name that a label has."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples as a task gives them, before any noise."""

    # by name, each [B, ...]; text: `tokens` int64 [B, T], perhaps `segments`
    inputs: Mapping[str, Tensor]
    draws: Tensor  # int64 [B], index of each example in the run's endless stream of examples
    mask: Tensor | None = None  # bool [B, T], False on padding; None for inputs without positions
    # bool [B, T], True on [CLS], [SEP] and the like, which no noiser changes
    special: Tensor | None = None
    # by name, each [B, ...]; -1: no label
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    # int64 [B], position of each example's source in `Task.source_names()`
    source: Tensor | None = None
    # the named texts that views with `fields` render; None: the task has none
    texts: RendersTexts | None = None
    # by name of the task: its examples among these as a batch of their own, which stays on the CPU; see `Task.parts`
    parts: Mapping[str, Batch] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor:
        """The token ids, int64 [B, T]."""
        return self.inputs["tokens"]

    def __len__(self) -> int:
        return self.draws.shape[0]

    def rendered(self, fields: Sequence[str]) -> Batch:
        """Return the batch with the sequences of these texts, none of which is a list, as its own tokens."""
        assert self.texts is not None
        view = self.texts.rendered(self, fields)
        changes = {name: getattr(view, name) for name in ("inputs", "mask", "special", "labels")}
        return replace(self, **changes)

    def without_rows(self) -> Batch:
        """Return the batch with no example, and without named texts."""
        return Batch(**_map_fields(self, lambda tensor: tensor[:0], leave_out=("texts", "parts")))

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        """Return the batch with all tensors on `device`."""
        return Batch(**_map_fields(self, lambda x: x.to(device, non_blocking=non_blocking)))

    def pin_memory(self) -> Batch:
        """Return the batch with all tensors in page-locked memory."""
        return Batch(**_map_fields(self, Tensor.pin_memory))


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What an encoder returns for a view."""

    features: Tensor  # [B, T, D], the vectors that heads read
    # the inner states that were asked for, by name: [B, T, ...] with at least three dimensions, or [B, D] per sequence
    states: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, start: int, stop: int, length: int | None = None) -> Encoded:
        """Return the encodings of rows [start, stop), cut to the first `length` positions."""
        T = self.features.shape[1]

        def cut(tensor: Tensor) -> Tensor:
            part = tensor[start:stop]
            if length is not None and length < T and part.dim() > 2 and part.shape[1] == T:
                return part[:, :length]
            return part

        return Encoded(
            features=cut(self.features),
            states={name: cut(state) for name, state in self.states.items()},
        )


# default of tensors that only some noisers provide. Their fields are declared without None: a criterion that `reads`
# positions, log_q or an encoding is given them, and need not check that again
_ABSENT: Any = None


@dataclass(frozen=True, kw_only=True)
class View:
    """A version of a batch: the input of an encoder, and what criteria need to know about the changes.

    Views are immutable; `replace` makes a changed copy.
    """

    name: str
    # as in `Batch`, but at this view's positions
    draws: Tensor
    inputs: Mapping[str, Tensor]
    mask: Tensor | None = None
    special: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None

    target: Tensor = _ABSENT  # int64 [B, T], the original token at each position of this view
    # int64 [B, K], the chosen positions; slots that `valid` excludes hold 0
    positions: Tensor = _ABSENT
    valid: Tensor = _ABSENT  # bool [B, K], False in the slots of `positions` that are padding
    changed: Tensor = _ABSENT  # bool [B, T], True where the token differs from `target`
    # log-probabilities of the noise distribution, as the noiser documents them
    log_q: Tensor = _ABSENT
    # [B, T, E], added to the embedded inputs before the first layer
    embedding_change: Tensor | None = None
    # int64 [B, T], the original position, -1 if none; None: nothing moved
    alignment: Tensor | None = None
    padded: bool = True  # False: every position is known to be content, so attention needs no mask
    encoded: Encoded = _ABSENT  # set by the engine once the view is encoded
    ema: bool = False  # True: `encoded` was computed with the moving average of the weights
    # from a learned noiser's `apply` to its `losses`
    extra: PlainMapping = field(default_factory=dict)
    outline: bool = False  # True: the noiser has not run yet (see `Outline`)

    @classmethod
    def from_batch(cls, batch: Batch, name: str = "batch") -> View:
        """Return the batch itself as a view: nothing is changed, so the target is the input."""
        return cls(
            name=name,
            draws=batch.draws,
            inputs=batch.inputs,
            mask=batch.mask,
            special=batch.special,
            labels=batch.labels,
            source=batch.source,
            target=batch.inputs.get("tokens", _ABSENT),
            padded=batch.mask is not None and not bool(batch.mask.all()),
        )

    def to(self, device: torch.device) -> View:
        """Return the view with all tensors on `device`."""
        if self.draws.device == device:
            return self
        return replace(self, **_map_fields(self, lambda x: x.to(device, non_blocking=True)))

    def pin_memory(self) -> View:
        """Return the view with all tensors in page-locked memory."""
        return replace(self, **_map_fields(self, Tensor.pin_memory))

    def is_full(self) -> bool:
        """Return whether every position is content."""
        return self.mask is None or bool(self.mask.all())

    @property
    def content(self) -> Tensor:
        """True everywhere but on padding, bool [B, T]."""
        return torch.ones_like(self.target, dtype=torch.bool) if self.mask is None else self.mask

    @property
    def ordinary(self) -> Tensor:
        """True on content that is not a special token of the original sequence, bool [B, T]."""
        return self.content if self.special is None else self.content & ~self.special

    @property
    def tokens(self) -> Tensor:
        """The token ids of this view, int64 [B, T]."""
        return self.inputs["tokens"]

    def __len__(self) -> int:
        return self.draws.shape[0]

    def replace(self, **changes: Any) -> View:
        """Return a copy with other values of the named fields. Raises TypeError for a name that is not a field."""
        if not changes.keys() <= self.__dict__.keys():
            return replace(self, **changes)  # raises the TypeError that names the field
        # the constructor of a frozen dataclass sets one field at a time, and an update makes several views
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    def detached(self) -> View:
        """Return the view without autograd graph, encodings and extras, as `prepare` keeps it."""
        return View(**_map_fields(self, Tensor.detach, leave_out=("encoded", "extra")))

    def keep_positions(self, kept: Tensor, pad: int = 0) -> View:
        """Return the view reduced to the positions where `kept` is True, moved together to the left.

        kept: bool [B, T]. pad: the token id behind the end of a row. The result has as many positions as the longest
        row keeps. Everything of shape [B, T, ...] moves along, labels included. Chosen positions that are not kept
        become invalid. `alignment` still refers to the original sequence.
        """
        index, filled = _order_of_kept(kept)  # each [B, T']

        def moved(tensor: Any, fill: Any = 0) -> Any:
            by_position = isinstance(tensor, Tensor) and tensor.shape[:2] == kept.shape
            return _gather_positions(tensor, index, filled, fill) if by_position else tensor

        positions, valid = self.positions, self.valid
        if positions is not None:
            positions, valid = _move_chosen(positions, valid, kept, width=index.shape[1])
        alignment = self.alignment
        if alignment is None:
            alignment = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape)

        inputs = {n: moved(x, pad if n == "tokens" else 0) for n, x in self.inputs.items()}
        return self.replace(
            inputs=inputs,
            labels={name: moved(label, -1) for name, label in self.labels.items()},
            mask=moved(self.content, False),
            special=moved(self.special, False),
            target=moved(self.target, pad),
            changed=moved(self.changed, False),
            log_q=moved(self.log_q, 0.0),
            positions=positions,
            valid=valid,
            embedding_change=moved(self.embedding_change, 0.0),
            alignment=moved(alignment, -1),
            padded=not bool(filled.all()),
            encoded=None,
        )

    def at_positions(self, tensor: Tensor) -> Tensor:
        """Return `tensor` [B, T, ...] at the chosen positions, [B, K, ...]; padding slots hold position 0."""
        index = self.positions
        if tensor.dim() > 2:
            ones = [1] * (tensor.dim() - 2)
            index = index.view(*index.shape, *ones).expand(-1, -1, *tensor.shape[2:])
        return tensor.gather(1, index)


def _order_of_kept(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the old position at each new one, int64 [B, T'], and whether there is one, bool [B, T'].

    T' is the largest number of True values in a row of `kept` bool [B, T].
    """
    sizes = kept.sum(1, keepdim=True)  # [B, 1]
    width = int(sizes.max()) if len(kept) else 0
    # a stable sort brings the kept positions to the front in their order
    index = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    return index, torch.arange(width, device=kept.device) < sizes


def _gather_positions(tensor: Tensor, index: Tensor, filled: Tensor, fill: Any) -> Tensor:
    """Return `tensor` [B, T, ...] at `index` [B, T'], with `fill` where `filled` bool [B, T'] is False."""
    shape = (*index.shape, *[1] * (tensor.dim() - 2))
    gathered = tensor.gather(1, index.view(shape).expand(-1, -1, *tensor.shape[2:]))
    return gathered.masked_fill(~filled.view(shape), fill)


def _move_chosen(
    positions: Tensor, valid: Tensor, kept: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Return the chosen positions [B, K] and their validity after only the positions in `kept` [B, T] remain."""
    new_position = kept.cumsum(1) - 1  # [B, T]
    remains = valid & kept.gather(1, positions)  # [B, K]
    moved = torch.where(remains, new_position.gather(1, positions), width)
    moved = moved.sort(1).values  # invalid slots sort last
    valid = moved < width
    return torch.where(valid, moved, 0), valid


@dataclass(frozen=True, kw_only=True)
class Outline(View):
    """What is known of a view before its noiser runs. Counts are taken from it.

    Reading anything else raises RunError, which says what to do.
    """

    unknown: frozenset[str] = frozenset()  # names of fields, and of properties that depend on them

    @classmethod
    def of(cls, view: View, name: str, unknown: Iterable[str]) -> Outline:
        """Return the outline of the view `name`, which has the values of `view` except for those named."""
        outline = object.__new__(cls)
        inherited = view.unknown if isinstance(view, Outline) else frozenset()
        unknown = inherited.union(unknown, ["tokens"])
        outline.__dict__.update(view.__dict__, name=name, outline=True, unknown=unknown)
        return outline

    def __getattribute__(self, name: str) -> Any:
        values = object.__getattribute__(self, "__dict__")
        if name in values.get("unknown", ()):
            raise RunError(
                f"view '{values['name']}' has no {name} yet: its noiser makes it inside the forward pass; set "
                "'prepare: true' on the view to have it made before the counts are taken"
            )
        return super().__getattribute__(name)

    def replace(self, **changes: Any) -> View:
        """Return a copy with other values of the named fields, which are then known."""
        return super().replace(**{"unknown": self.unknown - changes.keys(), **changes})


@dataclass(frozen=True)
class LossTerm:
    """The sum of one loss term over a micro-batch.

    The engine divides it by the count that `normalizers` gives under the same name, summed over all ranks and
    micro-batches of the update, and multiplies it by `weight` and by the weight of the criterion.
    """

    sum: Tensor  # 0-d, fp32 or wider
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a criterion or a learned noiser returns for one micro-batch."""

    terms: Mapping[str, LossTerm] = field(default_factory=dict)  # by name
    # additive tensors by name, summed over micro-batches, ranks and updates before `metrics` reads them
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    # for learned noisers to read, such as rewards
    outcomes: Mapping[str, Tensor] = field(default_factory=dict)
