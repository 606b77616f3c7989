"""What `tokenizer_config.json` says of a tokenizer of `transformers`, beside a `vocab.txt` or a `tokenizer.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fwk.contracts.json_files import fitted, read_object
from fwk.contracts.plain import PlainDict
from fwk.data.tokenizers.base import SPECIAL
from fwk.errors import DataError

SETTINGS = "tokenizer_config.json"
# classes whose tokenizer is BERT's, read from a vocab.txt
BERT_CLASSES = ("Bert", "Electra", "DistilBert", "MobileBert", "SqueezeBert", "ConvBert")
_TYPES = {
    **dict.fromkeys(
        ("do_lower_case?", "strip_accents?", "tokenize_chinese_chars?", "do_basic_tokenize?"),
        "bool | None",
    ),
    "tokenizer_class?": "str | None",
    "added_tokens_decoder?": "dict[str, dict[str, Any]] | None",
    "additional_special_tokens?": "list[Any, ...] | None",
}


@dataclass(frozen=True)
class BertSettings:
    """How BERT's tokenizer prepares text."""

    lower: bool
    strip_accents: bool
    chinese: bool  # blanks around Chinese characters


def read_bert_settings(folder: Path) -> BertSettings | None:
    """Return the settings beside a `vocab.txt`, with the defaults of `transformers`; None where there is no file.

    Raises DataError for settings under which a `vocab.txt` alone does not give the ids that `transformers` gives.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    values = read_object(path)
    settings = fitted(values, _TYPES, path)
    _refuse_other_tokenizers(path, values, settings)
    lower = settings.get("do_lower_case")
    lower = True if lower is None else lower
    accents, chinese = settings.get("strip_accents"), settings.get("tokenize_chinese_chars")
    return BertSettings(
        lower=lower,
        strip_accents=lower if accents is None else accents,
        chinese=True if chinese is None else chinese,
    )


def _refuse_other_tokenizers(path: Path, values: PlainDict, settings: PlainDict) -> None:
    """Raise DataError for another class, further tokens, special tokens of other names, and other preparation."""
    name = settings.get("tokenizer_class") or "BertTokenizer"
    known = {f"{prefix}Tokenizer{suffix}" for prefix in BERT_CLASSES for suffix in ("", "Fast")}
    reason = ""
    if name not in known | {"PreTrainedTokenizerFast", "TokenizersBackend"}:
        reason = f"its tokenizer_class is {name[:60]}"
    if settings.get("do_basic_tokenize") is False:
        reason = "do_basic_tokenize is false"
    for token in SPECIAL:
        key = f"{token.strip('[]').lower()}_token"
        if _text(values.get(key)) not in (None, token):
            reason = f"{key} is another token than {token}"
    added = [_text(entry) for entry in (settings.get("added_tokens_decoder") or {}).values()]
    added += [_text(entry) for entry in settings.get("additional_special_tokens") or ()]
    if others := [str(token)[:40] for token in added if token not in SPECIAL]:
        reason = f"it adds the token '{others[0]}'"
    if reason:
        raise DataError(
            f"{path}: {reason}, so vocab.txt alone does not give the ids that transformers gives; save the tokenizer "
            "as a tokenizer.json"
        )


def _text(token: object) -> object:
    """Return the text of a token, which a file holds as it is or as an object with its `content`."""
    return token.get("content") if isinstance(token, dict) else token


def require_same_normalizer(path: Path, normalizer: object) -> None:
    """Raise DataError where settings beside a `tokenizer.json` change its preparation, as `transformers` does.

    path: of the `tokenizer.json`. normalizer: of it, as JSON.
    """
    beside = path.parent / SETTINGS
    is_bert = isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer"
    if not is_bert or not beside.is_file():
        return
    assert isinstance(normalizer, dict)
    settings = fitted(read_object(beside), _TYPES, beside)
    keys = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    for key, inner in keys.items():
        wanted, present = settings.get(key), normalizer.get(inner)
        if inner == "strip_accents" and present is None:
            present = normalizer.get("lowercase")
        if wanted is not None and wanted != present:
            raise DataError(
                f"{beside} says {key}: {str(wanted).lower()}, and {path.name} {inner}: {str(present).lower()}; the ids "
                "of transformers depend on its version. Save the tokenizer again"
            )
