"""What the engine passes to components: `BuildContext` during construction, `Context` while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from fwk.contracts.encoder import Encoder
from fwk.contracts.plain import PlainMapping
from fwk.contracts.views import Encoded, View
from fwk.errors import ConfigError

# "train": dropout and gradient as usual; "quiet": no dropout; "teacher": neither dropout nor gradient
Mode = Literal["train", "quiet", "teacher"]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Size and special ids of the tokenizer. An id of -1 means that the tokenizer has no such token."""

    size: int
    pad: int = -1
    cls: int = -1
    sep: int = -1
    mask: int = -1
    unk: int = -1
    special: tuple[int, ...] = ()  # all special ids
    # float64 [V], occurrences in the training data, if the task knows them
    counts: Tensor | None = None
    fingerprint: str = ""  # of the tokenizer; empty: the task does not know it


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What the engine passes to the constructor of a component."""

    name: str = ""  # label of the criterion or name of the view that the component is built for
    key: str = ""  # where its options stand in the config, for error messages
    of: str = ""  # name of the source view, for noisers
    seed: int = 0
    vocabulary: Vocabulary | None = None  # of the task's tokens; None: the task has none
    length: int = 0  # tokens of the task's longest sequence; 0: unbounded
    # values of each label of the task
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_kinds: Mapping[str, str] = field(default_factory=dict)  # `Task.label_kinds()`
    label_counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of the task
    # `Task.label_words()`
    label_words: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    taught: tuple[str, ...] = ()  # `Task.taught()`
    # shape of one example, by input
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # `Task.source_names()`; `Batch.source` holds positions in it
    missing_sources: Mapping[str, str] = field(default_factory=dict)  # `Task.missing_sources()`
    # the encoder of the views that the component reads; for a further network, the main encoder
    encoder: Encoder | None = None
    network: Encoder | None = None  # the network of a learned noiser
    # for encoders: what `Encoder.assets` returned when the run began; None: the run begins now
    assets: Mapping[str, bytes] | None = None

    def require_vocabulary(self) -> Vocabulary:
        """Return the vocabulary. Raises ConfigError where the task has none."""
        if self.vocabulary is None:
            raise ConfigError(self.key or self.name, "reads tokens, and the task has no vocabulary")
        return self.vocabulary

    def require_encoder(self) -> Encoder:
        """Return the encoder. Raises ConfigError where the component is built without one."""
        if self.encoder is None:
            raise ConfigError(self.key or self.name, "needs an encoder, and is built without one")
        return self.encoder


class Encode(Protocol):
    """The type of `Context.encode`."""

    def __call__(
        self,
        view: View,
        mode: Mode = "train",
        ema: bool = False,
        network: str | None = None,
        states: Sequence[str] | None = None,
    ) -> Encoded:
        """Return the encodings of `view` by an extra encoder call.

        ema: encode with the moving average of the weights. network: name of the network; None: that of a learned
        noiser, otherwise the main encoder. states: the encoder states to return; None: all that criteria read.
        """


class FindHead(Protocol):
    """The type of `Context.head`."""

    def __call__(self, path: str, mode: Mode = "train", ema: bool = False) -> Callable[..., Any]:
        """Return a sub-module of a criterion, to be called. path: 'label' or 'label.attribute'."""


@dataclass(kw_only=True)
class Context:
    """What the engine passes to the methods of a component. Other ranks are reached only through it."""

    seed: int
    training: bool  # False in evaluation
    update: int  # number of the update
    progress: float  # share of the run that is done, in [0, 1]
    micro_batch: int = 0  # index within the update
    # an extra encoder call, such as for virtual adversarial noise or a learned noiser's network. The views that a
    # criterion reads are encoded already
    encode: Encode
    head: FindHead
    # [B, ...] -> the rows of all ranks [N, ...], differentiable, and int64 [B], the places of this rank's rows among
    # them. In evaluation: this rank's rows alone
    gather: Callable[[Tensor], tuple[Tensor, Tensor]]
    # name -> the rows that `prepare` returned under this name for all micro-batches and ranks, in the order of draws
    # [N, ...], and int64 [B], the places of this micro-batch's rows among them
    over_update: Callable[[str], tuple[Tensor, Tensor]]
    # term -> the global count of one of this component's loss terms in this update; only in training
    count: Callable[[str], float]
    # what `prepare` returned for this micro-batch
    prepared: PlainMapping = field(default_factory=dict)
    # label of a criterion -> what it teaches about the rows of this micro-batch (`Criterion.teach`), without gradient
    teacher: Callable[[str], Mapping[str, Tensor]] | None = None
    # only for `Criterion.log_probs`: (name of a view, text) -> log-probabilities by the noiser of that view, [B, T]
    log_probs: Callable[[str, View], Tensor] | None = None
    budget: int = 0  # only for `Criterion.log_probs`: the most tokens in one call of `encode`
