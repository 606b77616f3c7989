"""fp16 and its loss scale, and what is said when a loss or a gradient is not finite."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from support.cases import CASES, SHAPES, config_of
from support.commands import torchrun
from support.overflow import Poisoned, overflowing, tiny
from support.paths import RANKS
from torch import nn

from fwk import hookimpl
from fwk.engine import precision
from fwk.engine.evaluate import evaluate
from fwk.engine.failures import not_finite as diagnosis
from fwk.engine.failures import tracer
from fwk.engine.ranks.world import World
from fwk.errors import RunError
from fwk.testing import batches_of, stopped_at, train_briefly, trainer_of


def shrunk(name: str, train: dict):
    """A case with dropout where its encoder has one."""
    model = {} if name == "batch that is not text" else {"model": {"dropout": 0.1}}
    return config_of(name, {**model, "train": train})


# -- the loss scale --------------------------------------------------------------------------------------------------


def test_the_scale_halves_on_overflow_and_doubles_after_so_many_good_updates_in_a_row():
    config = tiny(
        {
            "train": {
                "precision": "fp16",
                "scale_growth_interval": 3,
                "updates": 20,
                "micro_batch": 5,
            }
        }
    )
    with trainer_of(config) as trainer:
        overflowing(trainer, 3, 9)
        batches, scales = batches_of(trainer.run), []
        for _ in range(12):
            trainer.step(next(batches))
            scales.append(trainer.run.precision.scale / precision.FIRST_SCALE)
        #                 1  2  skip .5  .5  grown     skip
        assert scales == [1, 1, 0.5, 0.5, 0.5, 1, 1, 1, 0.5, 0.5, 0.5, 1]
        assert trainer.run.skipped == 2 and trainer.run.update == 12


def test_an_overflow_in_one_micro_batch_skips_the_whole_update():
    config = tiny({"train": {"precision": "fp16", "micro_batch": 4, "ema": 0.9}})
    with trainer_of(config) as trainer:
        overflowing(trainer, 1)
        before = {name: value.clone() for name, value in trainer.run.module.state_dict().items()}
        trainer.step(next(batches_of(trainer.run)))
        assert (
            trainer.run.skipped == 1
            and not trainer.run.meters.pending
            and not trainer.run.meters.window
        )
        assert all(
            torch.equal(before[name], value)
            for name, value in trainer.run.module.state_dict().items()
        )


@pytest.mark.slow
def test_a_scale_that_is_really_too_large_comes_down_by_itself_and_the_run_resumes_bit_identically(
    tmp_path, monkeypatch
):
    """Real overflows: at 2^40 the fp16 gradients of activations exceed 65504. The stop falls between two of them."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**40)
    config = tiny(
        {
            "train": {
                "precision": "fp16",
                "scale_growth_interval": 4,
                "updates": 40,
                "micro_batch": 5,
                "ema": 0.9,
                "log_every": 1,
                "save_every": 6,
                "validate_every": 0,
            },
            "model": {"dropout": 0.1},
            "hooks": {"jsonl": {}},
        }
    )
    straight = train_briefly(config, tmp_path / "one")
    for stop in (3, 25):
        with stopped_at(stop):
            train_briefly(config, tmp_path / "two")
    again = train_briefly(config, tmp_path / "two")
    assert all(torch.equal(straight[name], again[name]) for name in straight)
    logs = [
        [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "tokens_per_second")}
            for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()
            if '"stopped"' not in line
        ]
        for run in ("one", "two")
    ]
    assert logs[0] == logs[1]
    scales = [line["loss_scale"] for line in logs[0] if "loss_scale" in line]
    assert (
        sum(line.get("loss", 0) is None for line in logs[0]) > 5
    )  # it was skipped at first, also after update 3
    assert any(b > a for a, b in pairwise(scales)) and scales[3] < scales[2]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.mostly_slow("masked_lm", "noise_contrastive", *SHAPES)
