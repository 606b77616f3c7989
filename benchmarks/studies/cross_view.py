"""Study taggers and parsers from few labels: cross-view training and its baselines on UD English EWT.

    python -m benchmarks cross_view [--study methods] [--seeds 1,2,3] [--workers 2] [--minutes 45] [--write]
    python -m benchmarks cross_view --study lengths | dropout | fractions | sizes | modules | tasks
    python -m benchmarks cross_view --study methods --report       # the table from the stored results

methods    supervised training, word dropout, virtual adversarial training, mean teacher, cross-view training, the same
           with chunking (CoNLL-2000) and named entities (WNUT-17) beside; parts of speech and dependency trees with 10%
           of the labels, the other sentences unlabelled
lengths    supervised, cross-view and multi-task training for as many updates and for three times as many
dropout    the methods with a dropout on labelled sentences of 0.3, which suits supervised training here, and with
           the paper's 0.5
fractions  supervised and cross-view training with 2% to 50% of the labels
sizes      the same two with encoders of several widths
modules    cross-view training without some of the auxiliary modules (Clark et al. 2018, table 4)
tasks      many tasks at once: supervised; with unlabelled sentences that train all tasks, or one task at a time

All runs of a study make the same number of updates unless noted; half of the updates of semi-supervised methods
are on unlabelled sentences, so a supervised run of half the updates sees the labels equally often. Scores are
those of the last update on the held-out half of the development set, with averaged weights. Every run is a
process of one thread, `--workers` of them at a time; results are kept in benchmarks/studies/cross_view.jsonl,
one line per run, so an interrupted command resumes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.common import DATA, ROOT, own_process, table, write

HERE = Path(__file__).parent
RESULTS = HERE / "cross_view.jsonl"
PAGE = ROOT / "docs" / "results.md"

SIZES = {
    "32": {"width": 32, "words": 32},
    "64": {"width": 64, "words": 64},
    "128": {"width": 128, "words": 128},
}
EWT = {
    "path": "ud-ewt-train.conllu.xz",
    "valid": "ud-ewt-dev-even.conllu.xz",
    "labels": {"pos": "upos", "tree": "tree"},
}
OTHERS = {
    "chunks": {
        "path": "conll2000-train.txt.xz",
        "columns": ["word", "pos", "tag"],
        "labels": {"chunk": {"spans": "tag"}},
    },
    "entities": {
        "path": "wnut17-train.conll.xz",
        "valid": "wnut17-dev-even.conll.xz",
        "columns": ["word", "tag"],
        "separator": "\t",
        "labels": {"entity": {"spans": "tag"}},
    },
}
LABELS = {"ewt": ("pos", "tree"), "chunks": ("chunk",), "entities": ("entity",)}
CRITERIA = {
    "pos": "cvt_tagging",
    "tree": "cvt_parsing",
    "chunk": "cvt_tagging",
    "entity": "cvt_tagging",
}
DROPPED = {
    "plain": {"noiser": "rows", "sources": ["unlabelled"]},
    "unlabelled": {"noiser": "word_dropout", "of": "plain", "rate": 0.1},
    "teacher": {"of": "plain"},
}
AVERAGED = {"teacher": {"noiser": "identity", "of": "unlabelled", "mode": "teacher", "ema": True}}

# what each method changes: options of every criterion, views, further labelled sets, share of unlabelled updates
METHODS: dict[str, dict[str, Any]] = {
    "supervised": {"criterion": {"students": "none"}, "unlabelled_share": 0.0},
    "supervised, half of the updates": {
        "criterion": {"students": "none"},
        "unlabelled_share": 0.0,
        "updates": 0.5,
    },
    "word dropout": {"criterion": {"students": "primary"}, "views": DROPPED},
    "VAT": {"criterion": {"students": "adversarial", "adversarial_norm": 1.0}},
    "mean teacher": {"criterion": {"students": "primary", "ramp_up": 0.3}, "views": AVERAGED},
    "CVT": {},
    "CVT, ramp-up": {"criterion": {"ramp_up": 0.3}},
    "CVT, weight 0.1": {"criterion": {"cvt_weight": 0.1}},
    "multi-task supervised": {
        "criterion": {"students": "none"},
        "unlabelled_share": 0.0,
        "others": True,
    },
    "multi-task supervised, half of the updates": {
        "criterion": {"students": "none"},
        "unlabelled_share": 0.0,
        "others": True,
        "updates": 0.5,
    },
    "multi-task CVT, ramp-up": {"criterion": {"ramp_up": 0.3}, "others": True},
    "multi-task CVT, ramp-up, weight 0.25": {
        "criterion": {"ramp_up": 0.3, "cvt_weight": 0.25},
        "others": True,
    },
    "multi-task CVT, ramp-up, one task at a time": {
        "criterion": {"ramp_up": 0.3},
        "others": True,
        "turns": True,
    },
}
NO_FULL = {
    "pos": ["forward", "backward", "future", "past"],
    "tree": ["forward_forward", "forward_backward", "backward_forward", "backward_backward"],
}
MODULES: dict[str, dict[str, list[str]]] = {
    "all": {},
    "without full": NO_FULL,
    "without forward, backward": {"pos": ["future", "past", "full"]},
    "without future, past": {"pos": ["forward", "backward", "full"]},
    "full alone": {"pos": ["full"], "tree": ["full"]},
    "one direction for head and dependent": {
        "tree": ["forward_forward", "backward_backward", "full"]
    },
    "other directions for head and dependent": {
        "tree": ["forward_backward", "backward_forward", "full"]
    },
}


@dataclass(frozen=True)
class Run:
    method: str
    fraction: float = 0.1
    size: str = "64"
    modules: str = "all"
    dropout: float = 0.3  # on labelled sentences; better here than the paper's 0.5 (study dropout)
    times: int = 1  # as many updates


COMPARED = ("supervised", "CVT, ramp-up")
STUDIES = {
    "methods": [
        *(
            Run(method)
            for method in METHODS
            if not method.startswith(("multi-task", "CVT, weight"))
        ),
        Run("multi-task CVT, ramp-up"),
    ],
    "lengths": [
        Run(method, times=times)
        for times in (1, 3)
        for method in (*COMPARED, "multi-task CVT, ramp-up")
    ],
    "dropout": [
        Run("supervised", dropout=0.2),
        *(
            Run(method, dropout=rate)
            for rate in (0.3, 0.5)
            for method in METHODS
            if not method.startswith("multi-task")
        ),
    ],
    "fractions": [
        Run(method, fraction=share) for share in (0.02, 0.05, 0.1, 0.25, 0.5) for method in COMPARED
    ],
    "sizes": [Run(method, size=size) for size in SIZES for method in COMPARED],
    "modules": [Run("CVT, ramp-up", modules=modules) for modules in MODULES],
    "tasks": [Run(method) for method in METHODS if method.startswith("multi-task")],
}
COLUMNS = {
    "methods": ("method",),
    "lengths": ("updates", "method"),
    "dropout": ("dropout", "method"),
    "fractions": ("fraction", "method"),
    "sizes": ("size", "method"),
    "modules": ("modules",),
    "tasks": ("method",),
}
METRICS = {
    "pos/accuracy": "tags",
    "tree/uas": "UAS",
    "tree/las": "LAS",
    "entity/f1": "entities, F1",
}


def config_of(
    run: Run, seed: int, updates: int, device: str = "cpu", precision: str = "fp32"
) -> dict[str, Any]:
    changes = METHODS[run.method]
    sets = {"ewt": EWT, **(OTHERS if changes.get("others") else {})}
    labels = [label for name in sets for label in LABELS[name]]
    criteria: dict[str, dict[str, Any]] = {}
    for number, label in enumerate(labels):
        criteria[label] = {
            "name": CRITERIA[label],
            "label": label,
            **({"hidden": 32} if label == "tree" else {}),
            **changes.get("criterion", {}),
        }
        if label in MODULES[run.modules]:
            criteria[label]["modules"] = MODULES[run.modules][label]
        if changes.get("turns"):
            criteria[label] |= {"turn": number, "turns": len(labels)}
    # a task at random for each labelled update: a set is as likely as it has tasks
    data = {
        name: {
            **given,
            **{key: str(DATA / given[key]) for key in ("path", "valid") if key in given},
            "fraction": run.fraction,
            "weight": len(LABELS[name]),
        }
        for name, given in sets.items()
    }
    return {
        "task": {
            "name": "sentences",
            "length": 60,
            "data": data,
            "unlabelled_share": changes.get("unlabelled_share", 0.5),
        },
        "model": {"name": "cnn_bilstm", "dropout": run.dropout, **SIZES[run.size]},
        "criterion": criteria,
        "views": changes.get("views", {}),
        "seed": seed,
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "schedule": {"name": "linear", "warmup": 50},
        "train": {
            "updates": round(updates * run.times * changes.get("updates", 1)),
            "batch": 16,
            "validate_every": 0,
            "save_every": 0,
            "log_every": 50,
            "device": device,
            "precision": precision,
            "ema": 0.99,
            "evaluate_average": True,
        },
        "hooks": {"terminal": None, "tensorboard": None, "summary": None},
    }


def record_of(run: Run, seed: int, updates: int, device: str, precision: str) -> dict[str, Any]:
    """Return the keys that identify a run of the studies."""
    return {
        **asdict(run),
        "seed": seed,
        "updates": updates,
        "device": device,
        "precision": precision,
    }


def run_one(run: Run, seed: int, updates: int, device: str, precision: str) -> dict[str, Any]:
    import torch

    import fwk

    torch.set_num_threads(1)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = fwk.train(
            config_of(run, seed, updates, device, precision), run=f"{folder}/run"
        ).metrics["valid"]
    return {
        **record_of(run, seed, updates, device, precision),
        "seconds": round(time.process_time() - started, 1),
        "metrics": {name: round(found[name], 5) for name in METRICS if name in found},
    }


def records() -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
        if RESULTS.exists()
        else []
    )


def run_all(runs: Sequence[Run], arguments: argparse.Namespace, device: str) -> None:
    began, lock = time.monotonic(), Lock()
    known = [
        {key: value for key, value in record.items() if key not in ("seconds", "metrics")}
        for record in records()
    ]

    def one(job: tuple[Run, int]) -> None:
        run, seed = job
        if record_of(run, seed, arguments.updates, device, arguments.precision) in known:
            return
        if time.monotonic() - began > 60 * arguments.minutes:
            print(f"out of time for {run}, seed {seed}; the same command goes on", file=sys.stderr)
            return
        record = own_process(
            [
                "-m",
                "benchmarks",
                "cross_view",
                "--one",
                json.dumps(asdict(run)),
                "--seeds",
                seed,
                "--updates",
                arguments.updates,
                "--device",
                device,
                "--precision",
                arguments.precision,
            ]
        )
        with lock:
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(f"{(time.monotonic() - began) / 60:5.1f} min  {record}", flush=True)

    with ThreadPoolExecutor(arguments.workers) as pool:
        for done in [pool.submit(one, (run, seed)) for seed in arguments.seeds for run in runs]:
            done.result()


def shown(values: Sequence[float]) -> str:
    """Return the median and range in percent."""
    middle = f"{100 * statistics.median(values):.1f}" if values else ""
    return (
        f"{middle} ({100 * min(values):.1f} to {100 * max(values):.1f})"
        if len(values) > 1
        else middle
    )


def report(study: str, updates: int, device: str, precision: str) -> str:
    rows = []
    columns = COLUMNS[study]
    for run in STUDIES[study]:
        same = [
            r
            for r in records()
            if record_of(run, r["seed"], updates, device, precision).items() <= r.items()
        ]
        if same:
            told = [
                updates * run.times if name == "updates" else getattr(run, name) for name in columns
            ]
            rows.append(
                [
                    *told,
                    len(same),
                    *(
                        shown([r["metrics"][name] for r in same if name in r["metrics"]])
                        for name in METRICS
                    ),
                    f"{statistics.median(r['seconds'] for r in same):.0f}",
                ]
            )
    empty = [
        i
        for i in range(len(columns) + 1, len(columns) + 1 + len(METRICS))
        if not any(row[i] for row in rows)
    ]
    header = [*columns, "seeds", *METRICS.values(), "CPU s"]
    return table(
        [h for i, h in enumerate(header) if i not in empty],
        [[v for i, v in enumerate(row) if i not in empty] for row in rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", choices=list(STUDIES), default="methods")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(METHODS),
        metavar="METHOD",
        help="run these methods of the study alone",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after these"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, make the table of what has been run"
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    device = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if arguments.device == "auto"
        else arguments.device
    )
    if arguments.one is not None:
        print(
            json.dumps(
                run_one(
                    Run(**arguments.one),
                    arguments.seeds[0],
                    arguments.updates,
                    device,
                    arguments.precision,
                )
            )
        )
        return
    if not DATA.is_dir():
        raise SystemExit(f"the treebank of this study is not there: {DATA}")
    if not arguments.report:
        run_all(
            [
                run
                for run in STUDIES[arguments.study]
                if not arguments.only or run.method in arguments.only
            ],
            arguments,
            device,
        )
    made = report(arguments.study, arguments.updates, device, arguments.precision)
    print(made)
    if arguments.write:
        write(arguments.study, made, PAGE)
