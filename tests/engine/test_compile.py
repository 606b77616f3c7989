"""`train.compile`: the same gradients, one graph per situation, and a warning where that does not hold.

Graphs are counted with backend `eager`, which makes the same ones. For gradients, the fast tests trace forward and
backward (aot_eager); the slow ones do so for every registered criterion, and generate code (inductor) for every
objective that has a test.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.cases import CASES, LSTM, REGISTERED, config_of
from support.commands import torchrun
from support.paths import RANKS, ROOT
from torch import nn

from fwk import testing
from fwk.engine.evaluate import evaluate
from fwk.engine.speed import compiling
from fwk.engine.trainer import Trainer
from fwk.engine.update import Update
from fwk.errors import RunError
from fwk.tasks.synthetic import Synthetic
from fwk.testing import batches_of, merge_settings, tiny_config, trainer_of

EXAMPLES = ROOT / "user_dir_examples"
COMPILED = {"train": {"compile": True}}


@pytest.fixture(autouse=True)
def nothing_compiled_before(monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    yield
    torch._dynamo.reset()


@pytest.fixture
def tracing_only(monkeypatch):
    """Make and count graphs, and run them without compilation."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")


@pytest.fixture
def ragged(monkeypatch):
    """Let T be that of the longest sequence in the batch: T and K differ from batch to batch, and some batches have no
    padding at all."""
    collate = Synthetic.collate

    def cut(self, examples, draws, sources):
        batch = collate(self, examples, draws, sources)
        T = int(batch.mask.sum(1).max())
        return replace(
            batch,
            inputs={name: x[:, :T].contiguous() for name, x in batch.inputs.items()},
            mask=batch.mask[:, :T].contiguous(),
            special=batch.special[:, :T].contiguous(),
        )

    monkeypatch.setattr(Synthetic, "collate", cut)


def example_config(name: str, changes: dict):
    return tiny_config(merge_settings({"criterion": {name: {}}}, changes), [str(EXAMPLES / name)])


def objective(name: str, changes: dict):
    if name in ("focal_mlm", "simcse"):
        return example_config(name, changes)
    return config_of(name, changes)


def gradients_differ(name: str) -> float:
    """Return the largest relative difference of a compiled fp64 gradient from the eager one, over micro-batches of two
    sizes."""
    split = {"train": {"batch": 13, "micro_batch": 4}}
    eager = testing.gradients(objective(name, split))
    compiled = testing.gradients(objective(name, merge_settings(split, COMPILED)))
    assert compiling.count_graphs() > 0
    return testing.difference(eager, compiled)


def graphs_after_warm_up(name: str, updates: int = 12) -> tuple[list[int], dict]:
    """Return the new graphs of each update and evaluation after the warm-up, and the reasons of graph breaks.

    The engine's warm-up is long enough for a sequence to have been alone in a batch, which is a separate graph.
    """
    # draws differ in every update, and with them T, K, and what is padded
    changes = {
        "train": {
            "batch": 13,
            "micro_batch": 4,
            "precision": "fp32",
            "updates": 100,
            **COMPILED["train"],
        }
    }
    if name != "batch that is not text":
        changes["model"] = {"dropout": 0.1, "attention_dropout": 0.1}
    with trainer_of(objective(name, changes)) as trainer:
        run, batches = trainer.run, batches_of(trainer.run)

        def update() -> None:
            trainer.enter_phase(run.hooks.hook.fwk_phase(run=run))
            trainer.step(next(batches))

        for _ in range(compiling.WARM_UP):
            update()
        evaluate(run, "valid")
        seen, new = compiling.count_graphs(), []
        assert seen > 0
        for _ in range(updates):
            update()
            new.append(compiling.count_graphs() - seen)
        evaluate(run, "valid")
        new.append(compiling.count_graphs() - seen)
        return new, compiling.graph_breaks()


