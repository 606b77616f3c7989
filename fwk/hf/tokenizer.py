"""Our tokenizers as a `tokenizer.json` that `transformers` reads, with the same ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fwk.data.tokenizers import HFTokenizer, SentencePiece, Tokenizer
from fwk.errors import DataError

# texts on which the ids must agree, whatever the vocabulary: accents, emoji, CJK, controls, blanks, compositions
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


def as_tokenizers(tokenizer: Tokenizer) -> Any:
    """A `tokenizers.Tokenizer` that frames text with [CLS] and [SEP] where there are such."""
    import tokenizers as t

    if isinstance(tokenizer, HFTokenizer):
        made = t.Tokenizer.from_str(tokenizer._content)
    elif isinstance(tokenizer, SentencePiece):
        made = _of_sentencepiece(tokenizer, t)
    else:
        raise DataError(
            f"a tokenizer of the kind '{tokenizer.kind}' cannot be written for transformers"
        )
    made.add_special_tokens([tokenizer.token(index) for index in tokenizer.special])
    if tokenizer.cls >= 0 and tokenizer.sep >= 0:
        cls, sep = tokenizer.token(tokenizer.cls), tokenizer.token(tokenizer.sep)
        made.post_processor = t.processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {sep} $B:1 {sep}:1",
            special_tokens=[(cls, tokenizer.cls), (sep, tokenizer.sep)],
        )
    return made


def _of_sentencepiece(tokenizer: SentencePiece, t: Any) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise DataError(
            "writing a sentencepiece model for transformers needs the package 'protobuf'; install it with pip install "
            "'fwk[hf]'"
        ) from None
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(tokenizer._proto)
    kind, rules = model.trainer_spec.model_type, model.normalizer_spec
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    fallback = model.trainer_spec.byte_fallback
    if kind == model.trainer_spec.UNIGRAM:
        made = t.Tokenizer(t.models.Unigram(pieces, unk_id=tokenizer.unk, byte_fallback=fallback))
    elif kind == model.trainer_spec.BPE:
        made = t.Tokenizer(
            t.models.BPE(
                {piece: i for i, (piece, _) in enumerate(pieces)},
                _merges(pieces),
                unk_token=tokenizer.token(tokenizer.unk),
                fuse_unk=True,
                byte_fallback=fallback,
            )
        )
    else:
        raise DataError(
            "only sentencepiece models of the kinds unigram and bpe can be written for transformers"
        )
    steps = [t.normalizers.Lowercase()] if tokenizer.lower else []
    if rules.precompiled_charsmap:
        steps.append(t.normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [t.normalizers.Strip(), t.normalizers.Replace(t.Regex(" {2,}"), " ")]
    made.normalizer = t.normalizers.Sequence(steps)
    made.pre_tokenizer = t.pre_tokenizers.Metaspace(
        replacement="\u2581",
        prepend_scheme="always" if rules.add_dummy_prefix else "never",
        split=False,
    )
    made.decoder = t.decoders.Metaspace(
        replacement="\u2581", prepend_scheme="always" if rules.add_dummy_prefix else "never"
    )
    return made


def _merges(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    """The pairs whose joining gives each piece, the best pieces first."""
    number = {piece: i for i, (piece, _) in enumerate(pieces)}
    found = [
        (-score, number[piece], piece[:cut], piece[cut:])
        for piece, score in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in number and piece[cut:] in number
    ]
    return [(left, right) for _, _, left, right in sorted(found, key=lambda entry: entry[:2])]


def write(tokenizer: Tokenizer, folder: Path, longest: int, pairs: bool = True) -> None:
    """tokenizer.json and what transformers wants beside it. longest: tokens that the model reads. pairs: it tells the second of
    two sentences from the first."""
    from transformers import PreTrainedTokenizerFast

    names = {
        f"{name}_token": tokenizer.token(getattr(tokenizer, name))
        for name in ("pad", "unk", "cls", "sep", "mask")
        if getattr(tokenizer, name) >= 0
    }
    made = PreTrainedTokenizerFast(
        tokenizer_object=as_tokenizers(tokenizer),
        model_max_length=longest,
        **names,
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
    )
    made.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said.pop("backend", None)
    said["tokenizer_class"] = (
        "PreTrainedTokenizerFast"  # version 5 writes a name that version 4 does not know
    )
    path.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def compare(tokenizer: Tokenizer, folder: Path, texts: Sequence[str] = SAMPLES) -> None:
    """DataError where the folder's tokenizer, as transformers loads it, gives other ids than ours."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for text in texts:
        mine, found = tokenizer.encode(text), theirs.encode(text, add_special_tokens=False)
        if mine != found:
            raise DataError(
                f"the exported tokenizer gives other ids than ours for {json.dumps(text[:60])}: {found[:8]} instead of {mine[:8]}"
            )
