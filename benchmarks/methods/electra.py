"""Measure the cost of an ELECTRA update.

It is compared with its two networks trained separately in bare loops, and with a bare loop around Hugging Face's
`ElectraForMaskedLM` and `ElectraForPreTraining`.

    python -m benchmarks electra [--repetitions 5] [--batch 32] [--size small] [--write]

ELECTRA-Small: 12 layers x 256, embedding 128, generator of a quarter of the width, vocabulary 30,522, length 128. Every
measurement runs in its own process, in turns; medians of the CPU time of one thread, and peak memory.

update         `fwk`: draws, masks, generator, samples, discriminator, backward passes, clipping, AdamW, bookkeeping
generator      the same network and head, forward and backward at the masked positions, nothing else
discriminator  the same network and head, forward and backward, nothing else
optimizer      clipping and AdamW on the parameters of both, nothing else
transformers   generator and discriminator of the same sizes with one embedding, masking, sampling at masked positions,
               one AdamW: what users write around the two classes
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.common import own_process, ratio, table, write

VOCABULARY, LENGTH = 30_522, 128
SIZES = {
    "small": {"layers": 12, "width": 256, "heads": 4, "inner": 1024, "embedding": 128},
    "toy": {"layers": 2, "width": 64, "heads": 4, "inner": 256, "embedding": 32},
}
PARTS = ("update", "generator", "discriminator", "optimizer", "transformers")


def config(size: str, batch: int):
    from fwk.testing import tiny_config

    return tiny_config(
        {
            "task": {
                "name": "synthetic",
                "sequences": 4096,
                "length": LENGTH,
                "shortest": None,
                "vocabulary": VOCABULARY,
                "second_source": 0.0,
            },
            "model": {
                **SIZES[size],
                "positions": "learned",
                "dropout": 0.1,
                "attention_dropout": 0.1,
            },
            "criterion": {"replaced_token_detection": {}},
            "views": {
                "masked": {"mask": 1.0, "random": 0.0},
                "corrupted": {"network": {"width": 0.25}},
            },
            "train": {"updates": 100_000, "batch": batch, "precision": "fp32"},
            "schedule": {"name": "constant", "warmup": 0},
        }
    )


def ours(part: str, size: str, batch: int) -> Callable[[], Any]:
    """Return a function that runs one update, or a part of one."""
    import torch

    from fwk.engine.update import Update
    from fwk.testing import batches_of, trainer_of

    keep = trainer_of(config(size, batch))
    trainer = keep.__enter__()
    batches, module = batches_of(trainer.run), trainer.run.module
    if part == "update":
        return lambda: (trainer.step(next(batches)), keep)
    step = Update(number=1)
    micro = module.begin(next(batches)[0], 0, step)
    trainer.step(next(batches))
    views = module.run_actions(module.plan.actions, micro, step)
    masked, corrupted = views["masked"], views["corrupted"].replace(encoded=None)
    parameters = [parameter for parameter in module.parameters() if parameter is not module.anchor]

    def bare(loss: Callable[[], torch.Tensor]) -> Callable[[], Any]:
        def call() -> Any:
            for parameter in parameters:
                parameter.grad = None
            loss().backward()
            return keep

        return call

    noiser, head, main = (
        module.learned["corrupted"],
        module.criteria["replaced_token_detection"].head,
        module.networks["main"],
    )
    target = masked.at_positions(masked.target)

    def generator() -> torch.Tensor:
        features = masked.at_positions(noiser.network(masked.inputs, None).features)
        losses, _ = noiser.head.losses(features, target)
        return losses.masked_fill(~masked.valid, 0.0).sum() / masked.valid.sum()

    def discriminator() -> torch.Tensor:
        logits = head(main(corrupted.inputs, None).features).squeeze(-1)
        return 50 * torch.nn.functional.binary_cross_entropy_with_logits(
            logits, corrupted.changed.float()
        )

    if part == "optimizer":

        def stepping() -> Any:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            trainer.run.optimizer.step()
            return keep

        (generator() + discriminator()).backward()
        return stepping
    return bare({"generator": generator, "discriminator": discriminator}[part])


def theirs(size: str, batch: int) -> Callable[[], Any]:
    import torch
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    shape = SIZES[size]
    common = {
        "vocab_size": VOCABULARY,
        "embedding_size": shape["embedding"],
        "num_hidden_layers": shape["layers"],
        "max_position_embeddings": LENGTH,
    }
    discriminator = ElectraForPreTraining(
        ElectraConfig(
            **common,
            hidden_size=shape["width"],
            num_attention_heads=shape["heads"],
            intermediate_size=shape["inner"],
        )
    )
    generator = ElectraForMaskedLM(
        ElectraConfig(
            **common,
            hidden_size=shape["width"] // 4,
            num_attention_heads=max(1, shape["heads"] // 4),
            intermediate_size=shape["inner"] // 4,
        )
    )
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    parameters = list(
        {id(p): p for model in (generator, discriminator) for p in model.parameters()}.values()
    )
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, fused=True)
    random = torch.Generator().manual_seed(1)

    def update() -> None:
        tokens = torch.randint(5, VOCABULARY, (batch, LENGTH), generator=random)
        chosen = torch.rand(batch, LENGTH, generator=random) < 0.15
        chosen[:, 0] = chosen[:, -1] = False
        found = generator(
            input_ids=torch.where(chosen, 4, tokens), labels=torch.where(chosen, tokens, -100)
        )
        with torch.no_grad():
            drawn = torch.multinomial(found.logits[chosen].softmax(-1), 1)[:, 0]
            corrupted = tokens.clone()
            corrupted[chosen] = drawn
        judged = discriminator(input_ids=corrupted, labels=(corrupted != tokens).long())
        (found.loss + 50 * judged.loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def run(part: str, size: str, batch: int, updates: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    call = theirs(size, batch) if part == "transformers" else ours(part, size, batch)
    call()
    times = []
    for _ in range(updates):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return {
        "cpu": statistics.median(times),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure(part: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the result of `run`, measured in its own process."""
    return own_process(
        [
            "-m",
            "benchmarks",
            "electra",
            "--part",
            part,
            "--size",
            arguments.size,
            "--batch",
            arguments.batch,
            "--updates",
            arguments.updates,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--updates", type=int, default=3, help="timed updates of a process")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(run(arguments.part, arguments.size, arguments.batch, arguments.updates)))
        return
    found: dict[str, list[dict[str, float]]] = {part: [] for part in PARTS}
    for repetition in range(arguments.repetitions):
        for part in PARTS if repetition % 2 else PARTS[::-1]:
            found[part].append(measure(part, arguments))
    cpu = {part: [one["cpu"] for one in found[part]] for part in PARTS}
    networks = [a + b for a, b in zip(cpu["generator"], cpu["discriminator"])]
    everything = [a + b for a, b in zip(networks, cpu["optimizer"])]
    rows = [
        [
            part,
            f"{statistics.median(cpu[part]) * 1e3:.0f}",
            f"{statistics.median(one['megabytes'] for one in found[part]):.0f}",
        ]
        for part in PARTS
    ]
    made = (
        table(["one thread", "ms", "MB at most"], rows)
        + "\n\n"
        + table(
            ["ratio", "median (quartiles)"],
            [
                [name, "{:.2f} ({:.2f} to {:.2f})".format(*ratio(*pair))]
                for name, pair in {
                    "update ÷ (generator + discriminator)": (cpu["update"], networks),
                    "update ÷ (generator + discriminator + optimizer)": (cpu["update"], everything),
                    "`transformers` ÷ update": (cpu["transformers"], cpu["update"]),
                }.items()
            ],
        )
    )
    print(made)
    if arguments.write:
        write("electra", made)
