"""What an update does to weights, meters and schedule; precision; and what a log line and an evaluation say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fwk import hookimpl
from fwk.cli.common import run_command
from fwk.engine.evaluate import evaluate
from fwk.engine.ranks.world import World
from fwk.engine.saving import checkpoint, optimizer_state
from fwk.engine.update import Update
from fwk.errors import RunError
from fwk.runs import start
from fwk.testing import (
    batches_of,
    differentiate_once,
    merge_settings,
    tiny_config,
    train_briefly,
    trainer_of,
)

MLM = {"criterion": {"masked_lm": {}}}


def config_of(changes: dict | None = None):
    return tiny_config(merge_settings(MLM, changes or {}))


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.run.named_trainable()}


def lines(run: Path, split: str = "train") -> list[dict]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["split"] == split and "event" not in record]


# -- one update ------------------------------------------------------------------------------------------------------


def test_the_first_adamw_step_equals_its_equation_without_decay_on_norms_and_biases():
    """m/(1-b1) = g and v/(1-b2) = g^2 in the first update, so w' = w - lr (g / (|g| + eps) + decay w)."""
    config = config_of(
        {
            "optimizer": {"lr": 0.01, "weight_decay": 0.3, "eps": 1e-6},
            "schedule": {"warmup": 0},
            "train": {"clip": 0.0},
        }
    )
    with trainer_of(config) as trainer:
        before = weights(trainer)
        trainer.step(next(batches_of(trainer.run)))
        assert trainer.run.rate == 0.01
        decayed = []
        for name, value in trainer.run.named_trainable():
            g, w = value.grad, before[name]
            free = w - 0.01 * g / (g.abs() + 1e-6)
            spared = (
                w.ndim < 2 or "norm" in name or ".relative." in name
            )  # biases by distance: [heads, distances]
            expected = free if spared else free - 0.01 * 0.3 * w
            torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=1e-14)
            decayed += [] if spared else [name]
        norms = [name for name in before if "norm" in name]
        assert (
            norms
            and "networks.main.embeddings.token.weight" in decayed
            and len(decayed) < len(before)
        )


