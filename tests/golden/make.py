"""Loss curves at full precision, one per objective: `python tests/golden/make.py [NAME]...` writes NAME.txt beside this
file. A refactor must not change them; make them again only with a change that is meant to change the numbers, and say
so in the commit."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from fwk.testing import batches_of, tiny_config, trainer_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.cases import FINE_TUNING, NEEDS, SENTENCES

HERE = Path(__file__).parent
UPDATES = 50
NOISY = {"dropout": 0.1, "attention_dropout": 0.1}
CURVES = {
    "masked_lm": {"criterion": {"masked_lm": {}}},
    "semantic_augment": {"criterion": {"semantic_augment": {}}},
    "replaced_token_detection": {"criterion": {"replaced_token_detection": {}}},
    "noise_contrastive": {"criterion": {"noise_contrastive": {}}},
    "replace_mlm": {"criterion": {"replace_mlm": {}}},
    "all_tokens_mlm": {"criterion": {"all_tokens_mlm": {}}},
    "corruption_detection": {"criterion": {"corruption_detection": {}}},
    "cloze": {
        "criterion": {"cloze": {}},
        "model": {"name": "two_tower", "layers": 2, "width": 16, "heads": 2},
    },
    "causal_lm": {"criterion": {"causal_lm": {}}, "model": {"direction": "left_to_right"}},
    "corrective_lm": {"criterion": {"corrective_lm": {}}, "model": {"buckets": 8, "farthest": 12}},
    "sequence_contrastive": {"criterion": {"sequence_contrastive": {}}},
    "coco_lm_and_semantic_augment": {
        "criterion": {
            "semantic_augment": {},
            "corrective_lm": {},
            "sequence_contrastive": {"weight": {"from": 0.0, "to": 1.0, "start": 0.1, "end": 0.5}},
        }
    },
    "cvt_tagging": {**SENTENCES, "criterion": {"cvt_tagging": {"label": "pos", "hidden": 8}}},
    "cvt_parsing": {**SENTENCES, "criterion": {"cvt_parsing": {"hidden": 6}}},
    **{name: NEEDS[name] for name in ("classification", "multilabel", "regression")},
    **{name: NEEDS[name] for name in ("consistency", "virtual_adversarial")},
    **{
        name: NEEDS[name] for name in ("multiple_choice", "answer_span", "similarity", "verbalizer")
    },
    "joint_answers": FINE_TUNING["joint answers in windows"],
    "several_tasks": FINE_TUNING["several tasks in a batch"],
    "annealed_teacher": FINE_TUNING["classes of an annealed teacher"],
    "combined": {
        "criterion": {
            "semantic_augment": {"weight": 0.5},
            "masked_lm": {"weight": {"from": 1.0, "to": 0.0}},
        }
    },
}


def curve(name: str) -> list[float]:
    """The loss of each of 50 fp32 updates: one thread, deterministic kernels, dropout on, two micro-batches."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        own = CURVES[name].get("model", {})
        noisy = (
            {"dropout": 0.3, "unlabelled_dropout": 0.1}
            if own.get("name") == "cnn_bilstm"
            else NOISY
        )
        config = tiny_config(
            {
                **CURVES[name],
                "model": {**own, **noisy},
                "optimizer": {"lr": 3e-3},
                "train": {"updates": UPDATES, "precision": "fp32", "micro_batch": 7},
            }
        )
        losses = []
        with trainer_of(config) as trainer:
            batches = batches_of(trainer.run)
            for _ in range(UPDATES):
                trainer.step(next(batches))
                losses.append(float(trainer.run.meters.read(trainer.run.world)["loss"]))
        return losses
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def machine() -> dict[str, str]:
    """What the last bits depend on: torch, the instructions it uses, and whose CPU it is (matrix products are those of
    a library that looks at that too)."""
    try:
        vendor = re.search(
            r"^vendor_id\s*:\s*(\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        vendor = None
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "vendor": vendor[1] if vendor else "unknown",
    }


def write(name: str) -> None:
    header = [f"# {key}: {value}" for key, value in machine().items()]
    text = "\n".join([*header, *(f"{loss.hex()}  {loss!r}" for loss in curve(name))]) + "\n"
    (HERE / f"{name}.txt").write_text(text, encoding="utf-8")


def read(name: str) -> tuple[dict[str, str], list[float]]:
    """Where the curve was made, and its losses."""
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    header = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    return header, [float.fromhex(line.split()[0]) for line in lines if not line.startswith("#")]


if __name__ == "__main__":
    for chosen in sys.argv[1:] or CURVES:
        write(chosen)
        print(f"{HERE / chosen}.txt: {read(chosen)[1][0]:.4f} -> {read(chosen)[1][-1]:.4f}")
