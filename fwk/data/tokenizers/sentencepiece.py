"""Tokenizers of the library sentencepiece: unigram and BPE."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fwk.contracts.plain import PlainDict
from fwk.data.tokenizers.base import (
    Span,
    Tokenizer,
    nothing_to_train_on,
    save_files,
    shorten,
    spans_without_space,
)
from fwk.errors import DataError
from fwk.limits import SystemLimit, explain, require_threads

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

_LONGEST = 16384  # bytes of a text that the trainer reads
_OPTIONS: PlainDict = {  # of the trainer, whose options have many types
    "hard_vocab_limit": False,
    "character_coverage": 0.9999,
    "max_sentence_length": _LONGEST,
    "minloglevel": 4,
    "shuffle_input_sentence": False,
    "unk_surface": "[UNK]",
    "control_symbols": ["[MASK]"],
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "pad_piece": "[PAD]",
    "unk_piece": "[UNK]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
}


_NO_CHARACTERS = "(all_chars_count) > (0)"  # part of the library's message
_PLACE = re.compile(r"^\w+: \S+\.cc\(\d+\) ")  # in the library's sources, before its message


class SentencePiece(Tokenizer):
    """A sentencepiece model (unigram or BPE), held as the bytes of its `.model` file so that it pickles to workers."""

    kind = "sentencepiece"

    def __init__(self, proto: bytes, where: str = "tokenizer.model", lower: bool = False) -> None:
        """Parse a model. where: its name in messages. lower: whether text is lower-cased before it is encoded."""
        import sentencepiece

        self._proto, self.lower = proto, lower
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
            self._size = self._processor.get_piece_size()
        except (RuntimeError, ValueError, TypeError) as error:
            raise DataError(f"{where} is not a sentencepiece model ({shorten(error)})") from None
        if self._size == 0:
            raise DataError(f"{where} is not a sentencepiece model (it has no pieces)")

        self._find_special()
        if self.pad < 0 and self._processor.pad_id() >= 0:
            self.pad = self._processor.pad_id()
        if self.unk < 0:
            self.unk = self._processor.unk_id()
        self._specials = tuple(
            index
            for index in range(self._size)
            if self._processor.is_control(index) or self._processor.is_unknown(index)
        )
        preparation = b"lower" if lower else b""
        self._fingerprint = hashlib.sha256(b"sentencepiece" + preparation + proto).hexdigest()

    def __reduce__(self) -> tuple[type[SentencePiece], tuple[bytes, str, bool]]:
        return SentencePiece, (self._proto, "tokenizer.model", self.lower)

    @property
    def size(self) -> int:
        return self._size

    @property
    def special(self) -> tuple[int, ...]:
        return tuple(sorted({*self._specials, *super().special}))

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text.lower() if self.lower else text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        if self.lower:
            texts = [text.lower() for text in texts]
        return self._processor.encode(list(texts), num_threads=1)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        result = []
        for text in texts:
            prepared = text.lower() if self.lower else text
            ids, tokens, spans = _pieces_with_spans(self._processor, prepared)
            if len(prepared) != len(text):
                spans = _spans_before_lower(text, spans)
            result.append((ids, spans_without_space(text, tokens, spans)))
        return result

    def decode(self, ids: Iterable[int]) -> str:
        hidden = {self.pad, self.cls, self.sep}
        parts: list[str] = []
        ordinary: list[int] = []  # ids since the last [MASK] or [UNK]
        for index in map(int, ids):
            if index in hidden:
                continue
            if index not in (self.mask, self.unk):
                ordinary.append(index)
                continue
            if ordinary:
                parts.append(self._processor.decode(ordinary))
                ordinary = []
            parts.append(self.token(index))
        if ordinary:
            parts.append(self._processor.decode(ordinary))
        return " ".join(parts)

    def token(self, index: int) -> str:
        return self._processor.id_to_piece(int(index))

    def id(self, token: str) -> int:
        index = self._processor.piece_to_id(token)  # the id of [UNK] for an unknown piece
        known = 0 <= index < self._size and self._processor.id_to_piece(index) == token
        return index if known else -1

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def save(self, folder: str | Path) -> None:
        meta = {
            "format": 1,
            "library": "sentencepiece",
            "file": "tokenizer.model",
            "lower": self.lower,
            "fingerprint": self.fingerprint,
        }
        save_files(Path(folder), {"tokenizer.model": self._proto}, meta)


def _pieces_with_spans(
    processor: SentencePieceProcessor, text: str
) -> tuple[list[int], list[str], list[Span]]:
    """Return the ids of a text, their pieces, and their spans of characters, as the library gives them."""
    try:
        found = processor.encode(text, out_type="offset_mapping")
    except RuntimeError:  # older versions have another name for it, which newer ones refuse
        found = processor.encode(text, out_type="immutable_proto")  # type: ignore[arg-type]
        pieces = found.pieces
        return (
            [piece.id for piece in pieces],
            [piece.piece for piece in pieces],
            [(piece.begin, piece.end) for piece in pieces],
        )
    return found["ids"], found["pieces"], found["offsets"]


def _spans_before_lower(text: str, spans: Iterable[Span]) -> list[Span]:
    """Return the spans in `text` of spans in `text.lower()`, which may be longer."""
    # what a character becomes may depend on its neighbours, but its length does not
    origin = [index for index, character in enumerate(text) for _ in character.lower()]
    origin.append(len(text))
    return [
        (origin[begin], origin[end - 1] + 1 if end > begin else origin[begin])
        for begin, end in spans
    ]


def train_sentencepiece(
    texts: Iterable[str], kind: str, size: int, lower: bool, threads: int
) -> SentencePiece:
    """Return a trained tokenizer of kind unigram or bpe.

    Where the text does not support `size` tokens, the largest vocabulary that it supports is trained instead, if
    `texts` can be read twice. Raises DataError where training fails.
    """
    try:
        return _train(texts, kind, size, lower, threads)
    except RuntimeError as error:
        largest = _largest_size(str(error))
        if largest is None:
            raise _training_failed(kind, size, error) from None
    if not isinstance(texts, Sequence):
        raise DataError(
            f"the text is too small for a {kind} vocabulary of {size}; the largest is {largest}"
        )
    try:
        return _train(texts, kind, largest, lower, threads)
    except RuntimeError as error:
        raise _training_failed(kind, largest, error) from None


def _train(texts: Iterable[str], kind: str, size: int, lower: bool, threads: int) -> SentencePiece:
    """Train once. Raises DataError where there is no text, RuntimeError where the library fails."""
    import sentencepiece

    # the library aborts where it cannot start them; it may begin a pool of threads before the last one has ended
    require_threads(2 * threads + 1, "lower --processes")
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for piece in _pieces(texts):
            count += 1
            yield piece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted(),
            model_writer=model,
            vocab_size=size,
            model_type=kind,
            num_threads=threads,
            normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
            **_OPTIONS,
        )
    except RuntimeError as error:
        if count == 0 or _NO_CHARACTERS in str(error):
            raise nothing_to_train_on() from None
        raise
    return SentencePiece(model.getvalue())


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts cut to a length that the trainer does not skip, without empty ones and zero bytes."""
    for text in texts:
        text = text.strip().replace("\x00", "")
        for start in range(0, len(text), _LONGEST // 4):
            yield text[start : start + _LONGEST // 4]


def _training_failed(kind: str, size: int, error: RuntimeError) -> DataError | SystemLimit:
    limit = explain(error)
    if limit is not None:
        return SystemLimit(limit)
    return DataError(
        f"sentencepiece could not train a {kind} vocabulary of {size}: {_PLACE.sub('', shorten(error))}"
    )


def _largest_size(message: str) -> int | None:
    """Return the size of vocabulary that a message of sentencepiece proposes; None where it proposes none.

    The message is 'Please set it to a value <= N' when the text does not support the requested size, and 'Vocabulary
    size is smaller than required_chars. N vs M' when the characters alone are more.
    """
    for pattern in (r"value <= (\d+)", r"required_chars\.?\s+\d+ vs (\d+)"):
        match = re.search(pattern, message)
        if match:
            return int(match.group(1))
    return None
