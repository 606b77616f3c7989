"""WordPiece tokenizers: training, and reading a `vocab.txt`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from fwk.data.tokenizers.base import SPECIAL, nothing_to_train_on
from fwk.data.tokenizers.hf_settings import BertSettings
from fwk.data.tokenizers.huggingface import HFTokenizer, tokenizers_library
from fwk.errors import DataError


def from_vocabulary(lines: Sequence[str], where: str, settings: BertSettings | None) -> HFTokenizer:
    """Return the tokenizer of a WordPiece `vocab.txt`, one token a line. where: its name in messages.

    settings: None: lower-case the text and strip accents if no token has a capital. A token that occurs twice has the
    id of its last line, as in `transformers`. Raises DataError where the lines are no WordPiece vocabulary.
    """
    vocabulary = {token: index for index, token in enumerate(lines)}
    if "[UNK]" not in vocabulary:
        raise DataError(f"{where} is not a WordPiece vocabulary: it has no line '[UNK]'")
    if settings is None:
        lower = not any(token != token.lower() for token in lines if not token.startswith("["))
        settings = BertSettings(lower, strip_accents=lower, chinese=True)
    return HFTokenizer(_tokenizer(vocabulary, settings).to_str(), where)


def train_wordpiece(texts: Iterable[str], size: int, lower: bool) -> HFTokenizer:
    """Return a WordPiece tokenizer trained on texts. Raises DataError where they hold no characters."""
    library = tokenizers_library()
    texts = list(texts)
    settings = BertSettings(lower, strip_accents=lower, chinese=True)
    tokenizer = _tokenizer(None, settings)
    normalizer = _normalizer(settings)
    # The trainer numbers characters in the order of a hash map; listing them first makes it deterministic.
    limit = max(min(1000, (size - len(SPECIAL)) // 2), 1)
    characters = _frequent_characters(normalizer, texts, limit)
    first = [*SPECIAL, *characters, *("##" + character for character in characters)]
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=max(size, len(first)),
        special_tokens=first,
        limit_alphabet=len(characters) + 1,
        show_progress=False,
    )

    known = set(characters)
    cleaned = [
        "".join(c if c in known else " " for c in normalizer.normalize_str(text)) for text in texts
    ]
    tokenizer.train_from_iterator(cleaned, trainer=trainer)
    tokenizer = _tokenizer(tokenizer.get_vocab(), settings)
    if not characters:
        raise nothing_to_train_on()
    return HFTokenizer(tokenizer.to_str())


def _normalizer(settings: BertSettings) -> Any:  # a tokenizers.normalizers.Normalizer
    return tokenizers_library().normalizers.BertNormalizer(
        lowercase=settings.lower,
        strip_accents=settings.strip_accents,
        handle_chinese_chars=settings.chinese,
    )


def _tokenizer(
    vocabulary: dict[str, int] | None, settings: BertSettings
) -> Any:  # a tokenizers.Tokenizer
    """Return a WordPiece tokenizer as BERT uses it; without a vocabulary it is to be trained."""
    library = tokenizers_library()
    options = {"vocab": vocabulary} if vocabulary else {}
    tokenizer = library.Tokenizer(library.models.WordPiece(unk_token="[UNK]", **options))
    tokenizer.normalizer = _normalizer(settings)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    if vocabulary:
        tokenizer.add_special_tokens([token for token in SPECIAL if token in vocabulary])
    return tokenizer


def _frequent_characters(normalizer: Any, texts: Sequence[str], limit: int) -> list[str]:
    """Return the most frequent characters of the normalised texts, sorted; ties go to the lower code point."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    characters = [c for c in counts if not c.isspace()]
    return sorted(sorted(characters, key=lambda c: (-counts[c], c))[:limit])
