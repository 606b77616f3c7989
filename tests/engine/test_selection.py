"""The best checkpoint by a metric, the end of a run that stops to improve, and what is due by passes over the data."""

from __future__ import annotations

import json

import pytest
from support.commands import torchrun
from support.runs import config_in, lines

import fwk
from fwk.cli.evaluate import main as evaluate_command
from fwk.config.identity import differences, identity
from fwk.config.resolve import from_mapping
from fwk.contracts.metrics import direction_of, find_metric
from fwk.engine import bookkeeping
from fwk.engine.evaluate import evaluate_and_count
from fwk.engine.saving import checkpoint
from fwk.engine.selection import Selection
from fwk.errors import CheckpointError, ConfigError, UserError
from fwk.runs import start
from fwk.testing import change_config, merge_settings, stopped_at, tiny_config, trainer_of

WANING = [5.0, 4.0, 4.0, 3.95, 4.2, 4.1, 2.9, 2.8, 2.7]  # losses of one evaluation after the other
PATIENT = {
    "train": {"updates": 9, "validate_every": 1, "save_every": 2, "log_every": 4, "patience": 3}
}


@pytest.fixture
def waning(monkeypatch):
    """Make the loss of the valid split that of `WANING`, whatever is trained."""
    monkeypatch.setattr(
        bookkeeping, "evaluate", lambda run, split, stop: {"loss": WANING[run.update - 1]}
    )


def best_updates(folder):
    state = checkpoint.read_state(checkpoint.newest_intact(folder)[0])
    return [update for _, update in state["best"]]


# -- the metric ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, direction",
    [
        *((name, "min") for name in ("loss", "valid/perplexity", "a/error_rate", "nll", "x/mse")),
        *((name, "max") for name in ("a/accuracy", "f1", "macro_f1", "a/matthews", "a/b/pearson")),
        *((name, "max") for name in ("exact", "exact_match", "a/spearman", "copy_accuracy_all")),
        *((name, None) for name in ("a/energy", "accuracy/cosine", "accuracy_loss", "lossy")),
    ],
)
def test_the_name_of_a_metric_says_whether_small_or_large_is_good(name, direction):
    assert direction_of(name) == direction


def test_the_last_part_of_a_metrics_name_is_enough_where_it_is_unique():
    known = ["loss", "one/accuracy", "two/accuracy", "one/f1", "one/words/f1"]
    assert find_metric("one/accuracy", known, "k") == "one/accuracy"
    assert find_metric("words/f1", known, "k") == "one/words/f1"
    with pytest.raises(ConfigError, match="k: 'accuracy' may be one/accuracy or two/accuracy; st"):
        find_metric("accuracy", known, "k")
    with pytest.raises(ConfigError, match="k: validation gives no 'f2'. Available: loss, one/acc"):
        find_metric("f2", known, "k")


def test_an_unknown_metric_ends_the_run_before_its_first_update(tmp_path):
    config = config_in(tmp_path / "run", {"train": {"best_metric": "accurracyy"}})
    with pytest.raises(
        ConfigError, match="gives no 'accurracyy'. Did you mean 'accuracy'|masked_lm"
    ):
        start.train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_unknown_metric_is_refused_before_anything_is_written(tmp_path, monkeypatch, overwrite):
    config = config_in(tmp_path / "run", {"train": {"best_metric": "accurracyy"}})

    def written(*_):
        raise AssertionError("something was written")

    monkeypatch.setattr(start, "_write_description", written)
    monkeypatch.setattr(start, "set_aside", written)
    with pytest.raises(ConfigError, match="gives no 'accurracyy'"):
        start.train(config, overwrite=overwrite)


def test_a_metric_whose_direction_is_unknown_needs_the_mode():
    config = tiny_config(
        {"criterion": {"semantic_augment": {}}, "train": {"best_metric": "cosine"}}
    )
    with (
        trainer_of(config) as trainer,
        pytest.raises(ConfigError, match=r"best_mode: nothing says .*'semantic_augment/cosine'"),
    ):
        trainer.bookkeeping.selection.check()
    with trainer_of(change_config(config, {"train": {"best_mode": "max"}})) as trainer:
        trainer.bookkeeping.selection.check()


def test_a_loss_term_is_to_be_small_whatever_its_name():
    config = tiny_config({"criterion": {"masked_lm": {}}})
    with trainer_of(config) as trainer:
        (term,) = evaluate_and_count(trainer.run, "valid", batches=1).terms
    with trainer_of(change_config(config, {"train": {"best_metric": term}})) as trainer:
        selection = trainer.bookkeeping.selection
        assert direction_of(term) is None and selection.direction == "auto"
        selection.check()
        assert selection.direction == "min"