def test_sums_losses_and_weights_are_fp32_under_fp16_and_every_objective_trains(name):
    with trainer_of(shrunk(name, {"precision": "fp16", "micro_batch": 5})) as trainer:
        run, seen, narrow = trainer.run, [], set()
        run.precision.scale = 4096.0  # from 65536 the first update may overflow and be skipped, by the luck of dropout
        forward = run.module.forward

        def looked_at(micro, step, per_term=False):
            output = forward(micro, step, per_term)
            seen.append(output)
            return output

        run.module.forward = looked_at
        for module in run.module.networks["main"].modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.register_forward_hook(lambda m, i, out: narrow.add(out.dtype))
        batches = batches_of(run)
        for _ in range(3):
            trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
            trainer.step(next(batches))
        wide = {
            value.dtype
            for output in seen
            for value in (*output.sums.values(), *output.terms.values())
        }
        assert wide <= {torch.float32, torch.float64} and run.skipped == 0
        assert all(output.loss is None or output.loss.dtype == torch.float32 for output in seen)
        assert {p.dtype for p in run.module.parameters()} == {torch.float32}
        assert narrow == {torch.float16}
        assert torch.isfinite(torch.tensor(evaluate(run, "valid")["loss"]))


@pytest.mark.slow
def test_ranks_skip_together_and_say_on_which_rank_it_began(tmp_path):
    out = tmp_path / "out.json"
    done = torchrun(str(RANKS / "precision_ranks.py"), str(out), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in json.loads(out.read_text()):
        assert rank["skipped"] == [0, 1, 1] and rank["scale"] == precision.FIRST_SCALE / 2
        assert rank["weights"] == [
            True,
            True,
        ]  # equal on both ranks, and unchanged by the skipped update
        assert rank["forward"].startswith(
            "update 4: loss term masked_lm/masked_lm is not finite and the loss scale has come"
        )
        assert (
            "the output of networks.main.layers.1.inner is the first that is not finite: inf"
            in rank["forward"]
        )
        assert "(rank 1; draws 36 to 47); " in rank["forward"]
        assert "draws 42 to 44) on rank 1; " in rank["forward"]
        assert (
            "backward of loss term masked_lm/masked_lm: the gradient of parameter criteria.masked_lm.head.norm."
            in rank["backward"]
        )
        assert "on rank 0; " in rank["backward"]


# -- where it began --------------------------------------------------------------------------------------------------


def said_by(trainer) -> str:
    with pytest.raises(RunError) as failure:
        trainer.step(next(batches_of(trainer.run, trainer.run.update)))
    assert not any(
        module._forward_hooks for module in trainer.run.module.modules()
    )  # nothing of the search stays
    return str(failure.value)


def test_a_module_that_overflows_is_named_with_the_term_and_the_draws():
    with trainer_of(
        tiny({"train": {"precision": "fp16", "micro_batch": 5}, "model": {"dropout": 0.1}})
    ) as trainer:
        trainer.run.precision.scale = precision.LOWEST_SCALE
        with torch.no_grad():
            trainer.run.module.networks["main"].layers[1].inner.weight.mul_(1e7)
        said = said_by(trainer)
        assert said.startswith(
            "update 1: loss term masked_lm/masked_lm is not finite and the loss scale has come down to "
            "6.10352e-05: gradients are not finite at any scale (rank 0; draws 0 to 11); "
        )
        assert (
            "the output of networks.main.layers.1.inner is the first that is not finite: " in said
        )
        assert (
            "(micro-batch 0, view masked, draws 0 to 3)" in said
        )  # 12 sequences in three micro-batches of 4


def test_only_the_draws_whose_rows_are_not_finite_are_named():
    with trainer_of(tiny()) as trainer:
        norm = trainer.run.module.networks["main"].embeddings.norm
        norm.register_forward_hook(
            lambda m, i, out: out.index_fill(0, torch.tensor([2, 7]), float("inf"))
        )
        with pytest.raises(
            RunError, match=r"output of networks\.main\.embeddings\.\w+ .*view masked, draws 2, 7\)"
        ):
            trainer.step(next(batches_of(trainer.run)))


def test_a_function_between_modules_is_told_by_its_parent(monkeypatch):
    from fwk.models.bert import Layer

    with trainer_of(tiny()) as trainer:
        attend, last = Layer.attend, trainer.run.module.networks["main"].layers[1]
        monkeypatch.setattr(
            Layer,
            "attend",
            lambda self, x, bias, first=False: attend(
                self, x * (1e38 if self is last else 1) * 1e3, bias
            ),
        )
        said = said_by(trainer)
        assert (
            "inside networks.main.layers.1, inf reaches 'query_key_value', and every value before is finite"
            in said
        )


def test_a_loss_term_is_named_when_every_module_is_finite(monkeypatch):
    from fwk_plugins.tied_mlm.criteria import semantic_augment as plugin

    monkeypatch.setattr(
        plugin, "feature_distance", lambda a, b, counted: (a - b).sum() * float("inf")
    )
    config = tiny({"criterion": {"masked_lm": None, "semantic_augment": {}}})
    with trainer_of(config) as trainer:
        said = said_by(trainer)
        assert "update 1: loss term semantic_augment/tie is not finite" in said
        assert (
            "loss term semantic_augment/tie is the first that is not finite: the output of every module is finite"
            in said
        )


def test_a_module_that_spoils_a_finite_gradient_is_named():
    with trainer_of(tiny({"model": {"dropout": 0.1}})) as trainer:
        layer = trainer.run.module.networks["main"].layers[0]

        class Spoils(nn.Module):
            def forward(self, x):
                return Poisoned.apply(x)

        layer.dropout = Spoils()
        said = said_by(trainer)
        assert (
            "the gradient is not finite though every loss term is (rank 0; draws 0 to 11)" in said
        )
        assert (
            "backward of loss term masked_lm/masked_lm: networks.main.layers.0.dropout turns a finite gradient "
            "into NaN (micro-batch 0, view masked, draws 0 to 11)"
        ) in said


def test_a_function_that_spoils_a_finite_gradient_is_told_by_what_precedes_it(monkeypatch):
    from fwk.models.bert import Layer

    forward = Layer.feed_forward
    monkeypatch.setattr(Layer, "feed_forward", lambda self, x: Poisoned.apply(forward(self, x)))
    with trainer_of(tiny()) as trainer:
        said = said_by(trainer)
        assert (
            "NaN arises inside networks.main.layers.1, after networks.main.layers.1.output" in said
        )


def test_a_loss_that_is_not_finite_is_noticed_though_the_gradient_is(monkeypatch):
    from fwk.criteria.masked_lm import MaskedLM

    forward = MaskedLM.forward

    def constant(self, views, context):
        output = forward(self, views, context)
        output.terms["masked_lm"].sum.data.fill_(float("inf"))
        return output

    monkeypatch.setattr(MaskedLM, "forward", constant)
    with trainer_of(tiny()) as trainer:
        assert "loss term masked_lm/masked_lm is not finite" in said_by(trainer)
    with trainer_of(config_of("gradients per term", {"criterion": {"masked_lm": {}}})) as trainer:
        assert "loss term masked_lm/masked_lm is not finite" in said_by(trainer)


def test_weights_that_were_not_finite_before_are_named_and_no_checkpoint_is_called_good():
    with trainer_of(tiny({"train": {"ema": 0.9}})) as trainer:
        with torch.no_grad():
            trainer.run.module.networks["main"].layers[1].output.bias[0] = float("nan")
        said = said_by(trainer)
        assert (
            "parameter networks.main.layers.1.output.bias was not finite before the update; a checkpoint of update 0"
            in said
        )
        assert "checkpoint is intact" not in said


def test_an_average_that_is_not_finite_is_named():
    with trainer_of(
        config_of("teacher view with averaged weights", {"train": {"precision": "fp32"}})
    ) as trainer:
        trainer.run.average.values["networks.main.embeddings.norm.weight"][0] = float("nan")
        assert (
            "the moving average of networks.main.embeddings.norm.weight was not finite before"
            in said_by(trainer)
        )


def test_data_that_are_not_finite_are_named_with_their_example():
    with trainer_of(
        config_of("batch that is not text", {"train": {"precision": "fp32"}})
    ) as trainer:
        run = trainer.run
        _, indices, _ = run.order.locate(batches_draws(run)[5:6])
        run.task.images[int(indices[0])] = float("nan")
        said = said_by(trainer)
        assert (
            f"is not finite in the data of draw 5 (example {int(indices[0])} of source 'digits'); "
            in said
        )
        assert (
            said.endswith("there is no checkpoint yet; fix the data and start again")
            and "input 'pixels' of view 'batch'" in said
        )


def batches_draws(run):
    return next(batches_of(run))[0]["batch"].draws.numpy()


def test_a_norm_that_overflows_though_every_entry_is_finite_is_said_so():
    with trainer_of(tiny()) as trainer:
        differentiate = trainer.differentiate

        def huge(micros, step):
            differentiate(micros, step)
            trainer.run.module.networks["main"].embeddings.norm.weight.grad.fill_(1e30)

        trainer.differentiate = huge
        said = said_by(trainer)
        assert (
            "entries of the gradient reach 1e+30 (networks.main.embeddings.norm.weight), and its norm overflows"
            in said
        )


def test_a_hook_that_combines_gradients_into_nan_is_named():
    class Spoils:
        @hookimpl
        def fwk_combine_gradients(self, run, gradients):
            return [torch.full_like(p, float("nan")) for p in run.trainable]

    with trainer_of(tiny()) as trainer:
        trainer.run.hooks.register(Spoils(), name="spoils")
        trainer.combine = True
        assert "as combined by hook spoils, is not" in said_by(trainer)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.mostly_slow("masked_lm", "noise_contrastive", *SHAPES)
def test_running_a_failed_update_again_takes_the_same_course(name, monkeypatch):
    """Every module's output, with dropout, twice: in the update and in the search."""
    seen: list[dict[str, list]] = []
    with trainer_of(shrunk(name, {"precision": "fp32", "micro_batch": 5})) as trainer:
        run = trainer.run
        apply = trainer.apply

        def failed(factor, micros, step):
            seen.append({})
            found = diagnosis.diagnose(run, micros, step)
            assert diagnosis.NOT_REPRODUCED in found.text
            return apply(factor, micros, step)

        trainer.apply = failed
        for path, module in run.module.named_modules():

            def noted(module, arguments, output, path=path):
                seen[-1].setdefault(path, []).extend(
                    value.detach().clone() for value in tracer.floats_in(output)
                )

            if path:
                module.register_forward_hook(noted)
        prepare, run.module.prepare = run.module.prepare, lambda *a: (prepare(*a), seen[-1].clear())
        seen.append({})
        trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
        trainer.step(next(batches_of(run)))
    first, again = seen
    assert first.keys() == again.keys() and first
    for path in first:
        assert len(first[path]) == len(again[path])
        assert all(torch.equal(a, b) for a, b in zip(first[path], again[path])), path


def test_a_healthy_update_is_not_looked_into(monkeypatch):
    def never(*arguments):
        raise AssertionError("looked into a healthy update")

    for module in (diagnosis, tracer):
        monkeypatch.setattr(module, "is_finite", never)
    with trainer_of(tiny({"train": {"precision": "fp16"}})) as trainer:
        batches = batches_of(trainer.run)
        for _ in range(3):
            trainer.step(next(batches))
        assert float(trainer.run.meters.read(World())["updates"]) == 3
