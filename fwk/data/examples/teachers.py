"""A teacher's stored outputs, matched to the examples of training.

A teacher may have read other tokens than its student. What must agree is what both were asked: the key, the texts and
the labels of each example, and the classes. Windows of one example are matched in their order, so there must be as
many; answers in a text are logits of its tokens, so their teacher needs the student's tokenizer, too. A choice of
examples (`fraction`, `per_class`) has a teacher for more of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fwk.data.examples.encoded import EncodedExamples
from fwk.data.examples.labels import LabelSpace
from fwk.data.targets import UNKNOWN, StoredTargets, hashed_keys, read_targets
from fwk.errors import ConfigError, DataError, did_you_mean

KEY = "task.teacher"
_HOW = "fwk-evaluate RUN --split train --targets FILE writes them"


def with_teacher(
    encoded: Mapping[str, EncodedExamples],
    spaces: Mapping[str, LabelSpace],
    tokenizer: str,
    path: Path,
) -> dict[str, EncodedExamples]:
    """Return the sources of training with a teacher's outputs for their labels.

    tokenizer: its fingerprint. Raises ConfigError for a file that is missing or without labels to learn, and DataError
    for one of other examples, labels or classes.
    """
    if not spaces:
        raise ConfigError(KEY, "the task has no label that a teacher could teach")
    if not path.is_file():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(
            KEY,
            f"there is no file {path}; {_HOW}{did_you_mean(path.name, names, everything_up_to=0)}",
        )
    stored = read_targets(path)
    matched = {}
    for name, examples in encoded.items():
        source = _source_of(stored, examples)
        rows = _matched_rows(stored, source, examples, path)
        teacher = _Teacher(stored, source, path, tokenizer)
        taught = {label: teacher.outputs(space, examples, rows) for label, space in spaces.items()}
        matched[name] = replace(examples, taught=taught)
    return matched


def _source_of(stored: StoredTargets, examples: EncodedExamples) -> str:
    """Return the source of a file that holds these examples: of the same name, or that which has the first."""
    if examples.name in stored.keys or not len(examples.digests):
        return examples.name
    first = int(examples.digests[0])
    holding = [name for name, digests in stored.digests.items() if bool((digests == first).any())]
    return holding[0] if holding else next(iter(stored.keys), "")


def _matched_rows(
    stored: StoredTargets, source: str, examples: EncodedExamples, path: Path
) -> np.ndarray:
    """Return the row of the file for each example or window, int64 [len(examples)]."""
    if source not in stored.keys:
        raise DataError(f"{KEY}: {path} holds no example; {_HOW}")
    if bool((stored.digests[source] == UNKNOWN).any()):
        raise DataError(
            f"{KEY}: {path} does not say which texts its numbers belong to, as files of earlier versions; write it "
            f"again ({_HOW})"
        )
    rows: dict[tuple[int, int], list[int]] = {}
    pairs = zip(stored.keys[source].tolist(), stored.digests[source].tolist())
    for row, pair in enumerate(pairs):
        rows.setdefault(pair, []).append(row)
    owners = [examples.example_of(number) for number in range(len(examples))]
    hashed, digests = hashed_keys(examples.keys).tolist(), examples.digests.tolist()
    own: dict[tuple[int, int], list[int]] = {}
    for number, owner in enumerate(owners):
        own.setdefault((hashed[owner], digests[owner]), []).append(number)

    result = np.zeros(len(examples), dtype=np.int64)
    for pair, numbers in own.items():
        key = examples.keys[owners[numbers[0]]]
        if pair not in rows:
            raise DataError(f"{KEY}: {_missing(stored, source, pair[0], key, path)}")
        if len(rows[pair]) != len(numbers):
            raise DataError(
                f"{KEY}: {path} has {len(rows[pair])} windows of the example '{key}', and this task {len(numbers)}; "
                "expected the length, the stride and the tokenizer of the teacher"
            )
        result[numbers] = rows[pair]
    return result


def _missing(stored: StoredTargets, source: str, hashed: int, key: str, path: Path) -> str:
    """Return what is wrong where an example is not in a file."""
    if bool((stored.keys[source] == hashed).any()):
        return (
            f"{path} was made from other data: the example '{key}' has other texts or another label there; write it "
            f"again ({_HOW})"
        )
    return (
        f"{path} has no outputs for the example '{key}'; expected those for every training example ({_HOW}, of a "
        "teacher whose task has no smaller `fraction`)"
    )


@dataclass(frozen=True)
class _Teacher:
    """The outputs of one source of a file."""

    stored: StoredTargets
    source: str
    path: Path
    tokenizer: str  # fingerprint of the student's

    def outputs(self, space: LabelSpace, examples: EncodedExamples, rows: np.ndarray) -> np.ndarray:
        """Return the outputs for a label, float32 [len(examples), ...]."""
        label = self._label(space)
        values = self.stored.tensors[self.source][label].float().numpy()
        values = self._by_value(values, label, space)[rows]
        absent = np.isnan(values).reshape(len(values), -1).any(1) if len(values) else np.zeros(0)
        if absent.any():
            key = examples.keys[examples.example_of(int(np.argmax(absent)))]
            raise DataError(
                f"{KEY}: {self.path} has NaN for the example '{key}', so that its teacher predicts nothing there"
            )
        if space.kind == "choice":
            self._require_sizes(values, _choices(examples), "choices", examples)
        elif space.kind == "span":
            self._require_tokenizer()
            if examples.windows is not None and examples.windows.text == space.text:
                tokens = examples.windows.stops - examples.windows.starts
                self._require_sizes(values[:, 1:, 0], tokens, "tokens", examples)
        elif np.isinf(values).any():
            raise DataError(f"{KEY}: {self.path} has outputs for '{label}' that are not finite")
        return values

    def _label(self, space: LabelSpace) -> str:
        """Return the label of the file that is this one: of the same name, or the only one."""
        known = list(self.stored.tensors[self.source])
        if space.name in known:
            return space.name
        if len(known) == 1:
            return known[0]
        raise DataError(
            f"{KEY}: {self.path} has no outputs for the label '{space.name}'"
            f"{did_you_mean(space.name, known)}"
        )

    def _described(self, label: str) -> tuple[str, Sequence[str]]:
        """Return the kind and the values of a label, as the teacher's task has them."""
        labels = self.stored.origin.get("labels")
        described = labels.get(label) if isinstance(labels, Mapping) else None
        if not isinstance(described, Mapping) or not isinstance(described.get("values"), list):
            raise DataError(f"{KEY}: {self.path} does not say what the label '{label}' is; {_HOW}")
        return str(described.get("kind")), [str(value) for value in described["values"]]

    def _by_value(self, values: np.ndarray, label: str, space: LabelSpace) -> np.ndarray:
        """Return outputs in the order that the values of a label have here."""
        kind, theirs = self._described(label)
        if kind != space.kind:
            raise DataError(
                f"{KEY}: {self.path} is of a label of the kind '{kind}', and '{space.name}' is of the kind "
                f"'{space.kind}'"
            )
        if sorted(theirs) != sorted(space.values):
            raise DataError(
                f"{KEY}: {self.path} is of {len(theirs)} classes ({_listed(theirs)}), and the label '{space.name}' "
                f"has {len(space.values)} ({_listed(space.values)})"
            )
        expected: tuple[int | None, ...] = {
            "number": (),
            "choice": (None,),
            "span": (None, 2),
        }.get(space.kind, (len(space.values),))
        shape = values.shape[1:]
        if len(shape) != len(expected) or any(e not in (None, n) for e, n in zip(expected, shape)):
            raise DataError(
                f"{KEY}: {self.path} has outputs of the shape {list(shape)} for each example, which a label of the "
                f"kind '{space.kind}' does not have; write it again ({_HOW})"
            )
        if space.values and tuple(theirs) != space.values:
            return values[:, [theirs.index(name) for name in space.values]]
        return values

    def _require_sizes(
        self, values: np.ndarray, sizes: np.ndarray, what: str, examples: EncodedExamples
    ) -> None:
        """Raise DataError unless every row [M] has as many logits as this task has choices or tokens."""
        theirs = np.isfinite(values).sum(1)
        wrong = np.flatnonzero(theirs != sizes)
        if len(wrong):
            number = int(wrong[0])
            raise DataError(
                f"{KEY}: {self.path} has {theirs[number]} {what} for the example "
                f"'{examples.keys[examples.example_of(number)]}', and this task has {sizes[number]}"
            )

    def _require_tokenizer(self) -> None:
        if self.stored.origin.get("tokenizer") != self.tokenizer:
            raise DataError(
                f"{KEY}: {self.path} has logits of tokens, and its teacher has another tokenizer; expected one "
                "tokenizer for both (task.tokenizer)"
            )


def _choices(examples: EncodedExamples) -> np.ndarray:
    """Return the number of choices of each example or window, int64 [len(examples)]."""
    lists = next(text.lists for text in examples.texts.values() if text.lists is not None)
    counts = np.diff(lists)
    return counts if examples.windows is None else counts[examples.windows.examples]


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "none"
