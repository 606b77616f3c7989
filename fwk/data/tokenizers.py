"""Tokenizers behind one small interface. A saved tokenizer is a folder: the library's own file and
`fwk-tokenizer.json`, which says which library reads it and how text is prepared. Nothing is ever unpickled.

Kinds that can be trained: `unigram` and `bpe` (sentencepiece), `wordpiece` and `byte_bpe` (Hugging Face `tokenizers`,
the optional extra `hf`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fwk.errors import ConfigError, DataError, did_you_mean
from fwk.files import write_atomically

KINDS = ("unigram", "bpe", "wordpiece", "byte_bpe")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0..4 in every tokenizer trained here
_ALIASES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_META = "fwk-tokenizer.json"


class Tokenizer:
    """Text <-> ids. Special ids are -1 where there is no such token."""

    kind: str = ""
    pad = unk = cls = sep = mask = -1

    @property
    def size(self) -> int:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Ids of one piece of text, without [CLS] or [SEP]."""
        raise NotImplementedError

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        raise NotImplementedError

    def token(self, index: int) -> str:
        """The token as the library writes it."""
        raise NotImplementedError

    def id(self, token: str) -> int:
        """The id of a token as the library writes it, -1 if there is none."""
        raise NotImplementedError

    @property
    def special(self) -> tuple[int, ...]:
        """Ids that never stand for text, in ascending order."""
        return tuple(
            sorted(i for i in {self.pad, self.unk, self.cls, self.sep, self.mask} if i >= 0)
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides how text becomes ids."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        raise NotImplementedError

    def _find_special(self) -> None:
        for name, aliases in _ALIASES.items():
            found = [i for i in map(self.id, aliases) if i >= 0]
            setattr(self, name, found[0] if found else -1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, size={self.size}, fingerprint={self.fingerprint[:12]})"


class SentencePiece(Tokenizer):
    """A sentencepiece model (unigram or BPE), kept as the bytes of its `.model` file so that it pickles to workers."""

    def __init__(self, proto: bytes, where: str = "tokenizer.model", lower: bool = False):
        self._proto, self.lower = proto, lower
        self._load(where)

    def _load(self, where: str) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._proto)
            self._size = self._processor.get_piece_size()
        except (RuntimeError, ValueError, TypeError) as error:
            raise DataError(f"{where} is not a sentencepiece model ({_short(error)})") from None
        if self._size == 0:
            raise DataError(f"{where} is not a sentencepiece model (it has no pieces)")
        self.kind = "sentencepiece"
        self._find_special()
        if self.pad < 0 and self._processor.pad_id() >= 0:
            self.pad = self._processor.pad_id()
        if self.unk < 0:
            self.unk = self._processor.unk_id()
        self._specials = tuple(
            i
            for i in range(self._size)
            if self._processor.is_control(i) or self._processor.is_unknown(i)
        )
        prepared = b"lower" if self.lower else b""
        self._fingerprint = hashlib.sha256(b"sentencepiece" + prepared + self._proto).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {"proto": self._proto, "lower": self.lower}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._proto, self.lower = state["proto"], state["lower"]
        self._load("tokenizer.model")

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

    def decode(self, ids: Iterable[int]) -> str:
        hidden = {self.pad, self.cls, self.sep}
        parts: list[str] = []
        run: list[int] = []
        for i in [int(i) for i in ids if int(i) not in hidden] + [None]:
            if i is None or i in (self.mask, self.unk):
                if run:
                    parts.append(self._processor.decode(run))
                    run = []
                if i is not None:
                    parts.append(self.token(i))
            else:
                run.append(i)
        return " ".join(parts)

    def token(self, index: int) -> str:
        return self._processor.id_to_piece(int(index))

    def id(self, token: str) -> int:
        index = self._processor.piece_to_id(token)
        return (
            index if 0 <= index < self._size and self._processor.id_to_piece(index) == token else -1
        )

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
        _save(Path(folder), {"tokenizer.model": self._proto}, meta)


