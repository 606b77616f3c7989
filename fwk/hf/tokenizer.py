"""Tokenizers of fwk as a `tokenizer.json` that `transformers` reads, with the same ids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from fwk.data.tokenizers import HFTokenizer, SentencePiece, Tokenizer
from fwk.errors import DataError

# texts whose ids must be equal for every vocabulary: accents, emoji, CJK, controls, blanks, compositions
SAMPLES = (
    "The quick brown fox jumps over the lazy dog, twice (or 3.14 times)!",
    "na\u00efve caf\u00e9 d\u00e9j\u00e0 vu \u00c5ngstr\u00f6m \u0141\u00f3d\u017a",
    "a\u0301 e\u0300 o\u0308 \u1e69",
    "\U0001f600\U0001f44d\U0001f3fd fin \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 and \u4e2d\u6587 \ud55c\uad6d\uc5b4",
    "a\tb\x07c\x1b[0m\u200bd\u200e",
    "  two  spaces\u00a0and\u3000others ",
    "\u0130stanbul \u03a3\u0391\u03a3 \u00df \ufb01 \u00bd \u2460",
    "\uff46\uff55\uff4c\uff4c width",
    "co\u00adop \ufeffbom",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "x" * 300,
    "http://example.org/a_b?c=d&e=f#g",
    "",
)
# a parsed model of sentencepiece; its class is generated code without types
Message: TypeAlias = Any
SPACE = "\u2581"  # how sentencepiece writes a blank


def as_tokenizers(tokenizer: Tokenizer) -> Any:
    """Return a `tokenizers.Tokenizer` that frames text as `Tokenizer.frame` says, if there are [CLS] and [SEP]."""
    import tokenizers

    if isinstance(tokenizer, HFTokenizer):
        converted = tokenizers.Tokenizer.from_str(tokenizer._content)
    elif isinstance(tokenizer, SentencePiece):
        converted = _from_sentencepiece(tokenizer)
    else:
        raise DataError(
            f"a tokenizer of the kind '{tokenizer.kind}' cannot be written for transformers"
        )
    holes = set(tokenizer.holes) if isinstance(tokenizer, HFTokenizer) else set()
    special = [tokenizer.token(index) for index in tokenizer.special if index not in holes]
    converted.add_special_tokens(special)
    if tokenizer.cls >= 0 and tokenizer.sep >= 0:
        converted.post_processor = _framing(tokenizer)
    return converted


def _framing(tokenizer: Tokenizer) -> Any:
    """Return the step that puts the special tokens around one text and two."""
    from tokenizers.processors import TemplateProcessing

    frame = tokenizer.frame
    first, second = frame.segments
    before, between, after = (
        [tokenizer.token(index) for index in part]
        for part in (frame.before, frame.between, frame.after)
    )
    special = {*frame.before, *frame.between, *frame.after}
    return TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[
            *(f"{token}:{first}" for token in before),
            f"$A:{first}",
            *(f"{token}:{first}" for token in between),
            f"$B:{second}",
            *(f"{token}:{second}" for token in after),
        ],
        special_tokens=[(tokenizer.token(index), index) for index in sorted(special)],
    )


def _from_sentencepiece(tokenizer: SentencePiece) -> Any:
    """Return a sentencepiece model as a `tokenizers.Tokenizer`: its pieces, normalization and blanks."""
    import tokenizers

    proto = _parsed(tokenizer)
    scheme = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    converted = tokenizers.Tokenizer(_model(proto, tokenizer))
    converted.normalizer = _normalizer(proto, tokenizer.lower)
    converted.pre_tokenizer = _pre_tokenizer(scheme, proto)
    converted.decoder = tokenizers.decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return converted


def _user_symbols(proto: Message) -> list[str]:
    """Return the pieces that the user defined: wherever a text holds one, it is one token."""
    return [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]


def _pre_tokenizer(scheme: str, proto: Message) -> Any:
    """Return the step that marks blanks and, for BPE, cuts the text around the symbols of the user, longest first."""
    from tokenizers import Regex, pre_tokenizers

    blanks = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    symbols = _user_symbols(proto)
    if not symbols or proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        return blanks
    pattern = "|".join(re.escape(symbol) for symbol in sorted(symbols, key=len, reverse=True))
    return pre_tokenizers.Sequence([blanks, pre_tokenizers.Split(Regex(pattern), "isolated")])


def _parsed(tokenizer: SentencePiece) -> Message:
    """Return the sentencepiece model as a protobuf message."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise DataError(
            "writing a sentencepiece model for transformers needs the package 'protobuf'; "
            "install it with pip install 'fwk[hf]'"
        ) from None
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # generated code
    proto.ParseFromString(tokenizer._proto)
    return proto


