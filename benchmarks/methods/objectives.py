"""Compare ELECTRA, Electric and the steps between BERT and ELECTRA at one tiny size and equal FLOPs.

    python -m benchmarks objectives [--updates 3000] [--seeds 1,2,3] [--size small] [--minutes 60] [--write]
    python -m benchmarks objectives --report          # the table from the stored results

Every objective trains the same encoder on the same text with the settings of one table, for the number of
updates that costs as many FLOPs as BERT's --updates (matrix products and softmaxes as executed: `fwk.flops`,
with free embedding lookups). Then the encoder is frozen and a linear classifier (logistic regression) is fitted
to the means of its features over a sentence: SST-2 (accuracy) and CoLA (Matthews correlation), on their
development sets. The text is English Wikipedia where the folder of real data lies beside the repository,
otherwise the demo corpus, without the probe. Results are kept in benchmarks/methods/objectives.jsonl, one line
per run, so an interrupted command resumes.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, table, write

HERE = Path(__file__).parent
RESULTS = HERE / "objectives.jsonl"
VOCABULARY, LENGTH = 8192, 64

# layers, width, heads, sequences per update
SIZES = {"tiny": (2, 128, 4, 16), "small": (4, 256, 4, 32), "base": (12, 768, 12, 256)}
MASKS = {"masked": {"mask": 1.0, "random": 0.0}}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "BERT": {"criterion": {"masked_lm": {}}},
    "Replace MLM": {"criterion": {"replace_mlm": {}}, "views": MASKS},
    "ELECTRA 15%": {
        "criterion": {"replaced_token_detection": {"positions": "chosen"}},
        "views": MASKS,
    },
    "All-Tokens MLM": {"criterion": {"all_tokens_mlm": {}}, "views": MASKS},
    "ELECTRA": {"criterion": {"replaced_token_detection": {}}, "views": MASKS},
    "Electric": {"criterion": {"noise_contrastive": {}}},
}
PROBES = {"SST-2": ("accuracy", 10_000), "CoLA": ("Matthews correlation", 8_551)}


def config_of(
    objective: str, size: str, seed: int, data: Path | None, **train: Any
) -> dict[str, Any]:
    layers, width, heads, batch = SIZES[size]
    task = {
        "name": "mlm",
        "length": LENGTH,
        "vocabulary": VOCABULARY,
        **({"data": str(data)} if data else {}),
    }
    return {
        "task": task,
        "seed": seed,
        "model": {
            "name": "bert",
            "layers": layers,
            "width": width,
            "heads": heads,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "initialisation": "fan_in",
        },
        **OBJECTIVES[objective],
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "schedule": {"name": "linear", "warmup": 200},
        "train": {"batch": batch, "validate_every": 0, "save_every": 0, "log_every": 50, **train},
        "hooks": {"terminal": None, "tensorboard": None, "summary": None},
    }


def updates_of(objective: str, size: str, updates: int) -> int:
    """Return the number of updates that costs as much as `updates` updates of BERT."""
    from fwk.components.discovery import load_plugins
    from fwk.config.resolve import from_mapping
    from fwk.flops import count

    load_plugins()
    own, bert = (
        count(
            from_mapping(config_of(name, size, 1, None)),
            LENGTH,
            VOCABULARY,
            products=False,
        )
        for name in (objective, "BERT")
    )
    return round(updates * bert.update / own.update)


def text_of(folder: Path) -> Path | None:
    """Return the path of the Wikipedia text as a file of lines, unpacked once."""
    packed = DATA / "text" / "wikipedia-en.train.txt.xz"
    if not packed.is_file():
        return None
    path = folder / "wikipedia-en.train.txt"
    if not path.exists():
        path.write_bytes(lzma.decompress(packed.read_bytes()))
    return path


def sentences_of(name: str, split: str) -> tuple[list[str], list[int]]:
    lines = (
        lzma.decompress((DATA / "glue" / name / f"{split}.tsv.xz").read_bytes())
        .decode("utf-8")
        .splitlines()
    )
    rows = [line.split("\t") for line in lines]
    if name == "CoLA":
        return [row[3] for row in rows], [int(row[1]) for row in rows]
    return [row[0] for row in rows[1:]], [int(row[1]) for row in rows[1:]]


def features_of(loaded: Any, sentences: Sequence[str], device: str) -> Any:
    """Return the mean of an encoder's features over each sentence, [N, D]."""
    import numpy as np
    import torch

    tokenizer, model = loaded.tokenizer, loaded.model.to(device)
    encoded = [
        [tokenizer.cls, *ids[: LENGTH - 2], tokenizer.sep]
        for ids in tokenizer.encode_batch(sentences)
    ]
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    found = np.zeros((len(encoded), model.width), dtype=np.float32)
    for start in range(0, len(order), 256):
        rows = order[start : start + 256]
        T = max(len(encoded[i]) for i in rows)
        tokens = torch.full((len(rows), T), max(tokenizer.pad, 0))
        mask = torch.zeros(len(rows), T, dtype=torch.bool)
        for row, i in enumerate(rows):
            tokens[row, : len(encoded[i])] = torch.tensor(encoded[i])
            mask[row, : len(encoded[i])] = True
        with torch.no_grad():
            features = model({"tokens": tokens.to(device)}, mask.to(device)).features.cpu()
        found[rows] = ((features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    return found


def probe(run: Path, device: str) -> dict[str, float]:
    """Return the scores of a linear classifier on frozen features, by data set."""
    import fwk

    if not (DATA / "glue").is_dir():
        return {}
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, matthews_corrcoef
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    loaded, scores = fwk.load(run), {}
    for name, (metric, most) in PROBES.items():
        texts, labels = sentences_of(name, "train")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        model.fit(features_of(loaded, texts[:most], device), labels[:most])
        texts, labels = sentences_of(name, "dev")
        said = model.predict(features_of(loaded, texts, device))
        scores[name] = float(
            (accuracy_score if metric == "accuracy" else matthews_corrcoef)(labels, said)
        )
    return scores


def run_one(
    objective: str, size: str, seed: int, updates: int, folder: Path, device: str, precision: str
) -> dict[str, Any]:
    import torch

    import fwk

    torch.set_num_threads(1)
    name = objective if updates else "untrained"
    run = folder / f"{name.replace(' ', '-').replace('%', '')}-{size}-{updates}-{seed}-{precision}"
    own = updates_of(objective, size, updates)
    started = time.process_time()
    if updates:
        finished = fwk.train(
            config_of(
                objective,
                size,
                seed,
                text_of(folder),
                updates=own,
                device=device,
                precision=precision,
            ),
            run=str(run),
        )
        metrics = finished.metrics["valid"]
    else:  # an encoder as it was initialised
        finished = fwk.train(
            config_of(objective, size, seed, text_of(folder), updates=1, device=device),
            run=str(run),
            **{"optimizer.lr": 0.0},
        )
        metrics = {}
    seconds = time.process_time() - started
    return {
        "objective": name,
        "size": size,
        "seed": seed,
        "device": device,
        "precision": precision,
        "limit": updates,
        "updates": own,
        "seconds": round(seconds, 1),
        "metrics": {k: round(v, 4) for k, v in metrics.items()},
        "probe": probe(run, device),
    }


# how each objective says that it learned something: the number of its validation, and what it is without learning
LEARNED = {
    "BERT": ("masked_lm/accuracy", "accuracy at masked positions"),
    "Replace MLM": ("replace_mlm/accuracy", "accuracy at chosen positions"),
    "ELECTRA 15%": ("replaced_token_detection/auc", "AUC (0.5 is chance)"),
    "ELECTRA": ("replaced_token_detection/auc", "AUC (0.5 is chance)"),
    "All-Tokens MLM": ("all_tokens_mlm/restored", "replaced tokens restored"),
    "Electric": ("noise_contrastive/auc", "AUC (0.5 is chance)"),
}


def report(size: str, limit: int, device: str, precision: str) -> str:
    rows = []
    records = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    for objective in ("untrained", *OBJECTIVES):
        own = [
            r
            for r in records
            if (r["objective"], r["size"], r["device"], r["precision"])
            == (objective, size, device, precision)
            and r["limit"] in (limit, 0)
        ]
        if not own:
            continue

        def shown(values: Sequence[float], digits: int = 3) -> str:
            return (
                f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
                if values
                else ""
            )

        key, what = LEARNED.get(objective, ("", ""))
        rows.append(
            [
                objective,
                len(own),
                f"{own[0]['updates']:,}" if own[0]["limit"] else "0",
                *(shown([r["probe"][name] for r in own if name in r["probe"]]) for name in PROBES),
                f"{what} {shown([r['metrics'][key] for r in own])}" if key else "",
                shown([r["seconds"] for r in own], 0),
            ]
        )
    return table(
        [
            "objective",
            "seeds",
            "updates",
            *(f"{name}, {metric}" for name, (metric, _) in PROBES.items()),
            "its own measure on held-out text",
            "CPU s" if device == "cpu" else "s",
        ],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--updates", type=int, default=3000, help="of BERT; the others get what costs as much"
    )
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--only", nargs="*", choices=[*OBJECTIVES, "untrained"])
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after these"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--folder", type=Path, help="where runs and unpacked text go (default: a temporary folder)"
    )
    parser.add_argument(
        "--report", action="store_true", help="run nothing, make the table of what has been run"
    )
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    import torch

    device = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if arguments.device == "auto"
        else arguments.device
    )
    how = (device, arguments.precision)
    if not arguments.report:
        run_all(arguments, *how)
    made = report(arguments.size, arguments.updates, *how)
    print(made)
    if arguments.write:
        write("objectives", made)


def run_all(arguments: argparse.Namespace, device: str, precision: str) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
        done = {
            (r["objective"], r["size"], r["seed"], r["limit"], r["device"], r["precision"])
            for r in map(json.loads, lines)
        }
        for seed in arguments.seeds:
            for objective in arguments.only or ["untrained", *OBJECTIVES]:
                limit = 0 if objective == "untrained" else arguments.updates
                if (objective, arguments.size, seed, limit, device, precision) in done:
                    continue
                if time.monotonic() - began > 60 * arguments.minutes:
                    print("out of time; the same command goes on", file=sys.stderr)
                    return
                record = run_one(
                    "BERT" if objective == "untrained" else objective,
                    arguments.size,
                    seed,
                    limit,
                    folder,
                    device,
                    precision,
                )
                with open(RESULTS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                print(record, flush=True)
