"""Compare scoring in one pass with scoring in n passes, with the same encoder and sentences of equal length.

    python -m benchmarks scoring [--repetitions 7] [--length 20] [--write]

A BERT of 4 x 256 with a vocabulary of 8,192, random weights, 64 sentences of --length tokens and [CLS], [SEP].
CPU time of one thread for `Scorer.log_probs`, without tokenization; the methods take turns; medians.

masked LM     one masked copy for each token, with logits at that position only
electric      -E of every token, one pass
electra-tt    discriminator and cloze model of a quarter of the width, one pass of each
two-tower     a cloze model of that size, one pass
causal LM     one pass
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fwk
from benchmarks.common import ratio, table, write
from fwk.scoring.scorer import Scorer

VOCABULARY, SENTENCES = 8192, 64
MODEL = {"name": "bert", "layers": 4, "width": 256, "heads": 4, "positions": "learned"}
TOWERS = {
    "corrupted": {
        "noiser": "two_tower",
        "of": "masked",
        "network": {"name": "scaled", "towers": True},
    }
}
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "masked LM": ({"criterion": "masked_lm"}, "masked_lm"),
    "electric": ({"criterion": "noise_contrastive"}, "noise_contrastive"),
    "electra-tt": (
        {"criterion": "replaced_token_detection", "views": TOWERS},
        "replaced_token_detection",
    ),
    "two-tower": ({"criterion": "noise_contrastive"}, "corrupted"),
    "causal LM": (
        {"criterion": "causal_lm", "model": {"direction": "left_to_right"}},
        "causal_lm",
    ),
}


def scorer(
    folder: Path,
    way: str,
    model: Mapping[str, Any] = MODEL,
    device: str = "cpu",
    precision: str = "fp32",
) -> Scorer:
    """Return a scorer with random weights that scores in this way. model: options of the encoder."""
    options, by = WAYS[way]
    text = folder / "text.txt"
    if not text.exists():  # a vocabulary of the wanted size needs as many different words
        text.write_text(
            "\n\n".join(
                " ".join(f"w{number:04x}" for number in range(start, start + 16))
                for start in range(0, 32768, 16)
            ),
            encoding="utf-8",
        )
    run = folder / way.replace(" ", "-")
    fwk.train(
        {
            "task": {
                "name": "mlm",
                "data": str(text),
                "length": 64,
                "vocabulary": VOCABULARY,
                "tokenizer": "bpe",
            },
            **options,
            "model": {**options.get("model", {}), **model},
            "train": {
                "updates": 1,
                "batch": 2,
                "device": device,
                "save_every": 0,
                "validate_every": 0,
            },
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "hooks": {"terminal": None, "tensorboard": None, "summary": None},
        },
        run=str(run),
    )
    return Scorer(fwk.load(run), by, device=device, precision=precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ways = {way: scorer(Path(folder), way) for way in WAYS}
    size = min(made.loaded.tokenizer.size for made in ways.values())
    ids = np.random.default_rng(1).integers(5, size, (SENTENCES, arguments.length + 2))
    ids[:, 0], ids[:, -1] = 2, 3
    times: dict[str, list[float]] = {way: [] for way in ways}
    for repetition in range(arguments.repetitions + 1):
        for way, made in ways.items():
            start = time.process_time()
            made.log_probs(list(ids))
            if repetition:  # the first call is for warming up
                times[way].append(time.process_time() - start)
    rows = [
        [
            way,
            f"{statistics.median(times[way]) / SENTENCES * 1e3:.2f}",
            ""
            if way == "masked LM"
            else "{:.1f} ({:.1f} to {:.1f})".format(*ratio(times["masked LM"], times[way])),
        ]
        for way in ways
    ]
    made = table(
        [f"{arguments.length} tokens, vocabulary {size:,}", "ms per sentence", "masked LM ÷ it"],
        rows,
    )
    print(made)
    if arguments.write:
        write("scoring", made)
