"""What the engine tells components: `BuildContext` while they are made, `Context` while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fwk.contracts.encoder import Encoder
from fwk.contracts.views import Encoded


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Sizes and special ids of the tokenizer, all that components need of it. -1: there is no such token."""

    size: int
    pad: int = -1
    cls: int = -1
    sep: int = -1
    mask: int = -1
    unk: int = -1
    special: tuple[int, ...] = ()
    counts: Tensor | None = None  # float64 [V], corpus frequencies where the task knows them


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What a component may ask while it is constructed.

    vocabulary: of the task's tokens (None for modalities without). length: the longest sequence the task makes (0:
    unbounded). labels: label space by name -> list of label names. encoder: the encoder whose views the component
    reads; for a further network, the main one. network: the network a learned noiser was given. inputs: shape of one
    example by input name, as the task says it. name: the label or view name the component is built under. key: where its
    options stand in the config. of: the source view of a learned noiser's view.
    sources: names of the task's sources; `Batch.source` numbers are positions in it. missing_sources: those it could have, and
    why it has none of them.
    """

    name: str = ""
    key: str = ""
    of: str = ""
    seed: int = 0
    vocabulary: Vocabulary | None = None
    length: int = 0
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    missing_sources: Mapping[str, str] = field(default_factory=dict)
    encoder: Encoder | None = None
    network: Encoder | None = None


@dataclass(kw_only=True)
class Context:
    """What a component may ask while it runs. A criterion reaches other ranks only through it.

    training: False in evaluation. update: number of the update. progress: share of the run done, in [0, 1].
    micro_batch: index within the update. prepared: what this component's `prepare` returned for this micro-batch.
    encode(view, mode=..., ema=..., network=...): an extra encoder call (virtual adversarial noise; a learned noiser's
    own network by default); views of the plan are already encoded. mode: "train", "quiet" (no dropout) or "teacher" (no
    dropout, no gradient). head(path, mode=..., ema=...): a sub-module of a criterion by 'label' or 'label.attribute',
    to be called. gather(tensor): [B, ...] -> the rows of all ranks [N, ...], differentiable, and int64 [B], which rows
    are this rank's; in evaluation the rank's own alone. over_update(name): the rows that `prepare` returned under this name
    over all micro-batches and ranks in draw order [N, ...], and int64 [B], which rows are this micro-batch's.
    count(term): the global count of one of this component's own terms in this update (training only).
    log_probs(view, text), budget: see `Criterion.log_probs`; there only when text is scored.
    """

    seed: int
    training: bool
    update: int
    progress: float
    micro_batch: int = 0
    encode: Callable[..., Encoded]
    head: Callable[..., Callable[..., Any]]
    gather: Callable[[Tensor], tuple[Tensor, Tensor]]
    over_update: Callable[[str], tuple[Tensor, Tensor]]
    count: Callable[[str], float]
    prepared: Mapping[str, Any] = field(default_factory=dict)
    log_probs: Callable[..., Tensor] | None = None
    budget: int = 0