def test_the_best_mode_follows_from_the_metric_and_leaves_the_run_the_same():
    """A run of before `auto`, when min was the default, is found and resumed by the same command."""
    accuracy = {"train": {"best_metric": "masked_lm/accuracy"}}
    stated = merge_settings(accuracy, {"train": {"best_mode": "max"}})
    assert identity(tiny_config()) == identity(tiny_config({"train": {"best_mode": "min"}}))
    assert identity(tiny_config(accuracy)) == identity(tiny_config(stated))
    later = {"patience": 3, "min_improvement": 0.1, "save_every": None, "save_epochs": 0.5}
    assert identity(tiny_config({"train": later})) == identity(tiny_config())
    assert differences(tiny_config({"train": {"best_mode": "min"}}), tiny_config()) == {}
    smallest = merge_settings(accuracy, {"train": {"best_mode": "min"}})
    changed = differences(tiny_config(smallest), tiny_config(accuracy))
    assert changed == {"train.best_mode": ("min", "max")}


def test_a_metric_of_a_later_phase_is_not_missed_before():
    changes = {"criterion": {"masked_lm": {}, "semantic_augment": {}}}
    config = tiny_config({**changes, "train": {"best_metric": "semantic_augment/accuracy"}})
    with trainer_of(config) as trainer:
        trainer.run.module.switch_off(["semantic_augment"])
        selection = trainer.bookkeeping.selection
        selection.check()
        assert not selection.note({"loss": 1.0, "masked_lm/accuracy": 0.5}, is_due=True)
        trainer.run.module.switch_off([])
        with pytest.raises(ConfigError, match="gives no 'semantic_augment/accuracy'"):
            selection.note({"loss": 1.0}, is_due=True)


# -- patience --------------------------------------------------------------------------------------------------------


def test_a_run_ends_after_so_many_evaluations_without_an_improvement(tmp_path, waning):
    finished = start.train(config_in(tmp_path, {"train": {**PATIENT["train"], "patience": 2}}))
    assert (finished.status, finished.exit_status, finished.update) == ("finished", 0, 6)
    logged = lines(tmp_path)
    assert [line["update"] for line in logged if "lr" in line] == [4, 6]
    assert logged[-1]["event"] == "finished"
    assert logged[-2] == {
        **{"event": "out_of_patience", "split": "valid", "update": 6},
        **{"metric": "loss", "best": 3.95, "evaluations": 2},
    }
    assert best_updates(tmp_path) == [4]


def test_an_improvement_exceeds_the_least_one(tmp_path, waning):
    patience = {**PATIENT["train"], "min_improvement": 0.5}
    assert start.train(config_in(tmp_path, {"train": patience})).update == 5
    assert best_updates(tmp_path) == [4]  # the best is the best, improvement or not


def test_not_a_number_is_no_improvement(tmp_path, monkeypatch):
    losses = [float("nan"), 2.0, float("nan"), float("nan"), 1.0]
    monkeypatch.setattr(bookkeeping, "evaluate", lambda run, *_: {"loss": losses[run.update - 1]})
    assert (
        start.train(config_in(tmp_path, {"train": {**PATIENT["train"], "patience": 2}})).update == 4
    )


def test_a_longer_run_that_is_out_of_patience_stays_finished(tmp_path, waning, caplog):
    """It goes on where the patience is raised, as if it had been so from the start."""
    few = {**PATIENT["train"], "patience": 1}
    assert start.train(config_in(tmp_path / "run", {"train": few})).update == 3
    longer = {**few, "updates": 12}
    with caplog.at_level("INFO"):
        assert start.train(config_in(tmp_path / "run", {"train": longer})).update == 3
    assert "a longer run (train.patience above 1, or 0) would resume" in caplog.text
    assert start.train(config_in(tmp_path / "run", PATIENT)).update == 9
    start.train(config_in(tmp_path / "patient", PATIENT))
    evaluations = [
        [
            line
            for line in lines(tmp_path / run)
            if line.get("split") == "valid" and "metrics" in line
        ]
        for run in ("run", "patient")
    ]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 9
    assert best_updates(tmp_path / "run") == best_updates(tmp_path / "patient") == [9]


@pytest.mark.parametrize("update", [3, 5])
def test_a_run_that_was_stopped_ends_where_it_would_have_ended(tmp_path, waning, update):
    patience = {**PATIENT["train"], "patience": 2}
    with stopped_at(update):
        assert start.train(config_in(tmp_path / "a", {"train": patience})).exit_status == 75
    assert start.train(config_in(tmp_path / "a", {"train": patience})).update == 6
    start.train(config_in(tmp_path / "b", {"train": patience}))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    for run in "ab":
        state = checkpoint.read_state(tmp_path / run / "checkpoints/latest")
        assert state["waiting"] == (3.95, 2)


def test_the_evaluation_at_an_arbitrary_end_does_not_count(tmp_path, waning):
    """A longer run would not make it, so it would change where that run ends."""
    train = {**PATIENT["train"], "validate_every": 2, "updates": 3, "patience": 1}
    start.train(config_in(tmp_path, {"train": train}))
    assert checkpoint.read_state(tmp_path / "checkpoints/latest")["waiting"] == (4.0, 0)