def _model(proto: Message, tokenizer: SentencePiece) -> Any:
    """Return the pieces as a unigram or BPE model of `tokenizers`."""
    from tokenizers import models

    trainer = proto.trainer_spec
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if trainer.model_type == trainer.UNIGRAM:
        pieces = list(zip([piece for piece, _ in pieces], _unigram_scores(proto)))
        return models.Unigram(pieces, unk_id=tokenizer.unk, byte_fallback=trainer.byte_fallback)
    if trainer.model_type == trainer.BPE:
        return models.BPE(
            {piece: index for index, (piece, _) in enumerate(pieces)},
            _merges(pieces),
            unk_token=tokenizer.token(tokenizer.unk),
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
            # a symbol of the user has no merges; it stands alone after `_pre_tokenizer`, and is a token as it is
            ignore_merges=bool(_user_symbols(proto)),
        )
    raise DataError(
        "only sentencepiece models of the kinds unigram and bpe can be written for transformers"
    )


def _unigram_scores(proto: Message) -> list[float]:
    """Return the scores of the pieces; a symbol of the user has the one that sentencepiece gives it when it encodes.

    That is (bytes of the symbol) * (largest score of an ordinary piece) - 0.1.
    """
    largest = max(
        (piece.score for piece in proto.pieces if piece.type == piece.NORMAL), default=0.0
    )
    return [
        len(piece.piece.encode()) * largest - 0.1
        if piece.type == piece.USER_DEFINED
        else piece.score
        for piece in proto.pieces
    ]


def _normalizer(proto: Message, lower: bool) -> Any:
    from tokenizers import Regex, normalizers

    rules = proto.normalizer_spec
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lower else []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)


def _merges(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """Return the pairs of pieces that join into a piece, in the order of the scores of the joined pieces."""
    number = {piece: index for index, (piece, _) in enumerate(pieces)}
    joins = [
        (-score, number[piece], piece[:cut], piece[cut:])
        for piece, score in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in number and piece[cut:] in number
    ]
    return [(left, right) for _, _, left, right in sorted(joins, key=lambda join: join[:2])]


def write(tokenizer: Tokenizer, folder: Path, longest: int, pairs: bool = True) -> None:
    """Write tokenizer.json and the files that transformers expects beside it.

    `longest`: tokens that the model reads. `pairs`: the model has segments, for a second sentence.
    """
    from transformers import PreTrainedTokenizerFast

    special = {
        f"{name}_token": tokenizer.token(getattr(tokenizer, name))
        for name in ("pad", "unk", "cls", "sep", "mask")
        if getattr(tokenizer, name) >= 0
    }
    PreTrainedTokenizerFast(
        tokenizer_object=as_tokenizers(tokenizer),
        model_max_length=longest,
        **special,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
    ).save_pretrained(folder)

    # version 5 of transformers writes a class that version 4 does not have
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(tokenizer: Tokenizer, folder: Path, texts: Sequence[str] = SAMPLES) -> None:
    """Raise DataError where the folder's tokenizer, as transformers loads it, gives other ids."""
    from transformers import AutoTokenizer

    exported = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    texts = [*texts, *_symbol_texts(tokenizer)]
    theirs = exported(texts, add_special_tokens=False)["input_ids"]
    for text, expected, ids in zip(texts, tokenizer.encode_batch(texts), theirs, strict=True):
        if ids != expected:
            raise DataError(
                f"the exported tokenizer gives other ids than fwk's for {json.dumps(text[:60])}: "
                f"{ids[:8]} instead of {expected[:8]}"
            )


def _symbol_texts(tokenizer: Tokenizer) -> list[str]:
    """Return a text for each symbol of the vocabulary but the special ones, and one with all that the user defined.

    A special token in a text is text to fwk, and that token to transformers.
    """
    special = set(tokenizer.special)
    names = [tokenizer.token(index) for index in special]
    symbols = [tokenizer.token(index) for index in range(tokenizer.size) if index not in special]
    if isinstance(tokenizer, SentencePiece):
        users = _user_symbols(_parsed(tokenizer))
        symbols = [*symbols, "".join(f"a{s}b {s} " for s in users), "".join(users)]
    texts = [symbol.replace(SPACE, " ") for symbol in symbols]
    return [text for text in texts if not any(name in text for name in names)]
