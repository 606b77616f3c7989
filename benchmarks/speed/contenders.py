"""Time one training run of one contender update by update and print JSON; `hf_trainer` and `session` start it.

    python -m benchmarks contenders fwk --layers 4 --width 256 --batch 32 --length 128 --updates 8
    python -m benchmarks contenders hf  --layers 4 --width 256 --batch 32 --length 128 --updates 8

`fwk`: `fwk.train` on masked LM with everything but the terminal hook. `hf`: `transformers.Trainer` on
`BertForMaskedLM` with `DataCollatorForLanguageModeling`, the fused AdamW, no evaluation, no reports. Both read
the same synthetic token sequences of equal length (--shortest: of lengths down to that, padded), mask 15%, clip at 1
and keep BERT's dropout of 0.1. A time spans the ends of two updates, so it includes reading, masking, forward,
backward, optimizer and bookkeeping. A GPU works behind the host: there --block updates are timed as one, so that the
clock does not make the host wait after each of them. A run ends after the timed updates, without saving.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from typing import Any

VOCABULARY, SPECIAL = 30_522, 5


class Measured(BaseException):
    """Ends a run whose updates are timed; no handler of errors catches it."""


class Stopwatch:
    """Wall and CPU seconds per update between calls of `lap`, one call after each update.

    The first `warm` updates are dropped. `updates` more are timed, `block` of them as one; then `lap` raises Measured.
    """

    def __init__(self, warm: int, updates: int, device: str, block: int = 1):
        self.warm, self.updates, self.block = warm, updates, block
        self.cuda = device.startswith("cuda")
        self.done = 0
        self.first = 0.0  # seconds of the first update, which compiles
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.last = (time.perf_counter(), time.process_time())

    def lap(self) -> None:
        self.done += 1
        timed = self.done - self.warm
        if self.done > 1 and (timed < 0 or timed % self.block):
            return
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        if self.done == 1:
            self.first = now[0] - self.last[0]
        if timed > 0:
            self.wall.append((now[0] - self.last[0]) / self.block)
            self.cpu.append((now[1] - self.last[1]) / self.block)
        self.last = now
        if timed >= self.updates:
            raise Measured

    def result(self) -> dict[str, Any]:
        return {
            "wall": statistics.median(self.wall),
            "fastest": min(self.wall),
            "slowest": max(self.wall),
            "cpu": statistics.median(self.cpu),
            "first": self.first,
            "laps": len(self.wall),
        }


def task_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "synthetic",
        "sequences": arguments.batch * 16,
        "length": arguments.length,
        "shortest": arguments.shortest,
        "vocabulary": VOCABULARY,
    }


def run_fwk(arguments: argparse.Namespace, watch: Stopwatch) -> None:
    import fwk
    from fwk.engine.speed import compiling

    compiling.BACKEND = arguments.backend

    @fwk.register("hook", "stopwatch")
    class Laps:
        listens_only = True

        def __init__(self, config: None):
            pass

        @fwk.hookimpl(trylast=True)
        def fwk_update_end(self) -> None:
            watch.lap()

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Measured):
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
                    "updates": arguments.warm + arguments.updates + 1,
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

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Measured):
        chosen = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch,
            max_steps=arguments.warm + arguments.updates + 1,
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
            torch_compile_backend=arguments.backend if arguments.compile else None,
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
    parser.add_argument(
        "--shortest", type=int, help="of sequences whose lengths vary; the rest is padding"
    )
    parser.add_argument("--updates", type=int, default=8, help="timed updates")
    parser.add_argument("--block", type=int, default=1, help="updates that are timed as one")
    parser.add_argument("--warm", type=int, default=3, help="updates before the clock counts")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; eager: trace only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    watch = Stopwatch(arguments.warm, arguments.updates, arguments.device, arguments.block)
    {"fwk": run_fwk, "hf": run_hf}[arguments.contender](arguments, watch)
    found = watch.result()
    if arguments.device.startswith("cuda"):
        import torch

        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(found))
