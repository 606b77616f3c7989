"""The sentences that a run trains on, and those that it is evaluated on."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fwk.contracts.keyed import fold, mix_array
from fwk.data.store import is_store
from fwk.errors import DataError
from fwk_plugins.cvt.corpora import readers
from fwk_plugins.cvt.corpora.labelled_sets import HELD_OUT, LabelledSet
from fwk_plugins.cvt.corpora.packed import Packed
from fwk_plugins.cvt.corpora.readers import Sentence
from fwk_plugins.cvt.logs import logger

BySet = dict[str, list[Sentence]]  # sentences by labelled set


@dataclass
class Corpus:
    """All sentences of a task."""

    train: BySet = field(default_factory=dict)  # training sentences that keep their labels
    held_out: dict[str, BySet] = field(default_factory=dict)  # by split
    # training sentences that lose their labels (`fraction`); they are trained on as unlabelled text
    without_labels: list[Sentence] = field(default_factory=list)
    unlabelled: Packed = field(default_factory=Packed)  # the latter, then the unlabelled text

    def labelled(self) -> list[Sentence]:
        """Return the training sentences that keep their labels, set by set."""
        return [sentence for sentences in self.train.values() for sentence in sentences]

    def held_out_sentences(self) -> Iterator[Sentence]:
        for by_set in self.held_out.values():
            for sentences in by_set.values():
                yield from sentences

    def fingerprint(
        self, words: list[str], label_spaces: dict[str, tuple[str, ...]], weights: str
    ) -> str:
        """Return the hash of everything that training reads. weights: digest of a frozen encoder's weights.

        The order of what is hashed must not change, or no run could be resumed.
        """
        digest = hashlib.sha256(repr((words, label_spaces)).encode())
        for sentence in (*self.labelled(), *self.without_labels):
            columns = sorted(sentence.columns.items())
            digest.update(repr((sentence.words, sentence.heads, columns)).encode())
        for number in range(len(self.without_labels), len(self.unlabelled)):
            digest.update(repr((self.unlabelled.words(number), None, [])).encode())
        digest.update(weights.encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class TrainingFilter:
    """Which sentences are trained on: those that are short enough, and not held out."""

    longest: int  # words
    held_out: frozenset[str]  # sentences that are evaluated, words joined by spaces

    def accepted(self, sentences: Iterable[Sentence], path: str) -> Iterator[Sentence]:
        """Yield the sentences of a file that are trained on, then say how many were left out, and why."""
        everything = long = evaluated = 0
        for sentence in sentences:
            everything += 1
            if len(sentence.words) > self.longest:
                long += 1
            elif " ".join(sentence.words) in self.held_out:
                evaluated += 1
            else:
                yield sentence
        if long or evaluated:
            logger.info(
                "%s: %s of %s sentences are not trained on; longer than %s words (task.length): %s, in a valid or test "
                "file (task.clean): %s",
                path,
                *(f"{n:,}" for n in (long + evaluated, everything, self.longest, long, evaluated)),
            )


def read_corpus(
    sets: Mapping[str, LabelledSet],
    unlabelled: Sequence[str],
    longest: int,
    clean: bool,
    seed: int,
) -> Corpus:
    """Read all files of a task.

    unlabelled: files, token stores or globs. longest: words of a training sentence. clean: do not train on sentences
    that are held out in any set. seed: decides which sentences keep their labels.
    """
    corpus = Corpus(held_out={split: read_held_out(sets, split) for split in HELD_OUT})
    held_out = {" ".join(s.words) for s in corpus.held_out_sentences()} if clean else set()
    training = TrainingFilter(longest, frozenset(held_out))

    for labelled_set in sets.values():
        sentences = _training_sentences(labelled_set, training)
        keep = keeps_labels(labelled_set, len(sentences), seed)
        corpus.train[labelled_set.name] = [s for s, kept in zip(sentences, keep) if kept]
        corpus.without_labels += [s for s, kept in zip(sentences, keep) if not kept]

    for sentence in corpus.without_labels:
        corpus.unlabelled.add(sentence.words)
    for pattern in unlabelled:
        _add_unlabelled(corpus.unlabelled, pattern, training)
    return corpus


def read_held_out(sets: Mapping[str, LabelledSet], split: str) -> BySet:
    """Return the sentences of a split that is held out, for the sets that have one."""
    sentences = {}
    for labelled_set in sets.values():
        path = labelled_set.file_of(split)
        if path:
            sentences[labelled_set.name] = labelled_set.read(path)
    return sentences


def keeps_labels(labelled_set: LabelledSet, count: int, seed: int) -> np.ndarray:
    """Return which of `count` sentences keep their labels, bool [count].

    It is fraction * count of them, rounded up, chosen by a keyed order: a larger fraction contains a smaller one.
    """
    start = np.uint64(fold(seed, "labelled", labelled_set.name))
    ranks = mix_array(np.arange(count, dtype=np.uint64) + start)
    kept = int(np.ceil(labelled_set.config.fraction * count - 1e-9))
    keep = np.zeros(count, dtype=bool)
    keep[np.argsort(ranks, kind="stable")[:kept]] = True
    return keep


def _training_sentences(labelled_set: LabelledSet, training: TrainingFilter) -> list[Sentence]:
    """Return the accepted sentences of a set's training file. Raises DataError where there are none."""
    path = labelled_set.config.path
    everything = labelled_set.read(path)
    sentences = list(training.accepted(everything, path))
    if not sentences:
        long = sum(len(sentence.words) > training.longest for sentence in everything)
        raise DataError(
            f"no sentence of {path} ({labelled_set.key}) is left to train on: {long} have more than {training.longest} "
            f"words (task.length), {len(everything) - long} are in a valid or test file (task.clean)"
        )
    return sentences


def _add_unlabelled(packed: Packed, pattern: str, training: TrainingFilter) -> None:
    """Add the accepted sentences of the files that match a glob. Raises DataError for a file without any."""
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise DataError(f"task.unlabelled: no file matches {pattern}")
    for path in paths:
        before = len(packed)
        for sentence in training.accepted(_unlabelled_sentences(path), path):
            packed.add(sentence.words)
        if len(packed) == before:
            outside = " outside of the valid and test files (task.clean)"
            raise DataError(
                f"task.unlabelled: {path} contains no sentence of at most {training.longest} words (task.length)"
                f"{outside if training.held_out else ''}"
            )


def _unlabelled_sentences(path: str) -> Iterator[Sentence]:
    if not is_store(path):
        return readers.read_plain(path)
    if readers.is_lower_case(path):
        logger.warning(
            "the text of the token store %s is in lower case; the characters of labelled words are not",
            path,
        )
    return readers.read_store(path)
