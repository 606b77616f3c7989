"""Tiny folders of Hugging Face transformers: an architecture with random weights, and a tokenizer of a few words."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from fwk.data import tokenizers
from fwk.data.tokenizers.huggingface import HFTokenizer

TEXT = "\n\n".join(
    f"the {a} {b} sees a {c} ."
    for a in ("old", "small", "red")
    for b in ("dog", "cat", "bird")
    for c in ("book", "tree", "house")
)
_USUAL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
_NAMED_OTHERWISE = {
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
}
_MORE = {
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "hidden_dropout_prob": 0.1},
    "roberta": {"type_vocab_size": 1},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "mlp_dropout": 0.1},
    "longformer": {"attention_window": [4, 4]},
}
ARCHITECTURES = (
    *("bert", "roberta", "electra", "albert", "distilbert", "mpnet", "deberta-v2", "modernbert"),
    *("xlm-roberta", "gpt2", "xlnet", "longformer", "nomic_bert"),
)


@cache
def word_tokenizer() -> HFTokenizer:
    """Return a WordPiece tokenizer of the words of `TEXT`, with [PAD] first."""
    tokenizer = tokenizers.train(TEXT.split("\n\n"), "wordpiece", 120)
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer


def write_model(folder: Path, kind: str, head: str = "", spare: int = 0, **options) -> Path:
    """Write config.json, model.safetensors and tokenizer.json of a model with random weights, and return the folder.

    head: such as "ForMaskedLM": the weights of a class with a head. spare: vectors that no token has.
    """
    import transformers

    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    tokenizer = word_tokenizer()
    sizes = _NAMED_OTHERWISE.get(kind, _USUAL)
    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
    ids |= {"bos_token_id": 2, "eos_token_id": 3}
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=tokenizer.size + spare,
        **{**ids, **sizes, **_MORE.get(kind, {}), **options},
    )
    cls = getattr(transformers, f"AutoModel{head}")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        cls.from_config(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer._content, encoding="utf-8")
    return folder