def test_three_adamw_steps_equal_the_equations_in_float64():
    config = config_of(
        {
            "optimizer": {"lr": 0.01, "betas": [0.8, 0.9]},
            "schedule": {"name": "constant", "warmup": 3},
            "train": {"clip": 0.0},
        }
    )
    with trainer_of(config) as trainer:
        w = weights(trainer)
        m, v = ({name: torch.zeros_like(value) for name, value in w.items()} for _ in range(2))
        batches = batches_of(trainer.run)
        groups = {
            name: group for group in trainer.run.optimizer.param_groups for name in group["names"]
        }
        for t in (1, 2, 3):
            trainer.step(next(batches))
            rate = 0.01 * t / 3
            for name, value in trainer.run.named_trainable():
                m[name] = 0.8 * m[name] + 0.2 * value.grad
                v[name] = 0.9 * v[name] + 0.1 * value.grad**2
                step = (m[name] / (1 - 0.8**t)) / ((v[name] / (1 - 0.9**t)).sqrt() + 1e-6)
                w[name] = w[name] - rate * (step + groups[name]["weight_decay"] * w[name])
                torch.testing.assert_close(value.detach(), w[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("clip", [0.0, 0.05, 1e6])
def test_clipping_scales_the_whole_gradient_and_logs_the_norm_before(clip):
    sgd = {
        "optimizer": {"name": "sgd", "lr": 1.0, "weight_decay": 0.0, "momentum": 0.0},
        "schedule": {"warmup": 0},
    }
    with trainer_of(config_of({**sgd, "train": {"clip": clip}})) as trainer:
        before = weights(trainer)
        differentiate_once(trainer)
        gradient = {name: p.grad.clone() for name, p in trainer.run.named_trainable()}
        trainer.apply(trainer.run.learning_rate_factor())
        norm = float(torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt())
        assert trainer.run.grad_norm == pytest.approx(norm, rel=1e-12) and norm > 0.05
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        for name, value in trainer.run.named_trainable():
            torch.testing.assert_close(
                value.detach(), before[name] - scale * gradient[name], rtol=1e-10, atol=1e-14
            )


def test_rates_per_network_and_layer_are_in_effect():
    config = config_of(
        {
            "optimizer": {
                "name": "sgd",
                "lr": 1.0,
                "weight_decay": 0.0,
                "momentum": 0.0,
                "layer_decay": 0.5,
                "lr_scales": {"criteria.*": 3.0},
            },
            "schedule": {"warmup": 0},
            "train": {"clip": 0.0},
        }
    )
    with trainer_of(config) as trainer:
        before = weights(trainer)
        trainer.step(next(batches_of(trainer.run)))
        found = {}
        for name, value in trainer.run.named_trainable():
            moved, used = (value.detach() - before[name]).norm(), value.grad.norm()
            if used > 1e-9:
                found[name] = float(moved / used)
        assert found["criteria.masked_lm.head.transform.weight"] == pytest.approx(3.0)
        assert found["networks.main.layers.1.inner.weight"] == pytest.approx(0.5)
        assert found["networks.main.layers.0.inner.weight"] == pytest.approx(0.25)
        assert found["networks.main.embeddings.token.weight"] == pytest.approx(0.125)


# -- precision -------------------------------------------------------------------------------------------------------


def test_bf16_keeps_weights_and_moments_in_fp32_and_stays_close():
    losses = {}
    for precision in ("fp32", "bf16"):
        with trainer_of(config_of({"train": {"precision": precision, "updates": 8}})) as trainer:
            batches = batches_of(trainer.run)
            for _ in range(8):
                trainer.step(next(batches))
            assert {value.dtype for value in trainer.run.module.parameters()} == {torch.float32}
            kept = [v for state in trainer.run.optimizer.state.values() for v in state.values()]
            assert {value.dtype for value in kept} == {torch.float32}
            losses[precision] = float(trainer.run.meters.read(World())["loss"]) / 8
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)  # bf16 has 8 bits of mantissa


def test_bf16_runs_the_encoder_in_bf16():
    with trainer_of(config_of({"train": {"precision": "bf16"}})) as trainer:
        seen = set()
        for module in trainer.run.module.networks["main"].modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
        trainer.step(next(batches_of(trainer.run)))
        assert seen == {torch.bfloat16}


def overflow_in(trainer, update: int) -> None:
    """The gradient of one update is infinite, as if the scaled loss had overflowed."""
    differentiate = trainer.differentiate

    def overflowing(micros, step):
        differentiate(micros, step)
        if step.number == update:
            trainer.run.trainable[0].grad[...] = float("inf")

    trainer.differentiate = overflowing


def test_fp16_skips_an_overflowing_update_without_a_trace_in_weights_averages_and_schedule():
    config = config_of(
        {"train": {"precision": "fp16", "ema": 0.9, "updates": 10}, "schedule": {"warmup": 4}}
    )
    with trainer_of(config) as trainer:
        run = trainer.run
        overflow_in(trainer, 2)
        batches = batches_of(run)
        trainer.step(next(batches))
        before, average = weights(trainer), {n: v.clone() for n, v in run.average.values.items()}
        window = {name: value.clone() for name, value in run.meters.window.items()}
        moments, _ = optimizer_state.pack_optimizer(run.optimizer)
        moments = {name: value.clone() for name, value in moments.items()}
        rate, scale = trainer.run.rate, run.precision.scale
        assert trainer.step(next(batches))
        assert (run.update, run.skipped, run.sequences) == (
            2,
            1,
            24,
        )  # its number and its draws are used up
        assert run.precision.scale == scale / 2 and trainer.run.rate == rate
        assert all(torch.equal(before[n], v) for n, v in run.named_trainable())
        assert all(torch.equal(average[n], v) for n, v in run.average.values.items())
        assert all(
            torch.equal(moments[n], v)
            for n, v in optimizer_state.pack_optimizer(run.optimizer)[0].items()
        )
        assert window.keys() == run.meters.window.keys() and not run.meters.pending
        assert all(torch.equal(window[n], v) for n, v in run.meters.window.items())
        trainer.step(next(batches))
        assert trainer.run.rate == pytest.approx(
            1e-3 * 2 / 4
        )  # the second update that had an effect
        assert float(run.meters.read(World())["updates"]) == 2


def test_a_schedule_after_a_skipped_update_is_resumed_too(tmp_path, monkeypatch):
    from fwk.engine.trainer import Trainer

    differentiate = Trainer.differentiate

    def overflowing(self, micros, step):
        differentiate(self, micros, step)
        if step.number == 2:
            self.run.trainable[0].grad[...] = float("inf")

    monkeypatch.setattr(Trainer, "differentiate", overflowing)
    changes = {
        "train": {"precision": "fp16", "updates": 6, "log_every": 1, "save_every": 3},
        "hooks": {"jsonl": {}},
    }
    straight = train_briefly(config_of(changes), tmp_path / "one")
    from fwk.testing import stopped_at

    with stopped_at(3):
        train_briefly(config_of(changes), tmp_path / "two")
    again = train_briefly(config_of(changes), tmp_path / "two")
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    rates = [line["lr"] for line in lines(tmp_path / "two")]
    assert rates == [line["lr"] for line in lines(tmp_path / "one")]
    # linear without an effective warm-up (6% of 6 updates): the share left before each update that counts
    first, rest = 1e-3, [1e-3 * (1 - (applied - 1 - 0.36) / (6 - 0.36)) for applied in (2, 3, 4, 5)]
    assert rates == pytest.approx([first, first, *rest])
    assert (
        lines(tmp_path / "one")[1]["loss"] is None
        and lines(tmp_path / "one")[1]["loss_scale"] == 2.0**15
    )


def test_fp16_gives_up_with_a_sentence_when_no_scale_helps():
    with trainer_of(config_of({"train": {"precision": "fp16"}})) as trainer:
        trainer.run.precision.scale = 2.0**-14
        overflow_in(trainer, 1)
        with pytest.raises(RunError, match="gradients are not finite at any scale"):
            trainer.step(next(batches_of(trainer.run)))


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_term_and_draws_and_ends_with_status_1(
    tmp_path, monkeypatch, capsys
):
    from fwk.criteria.masked_lm import MaskedLM

    forward = MaskedLM.forward

    def bad(self, views, context):
        output = forward(self, views, context)
        if context.update == 3:
            output.terms["masked_lm"].sum.mul_(float("nan"))
        return output

    monkeypatch.setattr(MaskedLM, "forward", bad)
    config = config_of(
        {
            "run": str(tmp_path / "run"),
            "train": {"save_every": 1, "micro_batch": 5},
            "hooks": {"jsonl": {}},
        }
    )
    assert run_command("fwk-train", lambda _: start.train(config).exit_status, []) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "fwk-train: error: update 3: loss term masked_lm/masked_lm is not finite (rank 0; draws 24 to 35)"
    )
    assert (
        checkpoint.newest_intact(tmp_path / "run")[0].name == "update-000000002"
    )  # the weights before the bad update
    assert '"event"' not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_gradient_that_is_not_finite_under_finite_terms_says_so():
    with trainer_of(config_of()) as trainer:
        overflow_in(trainer, 1)
        before = weights(trainer)
        said = "update 1: the gradient is not finite though every loss term is .*draws 0 to 11"
        with pytest.raises(RunError, match=said):
            trainer.step(next(batches_of(trainer.run)))
        assert all(
            torch.equal(before[name], value) for name, value in trainer.run.named_trainable()
        )


