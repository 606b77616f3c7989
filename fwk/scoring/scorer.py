"""The scorer: sequences of tokens -> a log-probability per token, from a component of a checkpoint.

A criterion or noiser computes it in `log_probs`. This module selects the component, frames text as in training, and
passes batches of sequences of one length, so that nothing is ever padded.

Letters: B sequences, T positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from fwk.contracts.criterion import Criterion
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import convert, schema_of
from fwk.contracts.plain import PlainMapping
from fwk.contracts.views import View
from fwk.data.tokenizers import Tokenizer
from fwk.engine.loaded import Loaded
from fwk.engine.precision import Precision
from fwk.engine.update import Update
from fwk.errors import ConfigError, DataError, RunError, did_you_mean

RELEASE_EVERY = 8  # calls after which free memory is returned to the system
# texts are cut to so many characters per position before they are tokenized, which is far more than can be used
_CHARACTERS_IF_CUT, _CHARACTERS_IF_LENIENT = 1000, 4000


def _release_memory() -> None:
    """Return free memory to the system: batches of many lengths fragment the heap of glibc, which then grows."""
    with suppress(OSError, AttributeError):  # other C libraries lack this function
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class ScoredText:
    """A piece of text to be scored, and where it comes from."""

    text: str
    file: str  # '-' for standard input
    line: int  # from 1
    part: str = ""  # of the line, as in "utterance 'a1'"

    @property
    def where(self) -> str:
        """The place of the text, for messages."""
        return place(self.file, self.line) + (f", {self.part}" if self.part else "")


def place(file: str, line: int) -> str:
    """Return a line of a file in words."""
    return f"{'standard input' if file == '-' else file}, line {line}"


@dataclass(frozen=True)
class Scored:
    """The score of a text, token by token. Both fields are empty where the text could not be scored."""

    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]  # one per token, in nats

    @property
    def score(self) -> float | None:
        """The log p of the text, the sum over its tokens; None where it could not be scored."""
        return float(np.sum(self.log_probs)) if self.log_probs else None


class Scorer:
    """Scores text with one component of a loaded checkpoint.

    by: the label of a criterion, or the name of a view whose noiser knows probabilities (default: the only such
    criterion, or else the only such view). options: of that component's scoring, by name. budget: most tokens that are
    encoded in one call. Raises ConfigError where no component can score, or the named one cannot.
    """

    def __init__(
        self,
        loaded: Loaded,
        by: str | None = None,
        options: PlainMapping | None = None,
        budget: int = 16384,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        if loaded.tokenizer is None:
            raise ConfigError(
                "task",
                f"{loaded.folder} was trained on a task without text, which cannot be scored",
            )
        self.loaded, self.budget, self.device = loaded, budget, torch.device(device)
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.task = loaded.task
        self.module = loaded.module.to(self.device).eval()
        self.by = self._choose(by)
        loaded.require_trained(
            self.by, "--by", "train it first, or score by a part that was trained"
        )
        is_criterion = self.by in self.module.criteria
        self.path = f"criteria.{self.by}" if is_criterion else f"learned.{self.by}"
        self.component = cast(
            "Criterion[Any] | Noiser[Any]",
            self.module.criteria[self.by] if is_criterion else self.module.noisers[self.by],
        )
        self.options = self._options(options or {})
        self.precision = Precision(precision, self.device)
        self._calls = 0

    def _choose(self, by: str | None) -> str:
        """Return the name of the component that scores. Raises ConfigError where it is not clear, or cannot score."""
        module = self.module
        criteria = [
            label
            for label, criterion in module.criteria.items()
            if isinstance(criterion, Criterion)
            and type(criterion).log_probs is not Criterion.log_probs
        ]
        views = [
            name
            for name, noiser in module.noisers.items()
            if type(noiser).log_probs is not Noiser.log_probs
        ]
        if by is not None:
            if by not in criteria + views:
                self._refuse(by, criteria + views)
            return by
        candidates = criteria or views
        if not candidates:
            raise ConfigError(
                "--by",
                f"no component of {self.loaded.folder} can score text (its criteria: "
                f"{', '.join(module.criteria)})",
            )
        if len(candidates) > 1:
            raise ConfigError(
                "--by", f"several components can score text; name one of {', '.join(candidates)}"
            )
        return candidates[0]

    def _refuse(self, by: str, candidates: Sequence[str]) -> None:
        """Raise ConfigError for a component that does not exist, or cannot score."""
        problem = "is neither a criterion nor a view"
        if by in self.module.criteria or by in self.module.noisers:
            problem = "cannot score text"
        raise ConfigError(
            "--by",
            f"'{by}' {problem}; components that can: {', '.join(candidates) or 'none'}"
            f"{did_you_mean(by, candidates, everything_up_to=0)}",
        )

    def _options(self, given: PlainMapping) -> Any:  # the component's own class `Scoring`
        """Return the options of the component's scoring. Raises ConfigError for an unknown name or a wrong value."""
        schema = {field.name: field for field in schema_of(type(self.component).Scoring)}
        values = {name: field.default for name, field in schema.items()}
        for name, value in given.items():
            if name not in schema:
                subject = "has no such option" if schema else "takes no options"
                raise ConfigError(
                    name, f"scoring by '{self.by}' {subject}{did_you_mean(name, schema)}"
                )
            values[name] = convert(value, schema[name], name)
        return type(self.component).Scoring(**values)

    @property
    def longest(self) -> int:
        """The most tokens that the encoders read at once, [CLS] and [SEP] included; 0: any number."""
        return self.module.encoding.longest

    def encode(
        self, texts: Sequence[ScoredText], cut: bool = False, lenient: bool = False
    ) -> list[np.ndarray]:
        """Return framed ids, int64 [T] each.

        cut: text that is too long is cut. lenient: text without tokens, or too long, gives an empty array. Otherwise
        such text raises DataError, which names its place.
        """
        if self.longest and (cut or lenient):  # the rest of a long text need not be tokenized
            most = (_CHARACTERS_IF_CUT if cut else _CHARACTERS_IF_LENIENT) * self.longest
            texts = [replace(text, text=text.text[:most]) for text in texts]
        encoded = self.tokenizer.encode_batch([text.text for text in texts])
        rows = []
        for text, ids in zip(texts, encoded, strict=True):
            row = self._framed(ids)
            excess = len(row) - self.longest if self.longest else 0
            if excess > 0 and cut:
                row, excess = self._framed(ids[: len(ids) - excess]), 0
            if ids and excess <= 0:
                rows.append(row)
            elif lenient:
                rows.append(row[:0])
            else:
                raise self._unusable(text, len(row) if ids else 0)
        return rows

    def _framed(self, ids: Sequence[int]) -> np.ndarray:
        return self.task.framed(np.asarray(ids, dtype=np.int64))

    def _unusable(self, text: ScoredText, tokens: int) -> DataError:
        """Return the error for a text with so many tokens."""
        if not tokens:
            return DataError(f"{text.where}: the text has no tokens; expected some text")
        return DataError(
            f"{text.where}: the text has {tokens:,} tokens with [CLS] and [SEP], more than the {self.longest:,} that "
            "the model reads; expected shorter text (or --cut, or --lenient)"
        )

    @torch.inference_mode()
    def log_probs(self, rows: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the ids that stand for text, int64 [n], and their log p, float64 [n], of each row.

        rows: framed ids [T] of any lengths.
        """
        results = [(row[:0], np.zeros(0)) for row in rows]
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            if len(row):
                by_length.setdefault(len(row), []).append(number)
        # the largest call comes first, so that insufficient memory shows at once
        for length in sorted(by_length, reverse=True):
            numbers, size = by_length[length], max(1, self.budget // length)
            for start in range(0, len(numbers), size):
                self._calls += 1
                if self._calls % RELEASE_EVERY == 0:
                    _release_memory()
                chosen = numbers[start : start + size]
                batch = self._log_probs_of_batch(np.stack([rows[number] for number in chosen]))
                for number, result in zip(chosen, batch, strict=True):
                    results[number] = result
        return results

    def _log_probs_of_batch(self, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the same as `log_probs`, for rows of one length, int64 [B, T]."""
        batch, update = self.task.batch_of(ids), Update(split="score")
        # nothing is prepared: `log_probs` receives its views as far as they are known without a network
        micro = self.module.begin(
            self.module.static_of_this_phase(batch, update.split), index=0, update=update
        )
        context = self.module.contexts.for_scoring(self.path, micro, update, self.budget)
        # all rows have one length, so nothing is padded
        text = View.from_batch(batch, "text").replace(mask=None).to(self.device)
        with self.precision.autocast():
            values = self.component.log_probs(text, micro.views, self.options, context)  # [B, T]
        assert batch.special is not None
        rows = zip(ids, ~batch.special.numpy(), values.double().cpu().numpy(), strict=True)
        return [(row[ordinary], value[ordinary]) for row, ordinary, value in rows]

    def __call__(
        self, texts: Sequence[ScoredText], cut: bool = False, lenient: bool = False
    ) -> list[Scored]:
        """Return the scores of texts, in order. cut, lenient: see `encode`."""
        results = []
        for ids, values in self.log_probs(self.encode(texts, cut, lenient)):
            if not np.isfinite(values).all():
                raise RunError(
                    f"'{self.by}' returned a log-probability that is not finite; check that the checkpoint is trained"
                )
            tokens = tuple(self.tokenizer.token(int(index)) for index in ids)
            results.append(Scored(tokens, tuple(map(float, values))))
        return results
