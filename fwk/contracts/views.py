"""What flows between the parts: a `Batch` becomes `View`s, an encoder gives each view an `Encoded`, a criterion turns
encoded views into an `Output`. Every tensor has B (sequences) leading.

Letters: B sequences, T positions, K chosen positions, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from fwk.errors import RunError


def _moved(value: Any, device: torch.device, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {name: _moved(entry, device, non_blocking) for name, entry in value.items()}
    return value


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {name: _pinned(entry) for name, entry in value.items()}
    return value


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples as they come from a task, before any noise.

    inputs: what an encoder can read, by name, each [B, ...]; text has `tokens` int64 [B, T] and may have `segments`.
    draws: int64 [B], the index of each example in the run's endless stream of examples.
    mask: bool [B, T], True where there is content (not padding); None for modalities without positions.
    special: bool [B, T], True on [CLS], [SEP] and the like, which noisers leave alone.
    labels: by name, each [B, ...]. source: int64 [B], which of the task's sources (by position) each example is from.
    """

    inputs: Mapping[str, Tensor]
    draws: Tensor
    mask: Tensor | None = None
    special: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None

    @property
    def tokens(self) -> Tensor:
        return self.inputs["tokens"]

    def __len__(self) -> int:
        return self.draws.shape[0]

    def to(self, device: torch.device, non_blocking: bool = True) -> Batch:
        return Batch(
            **{f.name: _moved(getattr(self, f.name), device, non_blocking) for f in fields(self)}
        )

    def pin_memory(self) -> Batch:
        return Batch(**{f.name: _pinned(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What an encoder says about a view.

    features: [B, T, D], the pre-logit vectors. pooled: [B, D] where the encoder has one (None otherwise).
    states: named inner states that were asked for: [B, T, ...] with a third dimension at least, or [B, D] per sequence.
    """

    features: Tensor
    pooled: Tensor | None = None
    states: Mapping[str, Tensor] = field(default_factory=dict)

    def rows(self, start: int, stop: int, length: int | None = None) -> Encoded:
        """The encodings of rows [start, stop) of the call, cut back to `length` positions."""

        def cut(tensor: Tensor) -> Tensor:
            part = tensor[start:stop]
            T = self.features.shape[1]
            by_position = (
                length is not None and length < T and part.dim() > 2 and part.shape[1] == T
            )
            return part[:, :length] if by_position else part

        return Encoded(
            features=cut(self.features),
            pooled=None if self.pooled is None else self.pooled[start:stop],
            states={name: cut(state) for name, state in self.states.items()},
        )


class NotYetKnown:
    """Stands where an outline has no tensor yet; whoever asks it for anything is told what to do about it."""

    def __init__(self, view: str, what: str):
        self._view, self._what = view, what

    def _refuse(self) -> RunError:
        return RunError(
            f"view '{self._view}' has no {self._what} yet: its noiser makes it inside the forward pass; set "
            "'prepare: true' on the view to have it made before the counts are taken"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own protocols (copying, pickling) ask too
            raise AttributeError(name)
        raise self._refuse()

    def _raise(self, *others: Any) -> Any:
        raise self._refuse()

    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __and__ = __or__ = __rand__ = __ror__ = (
        __invert__
    ) = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __getitem__ = (
        __len__
    ) = __iter__ = _raise
    __bool__ = __float__ = __int__ = __index__ = _raise
    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        pending = [*args, *(kwargs or {}).values()]
        while pending:
            value = pending.pop()
            if type(value) is cls:
                raise value._refuse()
            pending.extend(value if isinstance(value, (list, tuple)) else ())


@dataclass(frozen=True, kw_only=True)
class View:
    """One way of looking at a batch: what the encoder reads, and what a criterion needs to know about the change.

    inputs, mask, special, labels, source, draws: as in `Batch`, in this view's own positions.
    target: int64 [B, T], the original id at each position of this view.
    positions: int64 [B, K] chosen positions; valid: bool [B, K] (padding slots of `positions` are False).
    changed: bool [B, T], True where the token differs from `target`.
    outline: True while only what is known before any network runs is there (see `LearnedNoiser.outline`).
    log_q: log-probability of the noise distribution, as the noiser documents it.
    embedding_change: [B, T, E], added to the embedded inputs before the encoder's first layer.
    alignment: int64 [B, T], the original position of each position (-1: none); None when nothing moved.
    padded: False when it is known that every position is content, so that attention needs no mask.
    encoded: set by the engine once the view has been encoded; ema: with the moving average of the weights.
    extra: what a learned noiser hands from `apply` to its own `losses`.
    """

    name: str
    draws: Tensor
    inputs: Mapping[str, Tensor]
    mask: Tensor | None = None
    special: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None
    target: Tensor | None = None
    positions: Tensor | None = None
    valid: Tensor | None = None
    changed: Tensor | None = None
    log_q: Tensor | None = None
    embedding_change: Tensor | None = None
    alignment: Tensor | None = None
    padded: bool = True
    encoded: Encoded | None = None
    ema: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    outline: bool = False

    @classmethod
    def from_batch(cls, batch: Batch, name: str = "batch") -> View:
        """The batch itself as a view: nothing changed, the target is the input."""
        return cls(
            name=name,
            draws=batch.draws,
            inputs=batch.inputs,
            mask=batch.mask,
            special=batch.special,
            labels=batch.labels,
            source=batch.source,
            target=batch.inputs.get("tokens"),
            padded=batch.mask is not None and not bool(batch.mask.all()),
        )

    def to(self, device: torch.device) -> View:
        if self.draws.device == device:
            return self
        return replace(
            self, **{f.name: _moved(getattr(self, f.name), device, True) for f in fields(self)}
        )

    def pin_memory(self) -> View:
        return replace(self, **{f.name: _pinned(getattr(self, f.name)) for f in fields(self)})

    def is_full(self) -> bool:
        """Every position is content."""
        return self.mask is None or bool(self.mask.all())

    @property
    def content(self) -> Tensor:
        """bool [B, T]: everything but padding."""
        return torch.ones_like(self.target, dtype=torch.bool) if self.mask is None else self.mask

    @property
    def ordinary(self) -> Tensor:
        """bool [B, T]: content that is no special token of the original sequence."""
        return self.content if self.special is None else self.content & ~self.special

    @property
    def tokens(self) -> Tensor:
        """int64 [B, T]. Raises RunError on the outline of a learned view (see `Noiser.outline`)."""
        if self.outline:
            raise NotYetKnown(self.name, "tokens")._refuse()
        return self.inputs["tokens"]

    def __len__(self) -> int:
        return self.draws.shape[0]

    def replace(self, **changes: Any) -> View:
        """A copy with other values; TypeError on a name that is no field."""
        if not changes.keys() <= self.__dict__.keys():
            return replace(self, **changes)  # says which
        made = object.__new__(
            type(self)
        )  # an update makes several: its constructor would set each field by itself
        made.__dict__.update(self.__dict__, **changes)
        return made

    def detached(self) -> View:
        """The same view without graph, encodings or extras: what `prepare` keeps from one phase to the next."""

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.detach()
            return {k: cut(v) for k, v in value.items()} if isinstance(value, Mapping) else value

        kept = {
            f.name: cut(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("encoded", "extra")
        }
        return View(**kept)

    def keep_positions(self, kept: Tensor, pad: int = 0) -> View:
        """The positions where `kept` bool [B, T] is true, moved together, in T' columns: as many as the longest row keeps.

        Everything of B x T goes along, labels too; the chosen positions that are kept are found again, the others are not
        valid any more; `alignment` stays that with the original. pad: the token id behind a row's end.
        """
        B, T = kept.shape
        sizes = kept.sum(1, keepdim=True)  # [B, 1]
        width = int(sizes.max()) if B else 0
        # a stable sort brings the kept positions to the front in their order
        index = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :width]  # [B, T']
        there = torch.arange(width, device=kept.device) < sizes  # [B, T']

        def moved(tensor: Tensor | None, fill: Any = 0) -> Any:
            if not isinstance(tensor, Tensor) or tensor.dim() < 2 or tensor.shape[:2] != (B, T):
                return tensor
            extra = [1] * (tensor.dim() - 2)
            taken = tensor.gather(1, index.view(B, width, *extra).expand(-1, -1, *tensor.shape[2:]))
            return taken.masked_fill(~there.view(B, width, *extra), fill)

        positions, valid = self.positions, self.valid
        if positions is not None:
            place = kept.cumsum(1) - 1
            found = (
                torch.where(valid & kept.gather(1, positions), place.gather(1, positions), width)
                .sort(1)
                .values
            )
            valid = found < width  # padding slots stay behind
            positions = torch.where(valid, found, 0)
        alignment = (
            torch.arange(T, device=kept.device).expand(B, T)
            if self.alignment is None
            else self.alignment
        )
        return self.replace(
            inputs={
                name: moved(value, pad if name == "tokens" else 0)
                for name, value in self.inputs.items()
            },
            labels={
                name: moved(value, -1) if value.dim() > 1 else value
                for name, value in self.labels.items()
            },
            mask=moved(self.content, False),
            special=moved(self.special, False),
            target=moved(self.target, pad),
            changed=moved(self.changed, False),
            log_q=moved(self.log_q, 0.0),
            positions=positions,
            valid=valid,
            embedding_change=moved(self.embedding_change, 0.0),
            alignment=moved(alignment, -1),
            padded=not bool(there.all()),
            encoded=None,
        )

    def at_positions(self, tensor: Tensor) -> Tensor:
        """Rows of `tensor` [B, T, ...] at the chosen positions -> [B, K, ...]; padding slots repeat position 0."""
        index = self.positions
        if tensor.dim() > 2:
            index = index.view(*index.shape, *[1] * (tensor.dim() - 2)).expand(
                -1, -1, *tensor.shape[2:]
            )
        return tensor.gather(1, index)


@dataclass(frozen=True)
class LossTerm:
    """A sum, in fp32 or wider, that the engine divides by the count `normalizers` gave under the same name, summed
    over all ranks and micro-batches of the update, and multiplies by `weight` and the criterion's own weight."""

    sum: Tensor
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a criterion (or a learned noiser) returns.

    terms: loss terms by name. statistics: additive tensors by name, summed over micro-batches, ranks and updates
    before `metrics` turns them into numbers. outcomes: tensors that learned noisers may read (rewards).
    """

    terms: Mapping[str, LossTerm] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    outcomes: Mapping[str, Tensor] = field(default_factory=dict)