def test_patience_needs_evaluations():
    with pytest.raises(
        ConfigError, match=r"train\.patience: counts evaluations .* train\.validate"
    ):
        tiny_config({"train": {"patience": 2, "validate_every": 0}}).check()


def test_patience_needs_a_valid_split(monkeypatch):
    with trainer_of(tiny_config({"train": {"patience": 2}})) as trainer:
        monkeypatch.setattr(trainer.run.task, "splits", lambda: ("train",))
        with pytest.raises(ConfigError, match=r"train\.patience: .* the task has no split 'valid'"):
            Selection(trainer.run, trainer.stop)


# -- passes over the data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epochs, batch, due",
    [
        (0.5, 12, [6, 11, 16, 22]),  # of 128 sequences: 64 are seen after update 5.33
        (1.0, 32, [4, 8, 12, 16, 20]),
        (0.1, 32, list(range(1, 23))),
        (2.0, 12, [22]),
    ],
)
def test_work_by_epochs_is_due_at_the_first_update_that_completes_a_share(epochs, batch, due):
    train = {"validate_every": None, "validate_epochs": epochs, "batch": batch}
    with trainer_of(tiny_config({"criterion": {"masked_lm": {}}, "train": train})) as trainer:
        run, found = trainer.run, []
        assert len(run.order) == 128
        for run.update in range(1, 23):
            if run.is_due(run.config.train.validate_every, run.config.train.validate_epochs):
                found.append(run.update)
    assert found == due


def test_epochs_take_the_place_of_updates(tmp_path):
    train = {
        **{"updates": None, "epochs": 1, "validate_every": None, "save_every": None},
        **{"validate_epochs": 0.5, "save_epochs": 0.5},
    }
    settings = {"criterion": {"masked_lm": {}}, "hooks": {"jsonl": {}}, "train": train}
    start.train(config_in(tmp_path, base=settings))
    evaluated = [line["update"] for line in lines(tmp_path) if line["split"] == "valid"]
    assert evaluated == [6, 11]
    kept = [checkpoint.update_of(path) for path in checkpoint.list_checkpoints(tmp_path)]
    assert kept == [6, 11]


def test_both_updates_and_epochs_are_an_error_unless_one_is_null():
    both = {"train": {"validate_every": 5, "validate_epochs": 0.5}}
    with pytest.raises(
        ConfigError, match=r"validate_epochs: takes the place of train\.validate_ev"
    ):
        from_mapping(both)
    with pytest.raises(ConfigError, match=r"train\.save_epochs: takes the place"):
        from_mapping({"train": {"save_every": 0, "save_epochs": 1}})
    epochs = from_mapping({"train": {"validate_every": None, "validate_epochs": 0.5}})
    assert epochs == from_mapping({"train": {"validate_epochs": 0.5}})
    assert epochs == from_mapping(epochs.to_mapping())  # what RUN/config.yaml states can be read
    assert from_mapping({"train": {"validate_every": None}}).train.validate_every == 250


# -- the best checkpoint ---------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_loaded_and_evaluated(tmp_path, waning, capsys):
    """Without links, as on file systems that have none, the newest checkpoint says which one is the best."""
    train = {**PATIENT["train"], "patience": 0, "updates": 6, "keep_last": 1}
    start.train(config_in(tmp_path, {"train": train}))
    (tmp_path / "checkpoints/best").unlink()
    assert fwk.load(tmp_path, checkpoint="best").update == 4 != fwk.load(tmp_path).update
    assert evaluate_command([str(tmp_path), "--best", "train.device=cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["update"] == 4

    one = tmp_path / "checkpoints/update-000000006"
    with pytest.raises(CheckpointError, match="is one checkpoint; expected a run's folder"):
        fwk.load(one, checkpoint="best")
    with pytest.raises(UserError, match="checkpoint: expected newest or best, got 'latest'"):
        fwk.load(tmp_path, checkpoint="latest")


def test_a_run_without_a_best_checkpoint_says_so(tmp_path):
    start.train(config_in(tmp_path, {"train": {"updates": 1, "keep_best": 0}}))
    with pytest.raises(CheckpointError, match="has no best checkpoint: .* kept none"):
        fwk.load(tmp_path, checkpoint="best")


@pytest.mark.slow
def test_all_ranks_end_together_where_nothing_improves(tmp_path):
    """At a rate of 0 the loss stays as it is: the first evaluation is the last improvement."""
    settings = (
        *(
            "optimizer.lr=0",
            "model.layers=1",
            "model.width=16",
            "task.sequences=64",
            "train.batch=8",
        ),
        *("train.updates=50", "train.validate_every=2", "train.patience=3", "train.device=cpu"),
    )
    run = ("task.name=synthetic", f"run={tmp_path / 'run'}", *settings)
    done = torchrun("-m", "fwk.cli.train", *run, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    logged = lines(tmp_path / "run")
    assert [line["event"] for line in logged if "event" in line] == ["out_of_patience", "finished"]
    assert logged[-1]["update"] == 8 and "train.patience=3" in done.stderr
