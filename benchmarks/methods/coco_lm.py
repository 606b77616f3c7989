"""Measure time and memory of corrective LM's loss against the equation with the full distribution of every token.

    python -m benchmarks coco_lm [--repetitions 3] [--batch 16] [--write]

Features [B, 128, 768] with gradient, vocabulary 32,768, 15% of the tokens masked; forward and backward pass of
the criterion alone. Every measurement runs in its own process, in turns. Reported are the CPU time of one
thread and the growth of peak memory during the pass.

ours          `corrective_lm`: masked positions, copy mechanism, stop-gradient
ours, all     the same with `positions: all`: logits are recomputed instead of kept
naive         p_LM as a tensor [B, T, V]: softmax, mixture with a one-hot of the input, logarithm,
              then selection of the masked positions
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from benchmarks.common import own_process, ratio, table, write

VOCABULARY, LENGTH, WIDTH = 32_768, 128, 768
PARTS = ("ours", "ours, all", "naive")


def run(part: str, batch: int) -> dict[str, float]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    from fwk import BuildContext, Encoder, View, Vocabulary
    from fwk.config.resolve import build
    from fwk.contracts.views import Encoded
    from fwk_plugins.coco_lm.criteria.corrective_lm import CorrectiveLM

    torch.set_num_threads(1)
    torch.manual_seed(0)

    class Stub(Encoder):
        width = WIDTH

        def __init__(self):
            super().__init__(None, BuildContext())
            self.table = nn.Embedding(VOCABULARY, WIDTH)
            nn.init.normal_(self.table.weight, std=0.02)

        def embedding(self):
            return self.table

    target = torch.randint(5, VOCABULARY, (batch, LENGTH))
    positions = torch.rand(batch, LENGTH).argsort(1)[:, : -(-LENGTH * 15 // 100)].sort(1).values
    drawn = torch.randint(5, VOCABULARY, positions.shape)
    tokens = target.scatter(
        1,
        positions,
        torch.where(torch.rand(positions.shape) < 0.3, target.gather(1, positions), drawn),
    )
    features = torch.randn(batch, LENGTH, WIDTH).requires_grad_()
    view = View(
        name="corrupted",
        draws=torch.arange(batch),
        inputs={"tokens": tokens},
        mask=torch.ones_like(tokens, dtype=torch.bool),
        target=target,
        changed=tokens != target,
        positions=positions,
        valid=torch.ones_like(positions, dtype=torch.bool),
        encoded=Encoded(features=features),
    )
    options = {"positions": "all"} if part == "ours, all" else {}
    made = CorrectiveLM(
        build(CorrectiveLM, options),
        BuildContext(name="c", vocabulary=Vocabulary(size=VOCABULARY), encoder=Stub()),
    )

    def ours() -> torch.Tensor:
        views = {"corrupted": view}
        counts, output = made.normalizers(views, None), made(views, None)
        return sum(term.weight * term.sum / counts[name] for name, term in output.terms.items())

    def naive() -> torch.Tensor:
        logit = made.copy_head(features).squeeze(-1)  # [B, T]
        copy = F.binary_cross_entropy_with_logits(logit, (tokens == target).float())
        c = torch.sigmoid(logit.detach())[..., None]
        p = F.one_hot(tokens, VOCABULARY) * c + (1 - c) * made.head(features).softmax(
            -1
        )  # [B, T, V]
        losses = -p.gather(-1, target[..., None])[..., 0].log()
        return 50 * copy + losses.gather(1, positions).mean()

    Path("/proc/self/clear_refs").write_text("5")  # the most memory held is counted from here
    before = megabytes("VmRSS")
    start = time.process_time()
    loss = naive() if part == "naive" else ours()
    loss.backward()
    return {
        "cpu": time.process_time() - start,
        "loss": float(loss),
        "megabytes": megabytes("VmHWM") - before,
    }


def megabytes(what: str) -> float:
    """Return the memory of this process in megabytes, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(run(arguments.part, arguments.batch)))
        return
    found: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
    for repetition in range(arguments.repetitions):
        for part in PARTS if repetition % 2 else PARTS[::-1]:
            found[part].append(
                own_process(
                    ["-m", "benchmarks", "coco_lm", "--part", part, "--batch", arguments.batch]
                )
            )
    if abs(found["ours"][0]["loss"] - found["naive"][0]["loss"]) > 1e-4 * found["naive"][0]["loss"]:
        raise SystemExit(
            f"the losses differ: {found['ours'][0]['loss']} and {found['naive'][0]['loss']}"
        )
    whole = arguments.batch * LENGTH * VOCABULARY * 4 / 2**20
    rows = []
    for part in PARTS:
        cpu, megabytes = ([one[what] for one in found[part]] for what in ("cpu", "megabytes"))
        rows.append(
            [
                part,
                f"{statistics.median(cpu) * 1e3:.0f}",
                f"{statistics.median(megabytes):.0f}",
                f"{statistics.median(megabytes) / whole:.2f}",
                *(
                    "{:.2f}".format(ratio([one[what] for one in found["naive"]], own)[0])
                    for what, own in (("cpu", cpu), ("megabytes", megabytes))
                ),
            ]
        )
    made = table(
        [
            f"{arguments.batch} x {LENGTH}",
            "ms",
            "MB more than before",
            f"÷ one [B, T, V] ({whole:.0f} MB)",
            "naive ÷ this: time",
            "memory",
        ],
        rows,
    )
    print(made)
    if arguments.write:
        write("coco_lm", made)
