"""Measure the cost of cross-view training against the same modules in a loop written by hand.

    python -m benchmarks cvt [--repetitions 20] [--batch 32] [--write]

Part of speech and parsing together, every auxiliary module, the defaults of `cnn_bilstm`; 3,000 sentences of 8
to 32 words drawn from a learnable grammar, a tenth of them with labels; labelled and unlabelled updates
alternate. The loop by hand calls the same encoder, the same prediction modules and the same divergence, sums
its losses with torch's cross-entropy, and clips and steps torch's fused AdamW. Both collate the same sentences
within the measured time; they take turns, update by update, and the median of the ratios of neighboring updates
is reported. Times are CPU time of the process on one thread.

The second table shows evaluation: computing the encoder's output and the parser's scores on 64 sentences, and
decoding trees from these scores, for a trained parser and for an untrained one, which needs a search for nearly
every sentence.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.common import ratio, table, taking_turns, write
from benchmarks.speed.trainer_tax import by_fwk, optimizer_by_hand
from fwk import View
from fwk.nn.imitation import TeacherTargets
from fwk.testing import tiny_config, trainer_of
from fwk_plugins.cvt.corpora.trees import best_heads, decode

TAGS = (
    "VERB",
    "NOUN",
    "ADJ",
    "ADV",
    "ADP",
    "DET",
    "AUX",
    "PRON",
    "PROPN",
    "NUM",
    "CCONJ",
    "SCONJ",
    "PART",
    "INTJ",
    "SYM",
    "X",
    "PUNCT",
)
SMOOTHING = 0.1


def treebank(
    path: Path, sentences: int, shortest: int, longest: int, vocabulary: int = 8000, seed: int = 1
) -> Path:
    """Write a treebank in which a word determines its tag.

    The head of a word is the nearest word whose tag comes earlier in `TAGS` (an earlier word of its own
    tag counts as such), so that there is one tree; the relation is the word's tag and the side of its head.
    """
    generator, lines = random.Random(seed), []
    frequencies = [1 / (rank + 3) for rank in range(vocabulary)]
    for _ in range(sentences):
        words = generator.choices(
            range(vocabulary), frequencies, k=generator.randint(shortest, longest)
        )
        order = [(word % len(TAGS), place) for place, word in enumerate(words)]
        for place, word in enumerate(words):
            above = [other for other in range(len(words)) if order[other] < order[place]]
            head = min(above, key=lambda other: abs(other - place)) + 1 if above else 0
            tag = TAGS[word % len(TAGS)]
            relation = f"{tag.lower()}:{'left' if head <= place else 'right'}" if head else "root"
            lines.append(
                "\t".join(
                    [
                        str(place + 1),
                        f"w{word:x}",
                        "_",
                        tag,
                        "_",
                        "_",
                        str(head),
                        relation,
                        "_",
                        "_",
                    ]
                )
            )
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def config(path: Path, batch: int, **model):
    return tiny_config(
        {
            "task": {
                "name": "sentences",
                "data": {
                    "bank": {
                        "path": str(path),
                        "labels": {"pos": "upos", "tree": "tree"},
                        "fraction": 0.1,
                    }
                },
            },
            "model": {"name": "cnn_bilstm", **model},
            "criterion": {
                "pos": {"name": "cvt_tagging", "label": "pos"},
                "tree": {"name": "cvt_parsing"},
            },
            "optimizer": {"lr": 2e-3},
            "schedule": {"name": "constant", "warmup": 0},
            "train": {
                "updates": 10_000_000,
                "batch": batch,
                "precision": "fp32",
                "log_every": 10_000_000,
                "validate_every": 0,
                "save_every": 0,
            },
        }
    )


def by_hand(trainer, batch: int) -> tuple[Callable[[], None], Callable[[], torch.Tensor]]:
    """Return two functions written for these two tasks alone: one runs an update, one returns the next loss."""
    run = trainer.run
    encoder, (pos, tree) = run.module.networks["main"], run.module.criteria.values()
    sources, states = list(run.task.sources("train").values()), run.module.encoding.states["main"]
    parameters = [p for name, p in run.module.named_parameters() if name != "anchor"]
    optimizer, draws, update = optimizer_by_hand(parameters), np.arange(batch), 0

    def encoded(data, wanted: tuple[str, ...]) -> View:
        return View.from_batch(data).replace(
            encoded=encoder(data.inputs, None if data.mask.all() else data.mask, None, wanted)
        )

    def supervised(data) -> torch.Tensor:
        view = encoded(data, ())
        heads, relations = data.labels["tree_head"], data.labels["tree_relation"]
        arcs = torch.where(heads >= 0, relations * (heads.shape[1] + 1) + heads, -1)
        return F.cross_entropy(
            pos.primary(view).flatten(0, 1),
            data.labels["pos"].flatten(),
            ignore_index=-1,
            label_smoothing=SMOOTHING,
        ) + F.cross_entropy(tree.primary(view).flatten(0, 1), arcs.flatten(), ignore_index=-1)

    def imitation(data) -> torch.Tensor:
        with torch.no_grad():
            encoder.eval()
            teacher = encoded(data, ())
            encoder.train()
            imitated = {
                task: TeacherTargets(task.primary(teacher), data.mask) for task in (pos, tree)
            }
        student = encoded(data, states)
        return (
            sum(
                said.divergence(module(student))
                for task, said in imitated.items()
                for module in task.students.values()
            )
            / data.mask.sum()
        )

    def next_loss() -> torch.Tensor:
        where, indices, _ = run.order.locate(np.arange(update * batch, (update + 1) * batch))
        data = run.task.collate(sources[where[0]].many(indices.tolist()), draws, where)
        return imitation(data) if data.inputs["unlabelled"].all() else supervised(data)

    def step() -> None:
        nonlocal update
        loss = next_loss()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()  # a loop that logs reads its loss
        update += 1

    return step, next_loss


def compare(
    path: Path, batch: int, repetitions: int, updates: int, model: Mapping[str, int]
) -> tuple[list[float], list[float], float]:
    """Return seconds per update of `fwk` and of the loop by hand, one per repetition, and words per update."""
    made = config(path, batch, **model)
    with trainer_of(made) as ours, trainer_of(made) as theirs:
        contenders = [by_fwk(ours), by_hand(theirs, batch)[0]]
        for step in contenders:
            for _ in range(updates):
                step()
        times = taking_turns(contenders, repetitions, updates)
        run = ours.run
        where, indices, _ = run.order.locate(np.arange(run.update * batch))
        sources = list(run.task.sources("train").values())
        words = (
            sum(len(sources[s][i][0]) for s, i in zip(where.tolist(), indices.tolist()))
            / run.update
        )
    return *times, words


def decoding(
    path: Path, batch: int, training: int, repetitions: int, model: Mapping[str, int]
) -> list[list[str]]:
    """Return the rows of the second table: before and after training."""
    rows = []
    with trainer_of(config(path, batch, **model)) as trainer:
        run, step = trainer.run, by_fwk(trainer)
        encoder, tree = run.module.networks["main"], run.module.criteria["tree"]
        source = next(iter(run.task.sources("train").values()))
        examples = source.many(range(min(64, len(source))))
        data = run.task.collate(
            examples, np.arange(len(examples)), np.zeros(len(examples), dtype=np.int64)
        )
        for updates in (0, training):
            while run.update < updates:
                step()
            run.module.eval()

            @torch.no_grad()
            def scores() -> torch.Tensor:
                view = View.from_batch(data).replace(
                    encoded=encoder(data.inputs, data.mask, None, ())
                )
                B, T = view.content.shape
                return F.pad(tree.primary(view).view(B, T, -1, T + 1).logsumexp(2), (0, 0, 1, 0))

            arcs, lengths = scores(), data.mask.sum(1)
            searched = float(
                (best_heads(arcs, lengths)[:, 1:] != decode(arcs, lengths)).any(1).double().mean()
            )
            forward, search = taking_turns([scores, lambda: decode(arcs, lengths)], repetitions)  # noqa: B023
            middle, low, high = ratio(search, forward)
            rows.append(
                [
                    f"{updates:,}",
                    f"{searched:.0%}",
                    f"{statistics.median(forward) / len(data) * 1e3:.3f}",
                    f"{statistics.median(search) / len(data) * 1e3:.3f}",
                    f"{middle:.2f} ({low:.2f} to {high:.2f})",
                ]
            )
            run.module.train()
    return rows


def profile(path: Path, batch: int, updates: int, model: Mapping[str, int]) -> str:
    """Print the time of both by operator."""
    said = []
    with (
        trainer_of(config(path, batch, **model)) as ours,
        trainer_of(config(path, batch, **model)) as theirs,
    ):
        for name, step in (("fwk", by_fwk(ours)), ("by hand", by_hand(theirs, batch)[0])):
            for _ in range(updates):
                step()
            with torch.profiler.profile() as watched:
                for _ in range(updates):
                    step()
            operators = watched.key_averages().table(
                sort_by="self_cpu_time_total", row_limit=24, max_name_column_width=40
            )
            said.append(f"{name}\n{operators}")
    return "\n".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--updates", type=int, default=16, help="timed as one")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, help="of each LSTM (default: the model's)")
    parser.add_argument("--sentences", type=int, default=3000)
    parser.add_argument(
        "--training", type=int, default=600, help="updates of the parser whose trees are found"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = {} if arguments.width is None else {"width": arguments.width}
    with tempfile.TemporaryDirectory() as folder:
        path = treebank(Path(folder) / "bank.conllu", arguments.sentences, 8, 32)
        if arguments.profile:
            print(profile(path, arguments.batch, arguments.updates, model))
            return
        ours, theirs, words = compare(
            path, arguments.batch, arguments.repetitions, arguments.updates, model
        )
        middle, low, high = ratio(ours, theirs)
        made = table(
            [
                "sentences per update",
                "`fwk`, ms per update",
                "by hand, ms",
                "`fwk`, words per second",
                "ratio (quartiles)",
            ],
            [
                [
                    arguments.batch,
                    f"{statistics.median(ours) * 1e3:.1f}",
                    f"{statistics.median(theirs) * 1e3:.1f}",
                    f"{words / statistics.median(ours):,.0f}",
                    f"{middle:.3f} ({low:.3f} to {high:.3f})",
                ]
            ],
        )
        rows = decoding(path, arguments.batch, arguments.training, arguments.repetitions, model)
    made += "\n\n" + table(
        [
            "parser after updates",
            "sentences that need a search",
            "scores, ms per sentence",
            "trees, ms per sentence",
            "trees ÷ scores (quartiles)",
        ],
        rows,
    )
    print(made)
    if arguments.write:
        write("cvt", made)
