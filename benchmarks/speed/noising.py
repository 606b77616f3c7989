"""Compare the masking speed of `bert_mask`, keys and views included, with Hugging Face's collator on the same tokens.

    python -m benchmarks noising [--repetitions 30] [--write]

One thread, one process, in turns, CPU time. Both receive batches of token ids as tensors, without padding, with
[CLS] and [SEP]; both choose 15% and replace 80/10/10. `fwk` chooses an exact share per sequence by keyed hashes
and returns a view (noised tokens, targets, positions, validity, what changed); the collator draws from torch's
global generator and returns inputs and labels. Tiny batches are noised as in the trainer: batches of 32768
tokens in total per call (`one call per batch`: each batch alone). The collator gets one batch per call, as from
`Trainer`.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch

from benchmarks.common import ratio, table, taking_turns, write
from fwk.contracts.context import BuildContext, Vocabulary
from fwk.contracts.views import Batch
from fwk.engine.feed.joined import JoinedViews
from fwk.engine.feed.loader import MICRO_BATCHES_PER_CALL, POSITIONS_PER_CALL
from fwk.engine.feed.static import StaticViews
from fwk.noisers.bert_mask import BertMask

SIZE, SPECIAL = 30522, (0, 100, 101, 102, 103)
PAD, UNK, CLS, SEP, MASK = SPECIAL
SHAPES = ((8, 16), (32, 128), (256, 128), (64, 512), (16, 2048))


def collator():
    """Return a DataCollatorForLanguageModeling with a tokenizer of BERT's special ids that needs no file."""
    from transformers import BertTokenizer, DataCollatorForLanguageModeling

    words = [f"w{number}" for number in range(SIZE)]
    for name, number in zip(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), SPECIAL):
        words[number] = name
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    wanted = dict(
        zip(
            ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id"),
            SPECIAL,
        )
    )
    wrong = {
        name: getattr(tokenizer, name)
        for name, number in wanted.items()
        if getattr(tokenizer, name) != number
    }
    if wrong or len(tokenizer) != SIZE:
        raise SystemExit(
            f"the tokenizer has {len(tokenizer)} tokens and the special ids {wrong}, expected {SIZE} and {wanted}"
        )
    return DataCollatorForLanguageModeling(tokenizer)


def batches_of(B: int, T: int, count: int) -> torch.Tensor:
    """Return token ids [count * B, T]."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(1000, SIZE, (count * B, T)))
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    return tokens


def compare(
    B: int, T: int, repetitions: int, joined: bool
) -> tuple[float, float, tuple[float, float, float]]:
    """Return tokens per second of `fwk` and of the collator, and the median ratio with its quartiles."""
    vocabulary = Vocabulary(
        size=SIZE, pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK, special=SPECIAL
    )
    noiser = BertMask(BertMask.Config(), BuildContext(name="masked", vocabulary=vocabulary))
    make = StaticViews(1, {"masked": noiser}, {"masked": "batch"})
    count = min(MICRO_BATCHES_PER_CALL, max(1, POSITIONS_PER_CALL // (B * T)))
    rows = batches_of(B, T, count)
    mask, special = torch.ones_like(rows, dtype=torch.bool), (rows == CLS) | (rows == SEP)
    draws = torch.arange(len(rows))

    def batch(rows_of: slice) -> Batch:
        return Batch(
            inputs={"tokens": rows[rows_of]},
            draws=draws[rows_of],
            mask=mask[rows_of],
            special=special[rows_of],
        )

    alone = [batch(slice(i * B, (i + 1) * B)) for i in range(count)]
    whole = batch(slice(None))
    numbers = [own.draws.numpy() for own in alone]

    def ours() -> None:
        if joined:
            for views in JoinedViews.joining(make(whole, "train"), numbers):
                views["masked"].tokens  # noqa: B018, what an update takes
        else:
            for own in alone:
                make(own, "train")

    collate = collator()
    examples = [
        [
            {"input_ids": row, "attention_mask": content}
            for row, content in zip(own.tokens, own.mask.long())
        ]
        for own in alone
    ]

    def theirs() -> None:
        for own in examples:
            collate(own)

    for _ in range(3):
        ours()
        theirs()
    repeat = max(1, (1 << 16) // rows.numel())
    times = taking_turns([ours, theirs], repetitions, repeat)
    return *(rows.numel() / statistics.median(own) for own in times), ratio(times[1], times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for B, T in SHAPES:
        small = B * T * 2 <= POSITIONS_PER_CALL
        for joined in (True, False) if small else (False,):
            ours, theirs, (middle, low, high) = compare(B, T, arguments.repetitions, joined)
            how = "" if not small else "as the trainer does" if joined else "one call per batch"
            rows.append(
                [
                    f"{B} x {T}",
                    how,
                    f"{ours / 1e6:.1f}",
                    f"{theirs / 1e6:.2f}",
                    f"{middle:.1f} ({low:.1f} to {high:.1f})",
                ]
            )
    made = table(
        ["batch", "", "`fwk`, million tokens/s", "collator, million tokens/s", "ratio (quartiles)"],
        rows,
    )
    print(made)
    if arguments.write:
        import transformers

        write("noising", made, facts={"transformers": transformers.__version__, "threads": 1})
