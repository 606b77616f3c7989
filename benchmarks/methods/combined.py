"""Measure the cost of combining five objectives in one config.

Masked LM, Semantic-Augment, replaced-token detection, corrective LM and sequence contrast train together,
beside one criterion that needs the same views, and beside five separate updates.

    python -m benchmarks combined [--repetitions 9] [--size mini] [--write]

BERT-mini (4 x 256), length 128, vocabulary 8,192, an auxiliary network of two layers; in one process, in turns;
CPU time of one thread. `one criterion` reads masked, remasked, corrupted and cropped views, and has one softmax
over the masked positions of the first, and the mean square of the features of the others. `each apart`: the sum
of five updates, one per objective. FLOPs are those of `fwk.flops`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common import ratio, table, taking_turns, write
from fwk import Criterion, LossTerm, Output, Read, option, register
from fwk.nn.masked_lm_head import MaskedLMHead, count_chosen, masked_lm_sums
from fwk.testing import batches_of, tiny_config, trainer_of

SIZES = {
    "mini": (16, {"size": "mini"}),
    "small": (8, {"size": "small"}),
    "toy": (8, {"layers": 1, "width": 32, "heads": 2}),
}
VIEWS = {
    "masked": {"noiser": "bert_mask"},
    "remasked": {"noiser": "bert_mask"},
    "cropped": {"noiser": "crop"},
    "corrupted": {
        "noiser": "masked_lm",
        "of": "masked",
        "sampling": "without_dropout",
        "network": {"name": "scaled", "width": 1.0, "layers": 0.5},
    },
}
FIVE = {
    "masked_lm": ("masked",),
    "semantic_augment": ("masked", "remasked"),
    "replaced_token_detection": ("masked", "corrupted"),
    "corrective_lm": ("masked", "corrupted"),
    "sequence_contrastive": ("masked", "corrupted", "cropped"),
}  # and the views of each


@register("criterion", "four_views_of_the_benchmark")
class FourViews(Criterion):
    """Masked LM on one view, with a negligible loss on three more views."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        names: tuple[str, ...] = option(("masked", "remasked", "corrupted", "cropped"), "the views")

    def __init__(self, config: Config, build: Any):
        super().__init__(config, build)
        self.head = MaskedLMHead(build.encoder, build.vocabulary.size)

    @classmethod
    def reads(cls, config: Config) -> dict[str, Read]:
        return dict.fromkeys(config.names, Read())

    @classmethod
    def flops(cls, config: Config, encoder: Any, text: Any) -> float:
        return encoder[0].softmax(text)

    def normalizers(self, views: Any, context: Any) -> dict[str, torch.Tensor]:
        first, *others = (views[name] for name in self.config.names)
        return {
            "masked_lm": count_chosen(first),
            "square": sum(view.content.sum() for view in others),
        }

    def forward(self, views: Any, context: Any) -> Output:
        first, *others = (views[name] for name in self.config.names)
        square = sum(
            view.encoded.features.float().square().mean(-1).masked_fill(~view.content, 0.0).sum()
            for view in others
        )
        return Output(
            terms={
                "masked_lm": LossTerm(masked_lm_sums(self.head, first)[0]),
                "square": LossTerm(square),
            }
        )


def config_of(criteria: Iterable[str], size: str) -> Any:
    batch, model = SIZES[size]
    read = {view for name in criteria for view in FIVE.get(name, VIEWS)}
    return tiny_config(
        {
            "task": {
                "name": "synthetic",
                "sequences": 4096,
                "length": 128,
                "shortest": None,
                "vocabulary": 8192,
                "second_source": 0.0,
            },
            "model": {
                "layers": None,
                "width": None,
                "heads": None,
                **model,
                "positions": "learned",
                "dropout": 0.1,
                "attention_dropout": 0.1,
            },
            "criterion": {name: {} for name in criteria},
            "views": {name: view for name, view in VIEWS.items() if name in read},
            "train": {"updates": 100_000, "batch": batch, "precision": "fp32"},
            "schedule": {"name": "constant", "warmup": 0},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--size", choices=list(SIZES), default="mini")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = [FIVE, ("four_views_of_the_benchmark",), *((name,) for name in FIVE)]
    contexts = [trainer_of(config_of(names, arguments.size)) for names in sets]
    trainers = [context.__enter__() for context in contexts]

    def updater(trainer: Any) -> Callable[[], Any]:
        batches = batches_of(trainer.run)
        return lambda: trainer.step(next(batches))

    contenders = [updater(trainer) for trainer in trainers]
    for update in contenders:
        update()
    times = taking_turns(contenders, arguments.repetitions)
    flops = [trainer.run.operations.update for trainer in trainers]
    apart = [sum(each) for each in zip(*times[2:])]
    rows = [
        ["all five", times[0], flops[0]],
        ["one criterion", times[1], flops[1]],
        ["each apart", apart, sum(flops[2:])],
        *([f"{name} alone", own, count] for name, own, count in zip(FIVE, times[2:], flops[2:])),
    ]
    made = table(
        ["update", "ms", "all five ÷ this (quartiles)", "FLOPs", "all five ÷ this"],
        [
            [
                name,
                f"{statistics.median(own) * 1e3:.0f}",
                "1"
                if own is times[0]
                else "{:.3f} ({:.3f} to {:.3f})".format(*ratio(times[0], own)),
                f"{count:.3g}",
                f"{flops[0] / count:.3f}",
            ]
            for name, own, count in rows
        ],
    )
    print(made)
    if arguments.write:
        write("combined", made, facts={"model": arguments.size})
    for context in contexts:
        context.__exit__(None, None, None)
