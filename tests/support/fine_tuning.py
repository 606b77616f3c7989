"""The papers' protocols of fine-tuning as values by dotted key, and tiny files of the shapes that they read."""

from __future__ import annotations

import json
from pathlib import Path

from fwk.data.layouts.glue import glue_task

HEADS = {"stsb": "regression", "squad": "answer_span", "swag": "multiple_choice"}
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
SHARED = {
    "optimizer.name": "adamw",
    "optimizer.eps": 1e-6,
    "schedule.name": "linear",
    "schedule.warmup": 0.1,
    "schedule.final_ratio": 0.0,
}
PROTOCOLS = {
    "semantic_augment": {"optimizer.weight_decay": 0.1, "optimizer.lr": 3e-5, "train.epochs": 3},
    "coco_lm": {
        "optimizer.betas": [0.9, 0.98],
        "optimizer.weight_decay": 0.01,
        "optimizer.layer_decay": 1.0,
        "train.clip": 0.0,
        "train.validate_epochs": 0.5,
    },
    "electra": {
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 0.0,
        "optimizer.betas": [0.9, 0.999],
        "optimizer.layer_decay": 0.8,
        "train.batch": 32,
    },
    "bam_single": {
        "model.pooler": True,
        "optimizer.lr": 5e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.layer_decay": 0.9,
        "train.batch": 32,
        "train.epochs": 3,
    },
}
# learning rate, epochs and batch of COCO-LM's released code, base++ and large++
COCO_LM = {
    "mnli": ((2e-5, 2, 32), (5e-6, 3, 32)),
    "qqp": ((3e-5, 5, 32), (1e-5, 5, 32)),
    "qnli": ((1e-5, 5, 32), (7e-6, 2, 32)),
    "sst2": ((2e-5, 5, 32), (5e-6, 2, 32)),
    "cola": ((2e-5, 10, 16), (1e-5, 10, 16)),
    "rte": ((2e-5, 10, 16), (2e-5, 5, 32)),
    "mrpc": ((4e-5, 10, 16), (2e-5, 5, 16)),
    "stsb": ((4e-5, 10, 16), (2e-5, 10, 16)),
}
POOLING = {"bam_single": "pooler"}
HIDDEN = {"coco_lm": "tanh"}


def settings(protocol: str, task: str, **own: object) -> dict[str, object]:
    """Return the values of one file by dotted key. own: with _ in place of the first dot."""
    head = HEADS.get(task, "classification")
    of_task: dict[str, object] = {"task.set": task} if task in GLUE else {}
    if task != "squad":
        of_task[f"criterion.{head}.pooling"] = POOLING.get(protocol, "cls")
        of_task[f"criterion.{head}.hidden"] = HIDDEN.get(protocol, "none")
    if task in GLUE:
        doubled = protocol in ("electra", "bam_single") and task in ("mrpc", "stsb")
        of_task["task.double_pairs"] = doubled
    changes = {key.replace("_", ".", 1): value for key, value in own.items()}
    return {**SHARED, **PROTOCOLS[protocol], **of_task, **changes}


def table() -> dict[str, dict[str, object]]:
    """Return the values of every file under configs/papers/fine_tuning by its name there."""
    result = {}
    for task in GLUE:
        result[f"semantic_augment_{task}"] = settings("semantic_augment", task)
        result[f"bam_single_{task}"] = settings("bam_single", task)
        epochs = 10 if task in ("rte", "stsb") else 3
        result[f"electra_{task}"] = settings("electra", task, train_epochs=epochs)
        for ending, (lr, epochs, batch) in zip(("", "_large_plus"), COCO_LM[task]):
            result[f"coco_lm_{task}{ending}"] = settings(
                "coco_lm", task, optimizer_lr=lr, train_epochs=epochs, train_batch=batch
            )
    joint = {"criterion.answer_span.head": "joint", "criterion.answer_span.longest": 30}
    alone = {"criterion.answer_span.head": "independent"}
    windows = {"task.length": 512, "task.stride": 128}
    result["electra_squad"] = {**settings("electra", "squad", train_epochs=2), **windows, **joint}
    result["coco_lm_squad"] = {**settings("coco_lm", "squad", train_epochs=3), **windows, **alone}
    result["semantic_augment_swag"] = settings(
        "semantic_augment", "swag", optimizer_weight_decay=0.01
    )
    return result


