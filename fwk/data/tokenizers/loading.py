"""Reading tokenizers from files and folders."""

from __future__ import annotations

from pathlib import Path

from fwk.contracts.json_files import fitted, parse_json, read_bytes, read_json, require_file_name
from fwk.data.tokenizers.base import META, Tokenizer
from fwk.data.tokenizers.hf_settings import (
    SETTINGS,
    BertSettings,
    read_bert_settings,
    require_same_normalizer,
)
from fwk.data.tokenizers.huggingface import HFTokenizer
from fwk.data.tokenizers.patterns import require_harmless
from fwk.data.tokenizers.sentencepiece import SentencePiece
from fwk.data.tokenizers.wordpiece import from_vocabulary
from fwk.errors import DataError, did_you_mean
from fwk.files import user_path

LARGEST = 1 << 28  # bytes of a tokenizer's file
_META_TYPES = {"library": "str", "file": "str", "lower?": "bool", "fingerprint?": "str | None"}


def load(path: str | Path, lower: bool | None = None) -> Tokenizer:
    """Return the tokenizer at `path`.

    `path` is a folder that `Tokenizer.save` wrote, a run, a token store, a folder of Hugging Face, a sentencepiece
    `.model`, a `tokenizer.json` or a WordPiece `vocab.txt`, which is read as a `tokenizer_config.json` beside it says.
    lower: lower-case text for a model that does not do so itself (`vocab.txt` without settings: and strip accents; by
    default if no token has a capital). Raises DataError where there is no tokenizer.
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
        return _read_huggingface(path)
    if path.suffix == ".txt":
        settings = read_bert_settings(path.parent)
        if settings is None and lower is not None:
            settings = BertSettings(lower, strip_accents=lower, chinese=True)
        return from_vocabulary(_lines(_read_text(path)), str(path), settings)
    return SentencePiece(_read(path), str(path), bool(lower))


def _lines(text: str) -> list[str]:
    """Return the lines of a vocabulary. Only \\n and \\r\\n end one: U+2028 and its like are tokens."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _load_folder(path: Path, lower: bool | None) -> Tokenizer:
    if (path / META).is_file():
        return _load_saved(path)
    if (path / "tokenizer.json").is_file():
        return _load_huggingface(path / "tokenizer.json")
    if (path / "vocab.txt").is_file():
        return load(path / "vocab.txt", lower)
    models = sorted(path.glob("*.model"))
    if len(models) == 1:
        if (path / SETTINGS).is_file():
            raise DataError(
                f"the folder {path} holds {models[0].name} with a {SETTINGS}, and transformers gives other ids than "
                "the model itself; save the tokenizer as a tokenizer.json, or name the .model file to use its ids"
            )
        return load(models[0], lower)
    if (path / "tokenizer").is_dir():  # a run or a token store
        return load(path / "tokenizer", lower)
    raise DataError(
        f"the folder {path} holds no tokenizer: expected {META}, tokenizer.json, vocab.txt or one "
        ".model file"
    )


def _load_huggingface(path: Path) -> Tokenizer:
    """Return the tokenizer of a `tokenizer.json` in a folder of `transformers`."""
    tokenizer = _read_huggingface(path)
    if (path.parent / SETTINGS).is_file():
        try:
            require_same_normalizer(path, parse_json(_read_text(path)).get("normalizer"))
        except ValueError as error:
            raise DataError(f"{path} is damaged: it is not JSON ({str(error)[:100]})") from None
    return tokenizer


def _read_huggingface(path: Path) -> HFTokenizer:
    """Return the tokenizer of a `tokenizer.json`, once its regular expressions have been tried."""
    content = _read_text(path)
    require_harmless(content, str(path))
    return HFTokenizer(content, str(path))


def _load_saved(path: Path) -> Tokenizer:
    """Return the tokenizer of a folder that `Tokenizer.save` wrote."""
    meta = fitted(read_json(path / META), _META_TYPES, path / META)
    library, file = meta["library"], path / require_file_name(meta["file"], path / META)

    tokenizer: Tokenizer
    if library == "sentencepiece":
        tokenizer = SentencePiece(_read(file), str(file), meta.get("lower", False))
    elif library == "tokenizers":
        tokenizer = _read_huggingface(file)
    else:
        raise DataError(
            f"{path / META} names the library '{library[:60]}', expected sentencepiece or tokenizers"
        )

    if meta.get("fingerprint") not in (None, tokenizer.fingerprint):
        raise DataError(
            f"the tokenizer in {path} was changed after it was saved: its fingerprint is "
            f"{tokenizer.fingerprint[:12]}, {META} lists {str(meta['fingerprint'])[:12]}"
        )
    return tokenizer


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except OSError as error:
        raise DataError(f"the tokenizer file {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"the tokenizer file {path} cannot be read: {error}") from None


def _read_text(path: Path) -> str:
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"the tokenizer file {path} is not UTF-8 text") from None
