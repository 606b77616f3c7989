"""Train small models with three objectives for equal minutes; print their held-out measures and BLiMP as JSON.

    python -m benchmarks race [--seconds 180] [--device cuda] [--precision bf16] [--toy]

Masked LM, ELECTRA and COCO-LM train ELECTRA-Small's encoder (12 layers x 256) on the text that `race_data` prepared,
with the same batch, optimizer and schedule. The seconds are shared: each trains for a third of them, less what
evaluation and starts take. BLiMP's pairs are scored by every component of a model that gives probabilities of tokens:
ELECTRA's discriminator gives none, its generator does. After each objective one line is printed, which holds all
results so far.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.race_data import FOLDER, PAIRS, STORE
from benchmarks.gpu.updates import TOY, of_paper

RESERVE = 25.0  # seconds per objective for building, validation, saving and scoring
SCORES = ("masked_lm", "corrupted")  # components that may give probabilities of tokens
PARTS = ("criterion", "views")
OBJECTIVES = ("masked LM", "ELECTRA", "COCO-LM")


def settings_of(objective: str) -> dict[str, Any]:
    """Return criteria and views of an objective as its paper has them."""
    if objective == "masked LM":
        return {"criterion": {"masked_lm": {}}}
    file = {"ELECTRA": "electra_small.yaml", "COCO-LM": "coco_lm_base.yaml"}[objective]
    paper = of_paper(file)
    return {part: paper[part] for part in PARTS}


def config_of(objective: str, text: Path, arguments: argparse.Namespace, minutes: float) -> Any:
    """Return the config of a racer. minutes: of training, unless `--updates` sets its length."""
    model = of_paper("electra_small.yaml")["model"]
    task: dict[str, Any] = {"name": "mlm", "data": str(text / STORE), "length": 128}
    if arguments.toy:
        model = {**model, **TOY, "length": None}
        task |= {"data": str(text / "text.txt"), "length": 16, "vocabulary": 100}
    return {
        **settings_of(objective),
        "task": task,
        "model": model,
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "linear", "warmup": 0.05},
        "hooks": {"terminal": None, "tensorboard": None, "summary": None},
        "train": {
            **({"updates": arguments.updates} if arguments.updates else {"minutes": minutes}),
            "batch": 4 if arguments.toy else 256,
            "precision": arguments.precision,
            "device": arguments.device,
            "workers": arguments.workers,
            "deterministic": not arguments.device.startswith("cuda"),
            "validate_every": 0,
            "save_every": 0,
            "log_every": 50,
        },
    }


def race(
    objective: str, text: Path, arguments: argparse.Namespace, minutes: float
) -> dict[str, Any]:
    """Train and evaluate one racer."""
    import fwk
    from benchmarks.methods.rescoring import score

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        finished = fwk.train(config_of(objective, text, arguments, minutes), run=str(run))
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        training = [line for line in map(json.loads, lines) if "tokens" in line][-1]
        pairs = {}
        for by in SCORES:
            where = ("--device", arguments.device, "--precision", arguments.precision)
            scored = score(run, by, "--pairs", str(text / PAIRS), *where)
            if scored is not None:
                pairs[by] = scored["overall"]["accuracy"]
    return {
        "updates": finished.update,
        "tokens": training["tokens"],
        "train_seconds": training["seconds"],
        "seconds": time.perf_counter() - started,
        "valid": finished.metrics.get("valid", {}),
        "blimp": pairs,
    }


def make_toy(folder: Path) -> Path:
    """Write a small text and a few pairs, and return their folder."""
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi") for b in ("na", "to", "su", "ri")]
    draw = random.Random(1)
    sentences = [" ".join(draw.choices(words, k=9)) + "." for _ in range(400)]
    documents = ["\n".join(sentences[start : start + 8]) for start in range(0, 400, 8)]
    (folder / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
    pairs = [{"sentence_good": a, "sentence_bad": b} for a, b in zip(sentences[:4], sentences[4:])]
    import lzma

    with lzma.open(folder / PAIRS, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(pair) + "\n" for pair in pairs)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, default=FOLDER, help="what `race_data` prepared")
    parser.add_argument("--seconds", type=float, default=180.0, help="for everything")
    parser.add_argument("--updates", type=int, help="train for so many updates instead")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--toy", action="store_true", help="toy models on made-up text")
    arguments = parser.parse_args()
    minutes = max(0.05, (arguments.seconds / len(OBJECTIVES) - RESERVE) / 60)
    found: dict[str, Any] = {"minutes": minutes, "objectives": {}}
    with tempfile.TemporaryDirectory() as folder:
        text = make_toy(Path(folder)) if arguments.toy else arguments.text
        for objective in OBJECTIVES:
            found["objectives"][objective] = race(objective, text, arguments, minutes)
            print(json.dumps(found), flush=True)
    return 0