def bam_table() -> dict[str, dict[str, object]]:
    """Return the values of the files configs/papers/bam_*.yaml by name."""
    heads = {name: HEADS.get(name, "classification") for name in GLUE}
    multi = {
        **SHARED,
        "task.name": "several",
        "task.exponent": 0.75,
        "model.pooler": True,
        "optimizer.lr": 1e-4,
        "optimizer.layer_decay": 0.9,
        "train.epochs": 6,
        "train.batch": 128,
        **{f"criterion.{name}.name": head for name, head in heads.items()},
        **{f"criterion.{name}.pooling": "pooler" for name in GLUE},
        **{f"criterion.{name}.gold": {"from": 0.0, "to": 1.0} for name in GLUE},
    }
    gold = {share: {f"criterion.{name}.gold": share for name in GLUE} for share in (0.0, 0.5)}
    return {
        "multi": multi,
        "multi_to_multi": multi,
        "single_to_multi": multi,
        "lambda0": {**multi, **gold[0.0]},
        "lambda05": {**multi, **gold[0.5]},
        "no_sampling": {**multi, "task.exponent": 1.0},
        "no_layer_decay": {**multi, "optimizer.layer_decay": 1.0},
        "single_to_single": {
            **SHARED,
            **PROTOCOLS["bam_single"],
            "criterion.classification.pooling": "pooler",
        },
    }


WORDS = (
    *("door", "house", "apple", "barn", "red", "green", "old"),
    *("new", "small", "white", "garden", "school", "kitchen", "attic"),
)


def sentence(number: int) -> str:
    """Return a short sentence, a function of the number."""
    a, b, c = (WORDS[(number * factor + factor) % len(WORDS)] for factor in (1, 3, 5))
    return f"the {a} {b} is in the {c}"


def write_glue(folder: Path) -> None:
    """Write train and development files of the tasks of GLUE, with eight examples each."""
    for name in GLUE:
        task = glue_task(name)
        columns = [names[0] for names in task.texts.values()]
        values = task.classes or ("0.5", "3.0", "5.0")
        lines = ["\t".join(["index", *columns, task.labels[-1]])]
        for n in range(8):
            texts = [sentence(n + place) for place in range(len(columns))]
            lines.append("\t".join([str(n), *texts, values[n % len(values)]]))
        (folder / task.folder).mkdir(parents=True, exist_ok=True)
        for split in task.splits:
            if not split.startswith("test"):
                (folder / task.folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def write_squad(path: Path) -> None:
    """Write eight questions in SQuAD's JSON, half of them without an answer."""
    paragraphs = []
    for n in range(8):
        context = f"{sentence(n)}. {sentence(n + 1)}."
        answer = {"text": context.split()[1], "answer_start": context.index(context.split()[1])}
        question = {
            "id": str(n),
            "question": f"what is in the {WORDS[n]}?",
            "is_impossible": n % 2 == 1,
            "answers": [] if n % 2 else [answer],
        }
        paragraphs.append({"context": context, "qas": [question]})
    document = {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(document))


def write_swag(path: Path) -> None:
    """Write eight examples in the columns of SWAG."""
    endings = [f"ending{place}" for place in range(4)]
    lines = [",".join(["video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source"])]
    lines[0] += "," + ",".join([*endings, "label"])
    for n in range(8):
        texts = [sentence(n), sentence(n), "the", "gold", *(sentence(n + p) for p in range(4))]
        lines.append(",".join(["v", str(n), *texts, str(n % 4)]))
    path.write_text("\n".join(lines) + "\n")


def tiny_task(task: dict, folder: Path) -> dict:
    """Return the options of a task of labelled examples, with files of the folder and short sequences."""
    own = {key: task[key] for key in ("name", "set", "double_pairs", "layout") if key in task}
    if task["name"] == "glue":
        files = {"data": str(folder / "GLUE")}
    else:
        name = {"squad": "squad.json", "multiple_choice": "swag.csv"}[task["name"]]
        files = {"data": str(folder / name), "valid": str(folder / name)}
    windows = {"stride": 8, "question_length": 12} if task["name"] == "squad" else {}
    return {**own, **files, **windows, "length": 32, "vocabulary": 80}


def write_files(folder: Path) -> None:
    """Write the files that `tiny_task` names."""
    write_glue(folder / "GLUE")
    write_squad(folder / "squad.json")
    write_swag(folder / "swag.csv")