class HFTokenizer(Tokenizer):
    """A Hugging Face `tokenizers` tokenizer, kept as the text of its `tokenizer.json`."""

    def __init__(self, content: str, where: str = "tokenizer.json"):
        self._content = content
        self._load(where)

    def _load(self, where: str) -> None:
        tokenizers = _hf()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are ours to count
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(self._content)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"{where} is not a tokenizer of the tokenizers library ({_short(error)})"
            ) from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # "[MASK]" in a text is text
        self.kind = "huggingface"
        self._find_special()
        added = json.loads(self._content).get("added_tokens", [])
        self._specials = tuple(sorted(int(entry["id"]) for entry in added if entry.get("special")))
        self._fingerprint = hashlib.sha256(b"huggingface" + self._content.encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {"content": self._content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._content = state["content"]
        self._load("tokenizer.json")

    @property
    def size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def special(self) -> tuple[int, ...]:
        return tuple(sorted({*self._specials, *super().special}))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        hidden = {self.pad, self.cls, self.sep}
        return self._tokenizer.decode(
            [int(i) for i in ids if int(i) not in hidden], skip_special_tokens=False
        )

    def token(self, index: int) -> str:
        return self._tokenizer.id_to_token(int(index))

    def id(self, token: str) -> int:
        index = self._tokenizer.token_to_id(token)
        return -1 if index is None else index

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def save(self, folder: str | Path) -> None:
        meta = {
            "format": 1,
            "library": "tokenizers",
            "file": "tokenizer.json",
            "fingerprint": self.fingerprint,
        }
        _save(Path(folder), {"tokenizer.json": self._content.encode()}, meta)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _hf() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DataError(
            "WordPiece and byte-level BPE need the package 'tokenizers'; install it with "
            "pip install 'fwk[hf]', or use the kinds unigram or bpe"
        ) from None
    return tokenizers


def _save(folder: Path, files: dict[str, bytes], meta: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_atomically(folder / _META, (json.dumps(meta, indent=2) + "\n").encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the tokenizer file {path} cannot be read ({error.strerror})") from None


def _text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"the tokenizer file {path} is not UTF-8 text") from None


def load(path: str | Path, lower: bool | None = None) -> Tokenizer:
    """A tokenizer from a folder (saved by `save`, or of Hugging Face), a sentencepiece `.model`, a `tokenizer.json` or
    a WordPiece `vocab.txt` (`lower`: lower-case and strip accents; by default if the vocabulary has no capital)."""
    path = Path(path).expanduser()
    if not path.exists():
        there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no tokenizer at {path}{did_you_mean(path.name, there, everything_up_to=0)}"
        )
    if path.is_dir():
        if (path / _META).is_file():
            try:
                meta = json.loads(_text(path / _META))
                library, file = meta["library"], path / Path(meta["file"]).name
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path / _META} does not describe a tokenizer") from None
            if library == "sentencepiece":
                found: Tokenizer = SentencePiece(
                    _read(file), str(file), bool(meta.get("lower", False))
                )
            elif library == "tokenizers":
                found = HFTokenizer(_text(file), str(file))
            else:
                raise DataError(
                    f"{path / _META} names the library '{library}', expected sentencepiece or tokenizers"
                )
            if meta.get("fingerprint") not in (None, found.fingerprint):
                raise DataError(
                    f"the tokenizer in {path} was changed after it was saved: its fingerprint is "
                    f"{found.fingerprint[:12]}, {_META} says {str(meta['fingerprint'])[:12]}"
                )
            return found
        for name in ("tokenizer.json", "vocab.txt"):
            if (path / name).is_file():
                return load(path / name, lower)
        models = sorted(path.glob("*.model"))
        if len(models) == 1:
            return load(models[0], lower)
        for inner in ("tokenizer",):  # a run's folder or a token store
            if (path / inner).is_dir():
                return load(path / inner, lower)
        raise DataError(
            f"the folder {path} holds no tokenizer: expected {_META}, tokenizer.json, vocab.txt or one "
            ".model file"
        )
    if path.suffix == ".json":
        return HFTokenizer(_text(path), str(path))
    if path.suffix == ".txt":
        return _from_wordpiece_vocabulary(path, lower)
    return SentencePiece(_read(path), str(path), bool(lower))


def _from_wordpiece_vocabulary(path: Path, lower: bool | None) -> HFTokenizer:
    tokens = _text(path).splitlines()
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if "[UNK]" not in vocabulary:
        raise DataError(f"{path} is not a WordPiece vocabulary: it has no line '[UNK]'")
    if lower is None:
        lower = not any(t != t.lower() for t in tokens if not t.startswith("["))
    return HFTokenizer(_wordpiece(vocabulary, lower).to_str(), str(path))


def _wordpiece(vocabulary: dict[str, int] | None, lower: bool) -> Any:
    t = _hf()
    known = {"vocab": vocabulary} if vocabulary else {}
    tokenizer = t.Tokenizer(t.models.WordPiece(unk_token="[UNK]", **known))
    tokenizer.normalizer = t.normalizers.BertNormalizer(lowercase=lower, strip_accents=lower)
    tokenizer.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = t.decoders.WordPiece()
    if vocabulary:
        tokenizer.add_special_tokens([token for token in SPECIAL if token in vocabulary])
    return tokenizer


def check_kind(kind: str, key: str = "task.tokenizer") -> None:
    if kind not in KINDS:
        raise ConfigError(key, f"Unknown tokenizer '{kind}'{did_you_mean(kind, KINDS)}")
    if kind in ("wordpiece", "byte_bpe"):
        _hf()


def train(
    texts: Iterable[str],
    kind: str = "unigram",
    size: int = 32000,
    lower: bool = True,
    threads: int = 4,
) -> Tokenizer:
    """Train on an iterable of paragraphs. The result is a pure function of the texts, in order: `threads` is fixed by
    default because sentencepiece's sums depend on it. A vocabulary larger than the text supports comes out smaller."""
    check_kind(kind)
    if size < len(SPECIAL) + 1:
        raise ConfigError(
            "task.vocabulary", f"{size} is too small, expected more than {len(SPECIAL) + 1}"
        )
    if kind in ("unigram", "bpe"):
        return _train_sentencepiece(texts, kind, size, lower, threads)
    return _train_hf(texts, kind, size, lower)


def _pieces(texts: Iterable[str], longest: int) -> Iterator[str]:
    """The texts without what sentencepiece would skip: empty ones, and ones longer than `longest` bytes (cut)."""
    for text in texts:
        text = text.strip().replace("\x00", "")
        while text:
            head, text = text[: longest // 4], text[longest // 4 :]
            yield head


def _train_sentencepiece(
    texts: Iterable[str], kind: str, size: int, lower: bool, threads: int
) -> Tokenizer:
    import sentencepiece

    longest = 16384
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for piece in _pieces(texts, longest):
            count += 1
            yield piece

    for attempt in range(2):
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=counted(),
                model_writer=model,
                vocab_size=size,
                model_type=kind,
                hard_vocab_limit=False,
                num_threads=threads,
                character_coverage=0.9999,
                max_sentence_length=longest,
                normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
                minloglevel=4,
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                pad_piece="[PAD]",
                unk_piece="[UNK]",
                bos_piece="[CLS]",
                eos_piece="[SEP]",
                unk_surface="[UNK]",
                control_symbols=["[MASK]"],
                shuffle_input_sentence=False,
            )
            return SentencePiece(model.getvalue())
        except RuntimeError as error:
            if count == 0:
                raise DataError("there is no text to train a tokenizer on") from None
            fits = _largest(str(error))
            if attempt or fits is None:
                raise DataError(
                    f"sentencepiece could not train a {kind} vocabulary of {size}: {_short(error)}"
                ) from None
            if not isinstance(texts, Sequence):
                raise DataError(
                    f"the text is too small for a {kind} vocabulary of {size}; the largest is {fits}"
                ) from None
            size = fits
    raise AssertionError("unreachable")


def _largest(message: str) -> int | None:
    """sentencepiece says 'Please set it to a value <= N' when the text does not support the size asked for, and
    'Vocabulary size is smaller than required_chars. N vs M' when the characters alone are more."""
    for pattern in (r"value <= (\d+)", r"required_chars\.?\s+\d+ vs (\d+)"):
        match = re.search(pattern, message)
        if match:
            return int(match.group(1))
    return None


def _train_hf(texts: Iterable[str], kind: str, size: int, lower: bool) -> Tokenizer:
    t = _hf()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if kind == "wordpiece":
        texts = list(texts)
        tokenizer = _wordpiece(None, lower)
        normalizer = t.normalizers.BertNormalizer(lowercase=lower, strip_accents=lower)
        # the trainer numbers characters as a hash map happens to list them; naming them first makes it deterministic
        characters = _characters(
            normalizer, texts, limit=max(min(1000, (size - len(SPECIAL)) // 2), 1)
        )
        first = [*SPECIAL, *characters, *("##" + c for c in characters)]
        trainer = t.trainers.WordPieceTrainer(
            vocab_size=max(size, len(first)),
            special_tokens=first,
            limit_alphabet=len(characters) + 1,
            show_progress=False,
        )
        kept = set(characters)
        cleaned = [
            "".join(c if c in kept else " " for c in normalizer.normalize_str(text))
            for text in texts
        ]
        tokenizer.train_from_iterator(cleaned, trainer=trainer)
        tokenizer = _wordpiece(tokenizer.get_vocab(), lower)
        if not characters:
            raise DataError("there is no text to train a tokenizer on")
    else:
        tokenizer = t.Tokenizer(t.models.BPE())
        if lower:
            tokenizer.normalizer = t.normalizers.Lowercase()
        tokenizer.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = t.decoders.ByteLevel()
        trainer = t.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL),
            show_progress=False,
            initial_alphabet=sorted(t.pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(texts, trainer=trainer)
    return HFTokenizer(tokenizer.to_str())


def _characters(normalizer: Any, texts: Sequence[str], limit: int) -> list[str]:
    """The most frequent characters of the normalised texts, ties in code point order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    known = [c for c in counts if not c.isspace()]
    return sorted(sorted(known, key=lambda c: (-counts[c], c))[:limit])
