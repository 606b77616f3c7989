"""Time scoring in one pass (Electric) beside one masked copy per token (masked LM) and print JSON.

    python -m benchmarks one_pass [--device cuda] [--precision bf16] [--sentences 256] [--toy]

`Scorer.log_probs` on sentences of equal length without tokenization, the same encoder (BERT-base) with random weights;
the two take turns, and the result of each is on the host when its clock stops.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.common import taking_turns
from benchmarks.gpu.updates import BERT

LENGTH = 20  # tokens of a sentence, without [CLS] and [SEP]
BASE = {**BERT, "layers": 12, "width": 768, "heads": 12}
TOY = {**BERT, "layers": 1, "width": 32, "heads": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="a toy encoder: tries the program")
    arguments = parser.parse_args()
    import numpy as np

    from benchmarks.methods.scoring import scorer

    with tempfile.TemporaryDirectory() as folder:
        ways = {
            way: scorer(
                Path(folder),
                way,
                TOY if arguments.toy else BASE,
                arguments.device,
                arguments.precision,
            )
            for way in ("masked LM", "electric")
        }
    size = min(made.loaded.tokenizer.size for made in ways.values())
    ids = np.random.default_rng(1).integers(5, size, (arguments.sentences, LENGTH + 2))
    ids[:, 0], ids[:, -1] = 2, 3
    contenders = [partial(made.log_probs, list(ids)) for made in ways.values()]
    times = taking_turns(contenders, arguments.repetitions + 1, clock=time.perf_counter)
    medians = {  # the first call is for warming up
        way: statistics.median(seconds[1:]) / arguments.sentences
        for way, seconds in zip(ways, times)
    }
    print(
        json.dumps(
            {
                "seconds_per_sentence": medians,
                "passes": LENGTH,
                "ratio": medians["masked LM"] / medians["electric"],
            }
        )
    )