def test_normalizers_that_change_their_names_are_refused():
    with trainer_of(config_of()) as trainer:
        batches = batches_of(trainer.run)
        trainer.step(next(batches))
        criterion = trainer.run.module.criteria["masked_lm"]
        normalizers = criterion.normalizers
        criterion.normalizers = lambda *a: {**normalizers(*a), "more": torch.tensor(1)}
        said = "named the loss terms masked_lm/masked_lm, masked_lm/more, and masked_lm/masked_lm"
        with pytest.raises(RunError, match=said):
            trainer.step(next(batches))


# -- log lines -------------------------------------------------------------------------------------------------------


class ByHand:
    """Adds up what every forward pass returns, without the engine's meters."""

    def __init__(self):
        self.updates: list[dict] = []

    @hookimpl
    def fwk_run_begin(self, run):
        forward = run.module.forward

        def counted(micro, step, per_term=False):
            output = forward(micro, step, per_term)
            if step.split == "train" and run.module.training:
                while len(self.updates) < step.number:
                    self.updates.append(
                        {"sums": {}, "counts": {}, "tokens": 0, "weights": output.weights}
                    )
                own = self.updates[step.number - 1]
                for path, value in output.sums.items():
                    own["sums"][path] = own["sums"].get(path, 0.0) + float(value)
                own["counts"] = dict(step.counts)
                own["tokens"] += int(micro.batch.mask.sum())
            return output

        run.module.forward = counted


