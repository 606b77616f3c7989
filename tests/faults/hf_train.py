"""The other trainer of the matrix: Hugging Face `Trainer` on a tiny `BertForMaskedLM`, with its own checkpoints.

    python hf_train.py --output_dir DIR --data FILE [--any_field_of_TrainingArguments VALUE]... [--hidden_size N]

It is a small version of `examples/pytorch/language-modeling/run_mlm.py` of transformers: it resumes from the newest
checkpoint of the output folder (`get_last_checkpoint`, as `resume_from_checkpoint=True` does), then calls `save_model`.
FILE: token ids, int64 [N, T], memory-mapped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from inside import acts
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

VOCABULARY = 24
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


class Tokens(torch.utils.data.Dataset):
    """Rows of a memory-mapped array."""

    def __init__(self, path: str, rows: slice):
        self.rows, self.read = np.load(path, mmap_mode="r")[rows], 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        self.read += 1
        acts.reach("example", self.read)
        return {"input_ids": torch.from_numpy(self.rows[index].copy())}


class Places(TrainerCallback):
    """The places of `acts`."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.count = model, {"save": 0, "validate": 0}
        model.register_state_dict_pre_hook(
            lambda *_: self.reach("save")
        )  # called first in a checkpoint
        model.register_forward_pre_hook(
            lambda module, _: None if module.training else self.reach("validate")
        )

    def reach(self, place: str) -> None:
        if self.training:
            self.count[place] += 1
            acts.reach(place, self.count[place], model=self.model)

    training = False

    def on_train_begin(self, args, state, control, **_):
        self.training = True
        acts.reach("begin", model=self.model, state=state)

    def on_step_begin(self, args, state, control, **_):
        acts.reach("update", state.global_step + 1, model=self.model, state=state)


def tokenizer() -> PreTrainedTokenizerFast:
    words = {
        word: number
        for number, word in enumerate([*SPECIAL, *(f"w{n}" for n in range(VOCABULARY - 5))])
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def main(words: list[str]) -> None:
    options = {key[2:]: value for key, value in zip(words[::2], words[1::2], strict=True)}
    data, width = options.pop("data"), int(options.pop("hidden_size", 16))
    fields = {
        key: kind(options[key])
        for key, kind in (
            ("output_dir", str),
            ("learning_rate", float),
            ("seed", int),
            ("data_seed", int),
            ("max_steps", int),
            ("dataloader_num_workers", int),
            ("per_device_train_batch_size", int),
            ("report_to", str),
            ("auto_find_batch_size", bool),
            ("optim", str),
            ("max_grad_norm", float),
        )
        if key in options
    }
    if acts.meant("begin") and acts.SPEC["act"] == "other_order":
        fields["data_seed"] = 999
    rows = len(np.load(data, mmap_mode="r"))
    size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    args = TrainingArguments(
        **{
            "max_steps": 16,
            "per_device_train_batch_size": 8 // size,
            "per_device_eval_batch_size": 8,
            "learning_rate": 5e-4,
            "save_strategy": "steps",
            "save_steps": 4,
            "save_total_limit": 3,
            "eval_strategy": "steps",
            "eval_steps": 8,
            "logging_steps": 2,
            "seed": 1,
            "data_seed": 1,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "ddp_timeout": 10,
            "ddp_backend": "gloo" if size > 1 else None,
            "ignore_data_skip": False,
            "enable_jit_checkpoint": True,
            "full_determinism": False,
            **fields,
        }
    )
    set_seed(args.seed)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=4 * width,
            max_position_embeddings=256,
        )
    )
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=Tokens(data, slice(0, rows * 4 // 5)),
        eval_dataset=Tokens(data, slice(rows * 4 // 5, rows)),
        data_collator=DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.15),
        callbacks=[Places(model)],
    )
    last = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model()


if __name__ == "__main__":
    main(sys.argv[1:])
