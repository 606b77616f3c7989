"""Sequences of tokens -> a log-probability for each token, by whatever component of a checkpoint can say one.

A criterion or noiser that can says it in `log_probs`; this module finds it, frames text as in training, and hands it batches
of sequences of one length, so that nothing is ever padded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fwk.contracts.criterion import Criterion
from fwk.contracts.noiser import Noiser
from fwk.contracts.options import convert, schema_of
from fwk.contracts.views import View
from fwk.engine.precision import Precision
from fwk.engine.update import Update
from fwk.errors import ConfigError, DataError, RunError, did_you_mean
from fwk.runs.loaded import Loaded

GIVE_BACK = 8  # calls after which free memory goes back to the system


def _give_back() -> None:
    """Batches of many lengths leave holes in glibc's heap, and a heap that grows over gigabytes of text."""
    with suppress(OSError, AttributeError):  # the C library of another system has no such function
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class ScoredText:
    """One piece of text to be scored, and where it is from: file, line, and what in it, as in "utterance 'a1'"."""

    text: str
    file: str
    line: int
    what: str = ""

    @property
    def where(self) -> str:
        return place(self.file, self.line) + (f", {self.what}" if self.what else "")


def place(file: str, line: int) -> str:
    return f"{'standard input' if file == '-' else file}, line {line}"


@dataclass(frozen=True)
class Scored:
    """tokens: the pieces of the text. log_probs: one per piece, in nats. Both empty for text that could not be scored."""

    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]

    @property
    def score(self) -> float | None:
        """log p of the text: the sum over its tokens; None for none."""
        return float(np.sum(self.log_probs)) if self.log_probs else None


