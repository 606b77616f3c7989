"""Measure how far Electric's one-pass approximation leads away from the data distribution.

    python -m benchmarks electric_bias [--updates 4000] [--seeds 1,2,3] [--write]

The energies of all tokens come from one pass over the sequence with its noise, so the context of each token
holds the noise of the others, and what is learned is the distribution of a token given a partly noisy context.
Here the data are a Markov chain over 8 tokens, sequences of 14, whose true p(x_t | the rest) is known exactly:
it depends only on the two neighboring tokens. A small encoder is trained with `noise_contrastive` and uniform
noise at several shares of noise; then its energies of every token at every position of clean sequences are
evaluated. Three numbers: the mean divergence KL(p || p^) in nats of the true distribution from the normalised
energies; the mean of Z = sum_v exp(-E(v)), which is 1 where the energies are normalised; and KL(p || unigram),
the cost of using no context. Means over held-out sequences and positions, medians over seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

from benchmarks.common import table, write
from fwk import BuildContext, Key, View, Vocabulary
from fwk.config.resolve import build
from fwk.contracts.views import Encoded
from fwk.models.bert import Bert
from fwk_plugins.electra.criteria.noise_contrastive import NoiseContrastive
from fwk_plugins.electra.noisers.uniform import Uniform

TOKENS, LENGTH, SPECIAL = 8, 14, 5
VOCABULARY = Vocabulary(
    size=SPECIAL + TOKENS, pad=0, unk=1, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4)
)
PEAKED = 0.3  # of the Dirichlet distribution that rows of the chain are drawn from


def chain(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the transition matrix [V, V] and the stationary distribution [V]."""
    torch.manual_seed(seed)
    moves = (
        torch.distributions.Dirichlet(
            torch.full((TOKENS, TOKENS), PEAKED, dtype=torch.float64)
        ).sample()
        * 0.98
        + 0.02 / TOKENS
    )
    return moves, torch.linalg.matrix_power(moves, 1000)[0]


def draw(moves: torch.Tensor, start: torch.Tensor, rows: int) -> torch.Tensor:
    """Return sequences of the chain, [rows, LENGTH], without special tokens."""
    found = [torch.multinomial(start, rows, replacement=True)]
    for _ in range(LENGTH - 1):
        found.append(torch.multinomial(moves[found[-1]], 1)[:, 0])
    return torch.stack(found, 1)


def view_of(sequences: torch.Tensor, first: int) -> View:
    rows = len(sequences)
    tokens = torch.cat([torch.full((rows, 1), 2), sequences + SPECIAL, torch.full((rows, 1), 3)], 1)
    return View(
        name="corrupted",
        draws=torch.arange(first, first + rows),
        inputs={"tokens": tokens},
        target=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        special=tokens < SPECIAL,
        padded=False,
    )


def truth(moves: torch.Tensor, start: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """Return p(x_t = v | the rest), [rows, LENGTH, V]."""
    left = torch.cat([start.expand(len(sequences), 1, -1), moves[sequences[:, :-1]]], 1)
    right = torch.cat(
        [moves.t()[sequences[:, 1:]], torch.ones(len(sequences), 1, TOKENS, dtype=moves.dtype)], 1
    )
    return (left * right) / (left * right).sum(-1, keepdim=True)


def learn(moves: torch.Tensor, start: torch.Tensor, ratio: float, updates: int, seed: int):
    """Return an encoder and a criterion after training."""
    torch.manual_seed(seed)
    context = BuildContext(name="corrupted", vocabulary=VOCABULARY, length=LENGTH + 2)
    encoder = Bert(
        build(
            Bert, {"layers": 2, "width": 64, "heads": 4, "dropout": 0.0, "attention_dropout": 0.0}
        ),
        context,
    )
    made = NoiseContrastive(
        NoiseContrastive.Config(head="dense"), BuildContext(encoder=encoder, vocabulary=VOCABULARY)
    )
    noiser = Uniform(Uniform.Config(ratio=ratio), context)
    parameters = [*encoder.parameters(), *made.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=updates)
    for update in range(updates):
        clean = view_of(draw(moves, start, 128), 128 * update)
        view = noiser.apply(clean, Key(seed, "corrupted", clean.draws))
        view = view.replace(encoded=Encoded(features=encoder(view.inputs, None).features))
        views = {"corrupted": view}
        loss = made(views, None).terms["contrast"].sum / made.normalizers(views, None)["contrast"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return encoder, made


@torch.no_grad()
def energies(encoder, made, sequences: torch.Tensor) -> torch.Tensor:
    """Return E of every token v at every position t of clean sequences, [rows, LENGTH, V].

    Each t and v takes one pass.
    """
    found = torch.zeros(*sequences.shape, TOKENS, dtype=torch.float64)
    for t in range(LENGTH):
        for v in range(TOKENS):
            other = sequences.clone()
            other[:, t] = v
            found[:, t, v] = made.energies(encoder(view_of(other, 0).inputs, None).features)[
                :, t + 1
            ].double()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=4000)
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.05, 0.15, 0.3, 0.5])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for ratio in arguments.ratios:
        found: list[tuple[float, float, float]] = []
        for seed in arguments.seeds:
            moves, start = chain(seed)
            encoder, made = learn(moves, start, ratio, arguments.updates, seed)
            torch.manual_seed(seed + 1000)
            sequences = draw(moves, start, 256)
            E, p = energies(encoder, made, sequences), truth(moves, start, sequences)
            log_p = (-E).log_softmax(-1)
            found.append(
                (
                    float((p * (p.log() - log_p)).sum(-1).mean()),
                    float((-E).exp().sum(-1).mean()),
                    float((p * (p.log() - start.log())).sum(-1).mean()),
                )
            )
        k = math.ceil(ratio * LENGTH)
        rows.append(
            [
                f"{k} of {LENGTH}",
                *(
                    f"{statistics.median(column):.3f} ({min(column):.3f} to {max(column):.3f})"
                    for column in zip(*found)
                ),
            ]
        )
        print(*rows[-1], sep=" | ", flush=True)
    made = table(["noise", "KL(p, p^), nats", "Z", "KL(p, unigram), nats"], rows)
    print(made)
    if arguments.write:
        write("electric_bias", made)