# one fast test per shape of objective: one view, two tied views, a network that makes another's input, two encodings
QUICK = ("masked_lm", "semantic_augment", "replaced_token_detection", "simcse")
TRACED = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in [*REGISTERED, "focal_mlm", "simcse"]
    if name not in LSTM
]
SLOW = [*(name for name in CASES if name not in LSTM), "focal_mlm", "simcse"]


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.slow
def test_compiled_gradients_equal_eager_ones(name, ragged):
    assert gradients_differ(name) < 1e-12  # the same operations, in another order at most


@pytest.mark.parametrize("name", TRACED)
@pytest.mark.slow
def test_nothing_is_compiled_after_warm_up_and_no_graph_is_cut(name, ragged, tracing_only):
    new, breaks = graphs_after_warm_up(name)
    assert not any(new) and not breaks


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_generated_code_gives_the_eager_gradients(name, ragged, monkeypatch):
    if (
        name != "noiser that reads an encoding"
    ):  # chooses by norms that a layer norm made equal, so rounding decides
        monkeypatch.setattr(compiling, "BACKEND", "inductor")
    assert (
        gradients_differ(name) < 1e-10
    )  # fused operations round differently; the geometry tests have the same limit


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_no_objective_compiles_anything_after_warm_up(name, ragged, tracing_only):
    new, breaks = graphs_after_warm_up(name)
    assert not any(new) and not breaks


@pytest.mark.slow
def test_two_ranks_with_compile_give_the_gradient_of_one_eager_process(tmp_path):
    out = tmp_path / "out.json"
    done = torchrun(str(RANKS / "compile_ranks.py"), str(out), ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, results in json.loads(out.read_text()).items():
        assert results["difference"] < 1e-10, name
        assert results["new"] == 0 and not results["breaks"], name


@pytest.mark.slow
def test_dropout_of_a_compiled_run_follows_from_the_update():
    config = config_of(
        "masked_lm",
        {"train": {"precision": "fp32", **COMPILED["train"]}, "model": {"dropout": 0.5}},
    )
    seen = []
    for update in (0, 0, 1):
        with trainer_of(config) as trainer:
            trainer.run.update = update
            torch.manual_seed(len(seen))  # has no effect
            batches = next(batches_of(trainer.run, 0))
            step = Update(number=update + 1, progress=0.0)
            micros = testing.begin_update(trainer, batches, step)
            trainer.differentiate(micros, step)
            seen.append(trainer.run.module.networks["main"].layers[0].inner.weight.grad.clone())
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


@pytest.mark.slow
def test_a_failed_update_of_a_compiled_run_is_looked_into_without_compiling():
    config = config_of("masked_lm", {"train": {"precision": "fp32", **COMPILED["train"]}})
    with trainer_of(config) as trainer:
        batches = batches_of(trainer.run)
        trainer.step(next(batches))
        with torch.no_grad():
            trainer.run.module.networks["main"].layers[1].inner.weight.mul_(1e38)
        seen = compiling.count_graphs()
        with pytest.raises(RunError, match=r"networks\.main\.layers\.1"):
            trainer.step(next(batches))
        assert compiling.count_graphs() == seen


# -- what a user sees ------------------------------------------------------------------------------------------------


def trained(config, updates: int) -> None:
    with trainer_of(config) as trainer:
        run, batches = trainer.run, batches_of(trainer.run)
        for _ in range(updates):
            run.hooks.hook.fwk_update_begin(run=run)
            trainer.step(next(batches))
            run.hooks.hook.fwk_update_end(run=run)


def config(changes: dict | None = None):
    return config_of(
        "masked_lm",
        merge_settings({"train": {"precision": "fp32", **COMPILED["train"]}}, changes or {}),
    )


def test_a_run_that_does_not_compile_after_warm_up_says_nothing(capsys, monkeypatch, tracing_only):
    monkeypatch.setattr(compiling, "WARM_UP", 2)
    trained(config(), 4)
    assert "train.compile" not in capsys.readouterr().err


@pytest.mark.slow
def test_compiling_after_warm_up_is_told_with_its_reason(caplog, monkeypatch, tracing_only):
    monkeypatch.setattr(compiling, "WARM_UP", 1)
    forward = nn.Linear.forward
    calls = iter(range(10**6))
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: forward(self, x) + 0.0 * self.counted)
    monkeypatch.setattr(nn.Linear, "counted", 0, raising=False)
    begin = Trainer.step

    def changing(self, batches):
        nn.Linear.counted = next(calls)  # a constant of the graph that changes in every update
        return begin(self, batches)

    monkeypatch.setattr(Trainer, "step", changing)
    trained(config(), 3)
    log = caplog.text
    assert "train.compile: update 3 on rank 0 compiled 2 more graphs after warm-up, because" in log
    assert "update 1 " not in log