class Scorer:
    """Scores text with one component of a loaded checkpoint.

    by: a criterion's label, or the name of a view whose noiser knows probabilities (default: the only criterion that does, or
    else the only such view). options: of that component's scoring, by name. budget: tokens that are encoded in one call.
    ConfigError where nothing can score, or what is named cannot.
    """

    def __init__(
        self,
        loaded: Loaded,
        by: str | None = None,
        options: Mapping[str, Any] | None = None,
        budget: int = 16384,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ):
        self.loaded, self.budget, self.device = loaded, budget, torch.device(device)
        self.module = loaded.module.to(self.device).eval()
        if loaded.tokenizer is None:
            raise ConfigError(
                "task",
                f"{loaded.folder} was trained on a task without text, which cannot be scored",
            )
        self.by = self._chosen(by)
        self.path = (
            f"criteria.{self.by}" if self.by in self.module.criteria else f"learned.{self.by}"
        )
        self.component = (
            self.module.criteria if self.by in self.module.criteria else self.module.noisers
        )[self.by]
        self.options = self._options(options or {})
        self.precision = Precision(precision, self.device)
        self.task = loaded.task
        self._calls = 0

    def _chosen(self, by: str | None) -> str:
        criteria = {
            name: one
            for name, one in self.module.criteria.items()
            if type(one).log_probs is not Criterion.log_probs
        }
        views = {
            name: one
            for name, one in self.module.noisers.items()
            if type(one).log_probs is not Noiser.log_probs
        }
        if by is not None:
            if by not in {**criteria, **views}:
                there = [*self.module.criteria, *self.module.noisers]
                said = (
                    "cannot say how likely a token is"
                    if by in there
                    else "is neither a criterion nor a view"
                )
                raise ConfigError(
                    "--by",
                    f"'{by}' {said}; what can: {', '.join([*criteria, *views]) or 'nothing here'}"
                    f"{did_you_mean(by, [*criteria, *views], everything_up_to=0)}",
                )
            return by
        found = criteria or views
        if len(found) == 1:
            return next(iter(found))
        if not found:
            raise ConfigError(
                "--by",
                f"nothing in {self.loaded.folder} can say how likely a token is (its criteria: "
                f"{', '.join(self.module.criteria)})",
            )
        raise ConfigError(
            "--by", f"several can say how likely a token is; name one of {', '.join(found)}"
        )

    def _options(self, said: Mapping[str, Any]) -> Any:
        schema = {field.name: field for field in schema_of(type(self.component).Scoring)}
        values = {name: field.default for name, field in schema.items()}
        for name, value in said.items():
            if name not in schema:
                subject = "has no such option" if schema else "takes no options"
                raise ConfigError(
                    name, f"scoring by '{self.by}' {subject}{did_you_mean(name, schema)}"
                )
            values[name] = convert(value, schema[name], name)
        return type(self.component).Scoring(**values)

    @property
    def longest(self) -> int:
        """Tokens that the encoders can read at once, [CLS] and [SEP] included; 0: any number."""
        return self.module.encoding.longest

    def encode(
        self, texts: Sequence[ScoredText], cut: bool = False, lenient: bool = False
    ) -> list[np.ndarray]:
        """Framed ids, int64 [T] each; empty where there is nothing to score and `lenient`. DataError names the place of
        text without tokens, and of text that is too long unless it may be `cut`."""
        rows = []
        if self.longest and (
            cut or lenient
        ):  # what is cut, or not scored, need not be tokenized to its end
            most = (1000 if cut else 4000) * self.longest
            texts = [
                text if len(text.text) <= most else replace(text, text=text.text[:most])
                for text in texts
            ]
        for text, ids in zip(
            texts, self.loaded.tokenizer.encode_batch([text.text for text in texts]), strict=True
        ):
            row = self.task.framed(np.asarray(ids, dtype=np.int64))
            if self.longest and len(row) > self.longest and cut:
                row = self.task.framed(
                    np.asarray(ids[: len(ids) - (len(row) - self.longest)], dtype=np.int64)
                )
            fault = (
                "has no tokens"
                if not ids
                else (
                    f"has {len(row):,} tokens with [CLS] and [SEP], more than the {self.longest:,} that the model reads"
                    if self.longest and len(row) > self.longest
                    else None
                )
            )
            if fault and not lenient:
                raise DataError(
                    f"{text.where}: the text {fault}; expected "
                    + ("some text" if not ids else "shorter text (or --cut, or --lenient)")
                )
            rows.append(row if not fault else row[:0])
        return rows

    @torch.inference_mode()
    def log_probs(self, rows: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each row of framed ids [T]: those that stand for text, int64 [n], and log p of each, float64 [n]."""
        found = [(row[:0], np.zeros(0)) for row in rows]
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            if len(row):
                by_length.setdefault(len(row), []).append(number)
        for length in sorted(
            by_length, reverse=True
        ):  # the largest call first: if memory does not suffice, at once
            numbers, size = by_length[length], max(1, self.budget // length)
            for start in range(0, len(numbers), size):
                self._calls += 1
                if self._calls % GIVE_BACK == 0:
                    _give_back()
                chosen = numbers[start : start + size]
                made = self._batch(np.stack([rows[number] for number in chosen]))
                for number, values in zip(chosen, made, strict=True):
                    found[number] = values
        return found

    def _batch(self, ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of rows of one length, int64 [B, T]."""
        batch, update = self.task.batch_of(ids), Update(split="score")
        views = self.module.static_of_this_phase(batch, update.split)
        micro = self.module.begin(views, 0, update)
        context = self.module.contexts.for_scoring(self.path, micro, update, self.budget)
        text = (
            View.from_batch(batch, "text").replace(mask=None).to(self.device)
        )  # all of one length
        with self.precision.autocast():
            values = self.component.log_probs(text, micro.views, self.options, context)
        rows = zip(ids, ~batch.special.numpy(), values.double().cpu().numpy(), strict=True)
        return [(row[ordinary], value[ordinary]) for row, ordinary, value in rows]

    def __call__(
        self, texts: Sequence[ScoredText], cut: bool = False, lenient: bool = False
    ) -> list[Scored]:
        """What is said of each text, in order; `encode` says what cut and lenient mean."""
        scored = []
        for ids, values in self.log_probs(self.encode(texts, cut, lenient)):
            if not np.isfinite(values).all():
                raise RunError(
                    f"'{self.by}' gave a log-probability that is not finite; was the checkpoint trained as it should be?"
                )
            scored.append(
                Scored(
                    tuple(self.loaded.tokenizer.token(int(one)) for one in ids),
                    tuple(map(float, values)),
                )
            )
        return scored
