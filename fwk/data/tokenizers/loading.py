"""Reading tokenizers from files and folders."""

from __future__ import annotations

import json
from pathlib import Path

from fwk.data.tokenizers.base import META, Tokenizer
from fwk.data.tokenizers.huggingface import HFTokenizer
from fwk.data.tokenizers.sentencepiece import SentencePiece
from fwk.data.tokenizers.wordpiece import from_vocabulary
from fwk.errors import DataError, did_you_mean
from fwk.files import user_path


def load(path: str | Path, lower: bool | None = None) -> Tokenizer:
    """Return the tokenizer at `path`.

    `path` is a folder that `Tokenizer.save` wrote, a run, a token store, a folder of Hugging Face, a sentencepiece
    `.model`, a `tokenizer.json` or a WordPiece `vocab.txt`. lower: lower-case text for a model that does not do so
    itself (`vocab.txt`: and strip accents; by default if no token has a capital). Raises DataError where there is no
    tokenizer.
    """
    path = user_path(path)
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no tokenizer at {path}{did_you_mean(path.name, names, everything_up_to=0)}"
        )
    if path.is_dir():
        return _load_folder(path, lower)
    if path.suffix == ".json":
        return HFTokenizer(_read_text(path), str(path))
    if path.suffix == ".txt":
        return from_vocabulary(_read_text(path).splitlines(), str(path), lower)
    return SentencePiece(_read(path), str(path), bool(lower))


def _load_folder(path: Path, lower: bool | None) -> Tokenizer:
    if (path / META).is_file():
        return _load_saved(path)
    for name in ("tokenizer.json", "vocab.txt"):
        if (path / name).is_file():
            return load(path / name, lower)
    models = sorted(path.glob("*.model"))
    if len(models) == 1:
        return load(models[0], lower)
    if (path / "tokenizer").is_dir():  # a run or a token store
        return load(path / "tokenizer", lower)
    raise DataError(
        f"the folder {path} holds no tokenizer: expected {META}, tokenizer.json, vocab.txt or one "
        ".model file"
    )


def _load_saved(path: Path) -> Tokenizer:
    """Return the tokenizer of a folder that `Tokenizer.save` wrote."""
    try:
        meta = json.loads(_read_text(path / META))
        library, file = meta["library"], path / Path(meta["file"]).name
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path / META} does not describe a tokenizer") from None

    tokenizer: Tokenizer
    if library == "sentencepiece":
        tokenizer = SentencePiece(_read(file), str(file), bool(meta.get("lower", False)))
    elif library == "tokenizers":
        tokenizer = HFTokenizer(_read_text(file), str(file))
    else:
        raise DataError(
            f"{path / META} names the library '{library}', expected sentencepiece or tokenizers"
        )

    if meta.get("fingerprint") not in (None, tokenizer.fingerprint):
        raise DataError(
            f"the tokenizer in {path} was changed after it was saved: its fingerprint is "
            f"{tokenizer.fingerprint[:12]}, {META} lists {str(meta['fingerprint'])[:12]}"
        )
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the tokenizer file {path} cannot be read ({error.strerror})") from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"the tokenizer file {path} is not UTF-8 text") from None