@pytest.mark.slow
def test_graph_breaks_are_told_with_their_reason(caplog, monkeypatch):
    from fwk.models.bert import Layer

    forward = Layer.feed_forward

    def broken(self, x):
        torch._dynamo.graph_break()
        return forward(self, x)

    monkeypatch.setattr(Layer, "feed_forward", broken)
    trained(config(), 1)
    assert "train.compile: update 1 on rank 0 cut into 2 or more graphs" in caplog.text


def test_without_the_option_nothing_is_compiled():
    trained(config({"train": {"compile": False}}), 1)
    assert compiling.count_graphs() == 0


@pytest.mark.slow
def test_an_encoder_is_compiled_once_per_situation_whatever_its_shapes(tracing_only):
    """Every situation again in a second round, with new B and T."""
    with trainer_of(
        config_of(
            "teacher view with averaged weights", merge_settings(COMPILED, {"train": {"ema": 0.9}})
        )
    ) as trainer:
        module = trainer.run.module
        view = next(batches_of(trainer.run))[0]["batch"]

        def encode(
            B: int, T: int, padded: bool, change: bool, mode: str, ema: bool, training: bool
        ) -> None:
            mask = torch.ones(B, T, dtype=torch.bool)
            extra = torch.zeros(B, T, 16, dtype=torch.float64) if change else None
            tokens = view.tokens[:1, :1].expand(B, T).contiguous()
            fresh = view.replace(
                inputs={"tokens": tokens}, mask=mask, padded=padded, embedding_change=extra
            )
            module.train(training)
            with torch.set_grad_enabled(training):
                module.encoding.encode([fresh], mode=mode, ema=ema)

        situations = [
            (padded, change, mode, ema, training)
            for padded in (False, True)
            for change in (False, True)
            for mode, ema in (
                ("train", False),
                ("quiet", False),
                ("teacher", False),
                ("teacher", True),
            )
            for training in (False, True)
            if training or mode == "train"
        ]
        for shape in ((5, 9), (7, 12), (4, 8), (1, 11), (1, 7)):
            for situation in situations:
                encode(*shape, *situation)
        seen = compiling.count_graphs()
        for shape in ((6, 10), (11, 16), (2, 5), (1, 13), (9, 3)):
            for situation in situations:
                encode(*shape, *situation)
        assert compiling.count_graphs() == seen and not compiling.graph_breaks()
        assert seen <= 5 * len(
            situations
        )  # at most: first shape, B varies, T varies; one sequence, T varies


@pytest.mark.parametrize("planted", ["nothing", "open folder", "link", "file"])
def test_compiled_code_is_kept_where_nobody_else_can_plant_any(tmp_path, planted, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(compiling.CACHE_VARIABLE, "")
    expected = tmp_path / f"fwk-compiled-{os.geteuid()}"
    if planted == "open folder":
        expected.mkdir()
        expected.chmod(0o777)
    elif planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        expected.symlink_to("theirs")
    elif planted == "file":
        expected.touch()

    compiling.use_private_cache()
    chosen = Path(os.environ[compiling.CACHE_VARIABLE])
    assert (chosen == expected) == (planted == "nothing")
    assert chosen.parent == tmp_path and chosen.lstat().st_mode & 0o777 == 0o700
    compiling.use_private_cache()  # the user's choice, or the first one, stays
    assert os.environ[compiling.CACHE_VARIABLE] == str(chosen)
