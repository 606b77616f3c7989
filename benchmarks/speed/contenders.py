"""Time one training run of one contender update by update and print JSON; `hf_trainer` and `gpu` start it.

    python -m benchmarks contenders fwk --layers 4 --width 256 --batch 32 --length 128 --updates 8
    python -m benchmarks contenders hf  --layers 4 --width 256 --batch 32 --length 128 --updates 8

`fwk`: `fwk.train` on masked LM with everything but the terminal hook. `hf`: `transformers.Trainer` on
`BertForMaskedLM` with `DataCollatorForLanguageModeling`, the fused AdamW, no evaluation, no reports. Both read
the same synthetic token sequences of equal length, mask 15%, clip at 1 and keep BERT's dropout of 0.1. A time
spans the ends of two updates, so it includes reading, masking, forward, backward, optimizer and bookkeeping.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any

VOCABULARY, SPECIAL = 30_522, 5


class Stopwatch:
    """Wall and CPU seconds between calls of `lap`; the first `warm` laps are dropped."""

    def __init__(self, warm: int, device: str):
        self.warm, self.cuda = warm, device.startswith("cuda")
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.last = (time.perf_counter(), time.process_time())

    def lap(self) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        self.wall.append(now[0] - self.last[0])
        self.cpu.append(now[1] - self.last[1])
        self.last = now

    def result(self) -> dict[str, Any]:
        wall, cpu = self.wall[self.warm :], self.cpu[self.warm :]
        return {
            "wall": statistics.median(wall),
            "cpu": statistics.median(cpu),
            "first": self.wall[0],
            "laps": len(wall),
        }


def task_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "synthetic",
        "sequences": arguments.batch * 16,
        "length": arguments.length,
        "vocabulary": VOCABULARY,
    }


def run_fwk(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    import fwk

    @fwk.register("hook", "stopwatch")
    class Laps:
        listens_only = True

        def __init__(self, config: None):
            pass

        @fwk.hookimpl(trylast=True)
        def fwk_update_end(self) -> None:
            watch.lap()

    with tempfile.TemporaryDirectory() as folder:
        fwk.train(
            {
                "task": task_of(arguments),
                "run": f"{folder}/run",
                "model": {
                    "name": "bert",
                    "layers": arguments.layers,
                    "width": arguments.width,
                    "heads": arguments.width // 64,
                    "positions": "learned",
                },
                "criterion": {"masked_lm": {}},
                "schedule": {"name": "linear"},
                "optimizer": {"name": "adamw", "lr": 1e-4},
                "hooks": {"terminal": None, "summary": None, "laps": {"name": "stopwatch"}},
                "train": {
                    "updates": arguments.warm + arguments.updates,
                    "batch": arguments.batch,
                    "validate_every": 0,
                    "save_every": 0,
                    "precision": arguments.precision,
                    "compile": arguments.compile,
                    "device": arguments.device,
                    "threads": arguments.threads,
                    "workers": arguments.workers,
                    "deterministic": not arguments.device.startswith("cuda"),
                    "validate_batches": 1,
                },
            }
        )


def run_hf(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not arguments.device.startswith("cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    import fwk  # noqa: F401  the same made-up text
    from fwk.components.registry import registry

    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4} | {
        f"w{i}": i for i in range(5, VOCABULARY)
    }
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    options = {key: value for key, value in task_of(arguments).items() if key != "name"}
    synthetic = registry.get("task", "synthetic").cls
    source = synthetic(synthetic.Config(**options), 1).sources("train")["a"]
    examples = [{"input_ids": [2, *source[i][0].tolist(), 3]} for i in range(len(source))]
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=arguments.width,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.width // 64,
        intermediate_size=4 * arguments.width,
        max_position_embeddings=arguments.length,
    )
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    class Laps(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.lap()

    with tempfile.TemporaryDirectory() as folder:
        chosen = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch,
            max_steps=arguments.warm + arguments.updates,
            learning_rate=1e-4,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            weight_decay=0.01,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not arguments.device.startswith("cuda"),
            bf16=arguments.precision == "bf16",
            fp16=arguments.precision == "fp16",
            torch_compile=arguments.compile,
            dataloader_num_workers=arguments.workers,
        )
        transformers.Trainer(
            model=transformers.BertForMaskedLM(config),
            args=chosen,
            train_dataset=examples,
            callbacks=[Laps()],
            data_collator=transformers.DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=0.15
            ),
        ).train()


def flops(layers: int, width: int, length: int, batch: int, predicted: int) -> float:
    """Return the floating-point operations of one update, counting matrix products only.

    The backward pass counts as two forward passes. predicted: positions per sequence whose logits are made.
    """
    per_token = layers * (
        2 * 12 * width * width + 2 * 2 * length * width
    )  # projections and feed-forward; attention
    head = predicted * (2 * width * width + 2 * width * VOCABULARY)
    return 3.0 * batch * (length * per_token + head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contender", choices=["fwk", "hf"])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--updates", type=int, default=8, help="timed updates")
    parser.add_argument("--warm", type=int, default=3, help="updates before the clock counts")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    watch = Stopwatch(arguments.warm, arguments.device)
    {"fwk": run_fwk, "hf": run_hf}[arguments.contender](arguments, watch)
    found = watch.result()
    if arguments.device.startswith("cuda"):
        import torch

        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))