def trained_by_hand(tmp_path, monkeypatch, changes: dict) -> tuple[ByHand, list[dict]]:
    hand, load = ByHand(), start.load_plugins

    def loaded(*arguments, **keywords):
        hooks = load(*arguments, **keywords)
        hooks.register(hand)
        return hooks

    monkeypatch.setattr(start, "load_plugins", loaded)
    config = tiny_config(
        merge_settings({"hooks": {"jsonl": {}}, "run": str(tmp_path / "run")}, changes)
    )
    start.train(config)
    return hand, lines(tmp_path / "run")


def test_logged_terms_are_sums_over_counts_of_the_window(tmp_path, monkeypatch):
    changes = {
        "criterion": {"semantic_augment": {}, "masked_lm": {"weight": {"from": 0.0, "to": 1.0}}},
        "train": {"updates": 7, "log_every": 3, "micro_batch": 5, "save_every": 2},
    }
    hand, logged = trained_by_hand(tmp_path, monkeypatch, changes)
    assert [line["update"] for line in logged] == [3, 6, 7]
    start = 0
    for line in logged:
        window = hand.updates[start : line["update"]]
        for path, value in line["terms"].items():
            expected = sum(u["sums"][path] for u in window) / sum(u["counts"][path] for u in window)
            assert value == pytest.approx(expected, rel=1e-12)
        losses = [
            sum(u["weights"][p] * u["sums"][p] / u["counts"][p] for p in u["sums"]) for u in window
        ]
        assert line["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-12)
        assert line["tokens"] == sum(u["tokens"] for u in hand.updates[: line["update"]])
        assert line["sequences"] == 12 * line["update"]
        assert line["epoch"] == pytest.approx(
            12 * line["update"] / 128, abs=1e-6
        )  # two sources of 64
        start = line["update"]


@pytest.mark.parametrize(
    "schedule, factor",
    [
        ({"name": "linear", "warmup": 3}, lambda u: u / 3 if u <= 3 else 1 - (u - 4) / 7),
        (
            {"name": "cosine", "warmup": 0.2},
            lambda u: u / 2 if u <= 2 else 0.5 * (1 + math.cos(math.pi * (u - 3) / 8)),
        ),
        ({"name": "constant", "warmup": 4}, lambda u: min(1.0, u / 4)),
    ],
    ids=["linear", "cosine", "constant"],
)
def test_logged_rates_are_those_of_the_equation(tmp_path, schedule, factor):
    config = config_of(
        {
            "schedule": schedule,
            "train": {"updates": 10, "log_every": 1},
            "hooks": {"jsonl": {}},
            "run": str(tmp_path / "run"),
        }
    )
    start.train(config)
    assert [line["lr"] for line in lines(tmp_path / "run")] == pytest.approx(
        [1e-3 * factor(u) for u in range(1, 11)]
    )


def test_a_log_window_spans_a_checkpoint(tmp_path):
    from fwk.testing import stopped_at

    changes = {"train": {"updates": 8, "log_every": 4, "save_every": 0}, "hooks": {"jsonl": {}}}
    train_briefly(config_of(changes), tmp_path / "one")
    for stop in (1, 3, 6):
        with stopped_at(stop):
            train_briefly(config_of(changes), tmp_path / "two")
    train_briefly(config_of(changes), tmp_path / "two")
    one, two = (lines(tmp_path / name) for name in ("one", "two"))
    assert [line["loss"] for line in one] == [line["loss"] for line in two] and len(one) == 2


# -- evaluation ------------------------------------------------------------------------------------------------------


def evaluated(changes: dict) -> dict[str, float]:
    with trainer_of(
        tiny_config(merge_settings({"criterion": {"semantic_augment": {}}}, changes))
    ) as trainer:
        return evaluate(trainer.run, "valid")


def test_an_evaluation_does_not_depend_on_the_batch_size():
    whole = evaluated({"train": {"batch": 32}})
    cosine = whole.pop("semantic_augment/cosine")
    for batch, micro in ((12, None), (12, 5), (1, None), (7, 2)):
        part = evaluated({"train": {"batch": batch, "micro_batch": micro}})
        assert part.pop("semantic_augment/cosine") == pytest.approx(
            cosine, rel=1e-6
        )  # fp32 in any precision
        assert part == pytest.approx(whole, rel=1e-12)


def test_an_evaluation_does_not_depend_on_the_world_size():
    """Every rank's share of the split, added up by hand, is the whole."""
    from fwk.engine.feed.loader import evaluation_batches
    from fwk.engine.meters import Meters, means

    with trainer_of(tiny_config({"criterion": {"semantic_augment": {}}})) as trainer:
        run = trainer.run
        found = []
        for size in (1, 3, 5):
            meters = Meters()
            run.module.eval()
            seen = []
            for rank in range(size):
                for batch in evaluation_batches(
                    run.task, "valid", batch=7, rank=rank, world_size=size, workers=0
                ):
                    with torch.no_grad():
                        step = Update(split="valid")
                        views = run.module.static_of_this_phase(batch, step.split)
                        (micro,) = run.module.ready([views], step)
                        counts = run.module.normalizers(micro, step)
                        output, _ = run.module.measure(micro, step)
                    meters.add(output.sums, "sum:")
                    meters.add(counts, "count:")
                    seen += batch.draws.tolist()
            meters.commit()
            assert sorted(seen) == list(range(32))  # 16 of either source
            found.append(means(meters.window))
        assert found[1] == pytest.approx(found[0], rel=1e-12) and found[2] == pytest.approx(
            found[0], rel=1e-12
        )


def test_an_evaluation_changes_nothing_and_comes_out_the_same_again():
    with trainer_of(
        tiny_config({"criterion": {"semantic_augment": {}}, "model": {"dropout": 0.3}})
    ) as trainer:
        before, state = weights(trainer), torch.get_rng_state()
        first, second = evaluate(trainer.run, "valid"), evaluate(trainer.run, "valid")
        assert first == second and trainer.run.module.training
        assert torch.equal(state, torch.get_rng_state())
        for name, value in trainer.run.named_trainable():
            assert torch.equal(before[name], value) and value.grad is None
        assert not trainer.run.meters.window and not trainer.run.meters.pending


def test_the_evaluated_loss_is_the_weighted_sum_of_its_terms():
    found = evaluated({"criterion": {"semantic_augment": {"weight": 2.0, "tied_weight": 3.0}}})
    a, b, tie = (
        found[f"semantic_augment/{name}"] for name in ("masked_lm_a", "masked_lm_b", "tie")
    )
    assert found["loss"] == pytest.approx(2.0 * (0.5 * a + 0.5 * b + 3.0 * tie), rel=1e-12)
