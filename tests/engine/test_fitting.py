"""A config that asks for more than the weights beside it hold is refused before the memory is taken."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from support.runs import config_in
from torch import nn

import fwk
from fwk.cli import evaluate as evaluate_command
from fwk.cli import export as export_command
from fwk.cli import score as score_command
from fwk.cli import train as train_command
from fwk.engine import fitting
from fwk.engine.build import build_module
from fwk.engine.fitting import build_fitting, bytes_of_result
from fwk.engine.saving.state import model_tensors
from fwk.engine.saving.tensor_file import SavedTensors
from fwk.errors import CheckpointError
from fwk.files.kinds import LOCK
from fwk.runs import start
from fwk.tasks.synthetic import Synthetic
from fwk.testing import tiny_config

HERE = Path("weights")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fitting") / "run"
    start.train(config_in(folder, {"train": {"updates": 2, "save_every": 2, "validate_every": 0}}))
    return folder


@pytest.fixture
def altered(run, tmp_path):
    """A function that returns a copy of the run whose config has other values."""

    def copy(**values: int) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(run, folder)
        path = folder / "config.yaml"
        text = path.read_text().replace(str(run), str(folder))
        for key, value in values.items():
            text, count = re.subn(rf"(?m)^(  {key}:).*$", rf"\1 {value}", text, count=1)
            assert count == 1, key
        path.write_text(text)
        return folder

    return copy


# no machine has the memory that these ask for: 4 TB per layer, 3.8 TB, and a minute for each 1000 layers
HUGE = {
    "width": {"width": 1_000_000, "heads": 1},
    "vocabulary": {"vocabulary": 10_000_000, "width": 100_000, "heads": 1},
    "layers": {"layers": 10_000},
}
SAID = {
    "width": r"embeddings\.token\.weight is \[32, \d+\], the model's is \[32, 1000000\]",
    "vocabulary": r"embeddings\.token\.weight is \[32, \d+\], the model's is \[10000000, 100000\]",
    "layers": r"holds \d+ tensors of weights, and its config describes a model of more than 20,",
}


@pytest.mark.parametrize(
    "case", ["width", "vocabulary", pytest.param("layers", marks=pytest.mark.slow)]
)
def test_a_run_that_asks_for_a_huge_model_is_refused_by_name_and_shapes(altered, case):
    with pytest.raises(CheckpointError, match=SAID[case]) as error:
        fwk.load(altered(**HUGE[case]))
    assert "checkpoints/update-000000002" in str(error.value)


def test_every_command_refuses_it_with_one_sentence(altered, tmp_path, capsys):
    folder = altered(**HUGE["width"])
    (tmp_path / "text.txt").write_text("a b\n")

    def files() -> dict[Path, int]:
        paths = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
        return {path: path.stat().st_mtime_ns for path in paths}

    before = files()
    for main, arguments in (
        (evaluate_command.main, [str(folder)]),
        (score_command.main, [str(folder), "--text", str(tmp_path / "text.txt")]),
        (export_command.main, [str(folder), str(tmp_path / "exported")]),
        (
            train_command.main,
            ["--config", str(folder / "config.yaml"), "--run", str(folder), "train.updates=4"],
        ),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert re.search(SAID["width"], error) and error.count("\n") == 1
    assert not (tmp_path / "exported").exists()
    assert files() == before


def test_checkpoints_of_which_none_can_be_read_are_refused_before_the_model_is_built(
    altered, capsys
):
    folder = altered(**HUGE["width"])
    (folder / "checkpoints" / "update-000000002" / "model.safetensors").write_bytes(b"")
    arguments = ["--config", str(folder / "config.yaml"), "--run", str(folder)]
    assert train_command.main(arguments) == 2
    error = capsys.readouterr().err
    assert "has 0 bytes, expected" in error and error.count("\n") == 1


def test_a_new_run_in_place_of_another_is_of_any_size(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = config_in(
        folder, {"model": {"layers": 3}, "train": {"updates": 1, "validate_every": 0}}
    )
    assert start.train(config, overwrite=True).update == 1


# -- modules that fit --------------------------------------------------------------------------------------------------


def objective(**criterion: object):
    config = tiny_config({"criterion": {"masked_lm": {}}})
    return config, Synthetic(config.task.config, config.seed)


def test_a_module_within_its_allowance_is_built_once_with_the_same_weights(monkeypatch):
    config, task = objective()
    expected = model_tensors(build_module(config, task))
    calls = []
    monkeypatch.setattr(
        fitting, "build_module", lambda *given: calls.append(given) or build_module(*given)
    )
    built = model_tensors(build_fitting(config, task, SavedTensors(HERE, expected)))
    assert len(calls) == 1
    assert all(torch.equal(value, expected[name]) for name, value in built.items())


def hiding(monkeypatch, make) -> None:
    """Let every module hide what `make` returns from its state."""

    def build(config, task, assets=None):
        module = build_module(config, task, assets)
        module.hidden = [make()]
        return module

    monkeypatch.setattr(fitting, "build_module", build)
    monkeypatch.setattr(fitting, "BYTES_BESIDES", 1 << 20)


def test_a_module_that_hides_a_large_network_fits(monkeypatch):
    config, task = objective()
    saved = SavedTensors(HERE, model_tensors(build_module(config, task)))
    hiding(monkeypatch, lambda: nn.Linear(1_000, 1_000))
    module = build_fitting(config, task, saved)
    tensors = [*module.parameters(), *module.buffers(), *module.hidden[0].parameters()]
    assert not any(value.is_meta for value in tensors)
    require = model_tensors(module)
    assert all(torch.equal(value, saved.tensors[name]) for name, value in require.items())


def test_a_constructor_that_reads_large_values_is_run_as_it_is(monkeypatch):
    config, task = objective()
    saved = SavedTensors(HERE, model_tensors(build_module(config, task)))
    hiding(monkeypatch, lambda: float(torch.ones(1_000, 1_000).sum()))
    assert build_fitting(config, task, saved).hidden == [1e6]


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: torch.zeros(1 << 40), r"describes a model of more than 4,398,046,511,104;"),
        (lambda: torch.zeros(10**30), "describes a model of more than can be counted"),
        pytest.param(
            lambda: [nn.Linear(1, 1) for _ in range(11_000)],
            r"more than 20,\d+; restore the config",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["memory", "overflow", "count"],
)
def test_what_no_weights_explain_is_bounded_by_the_machine(monkeypatch, make, said):
    config, task = objective()
    saved = SavedTensors(HERE, model_tensors(build_module(config, task)))
    hiding(monkeypatch, make)
    with pytest.raises(CheckpointError, match=said):
        build_fitting(config, task, saved)


# -- sizes of results --------------------------------------------------------------------------------------------------

MOST = 1 << 20
SIDE = torch.arange(1_000.0)


@pytest.mark.parametrize(
    "make, needed",
    [
        (lambda: torch.empty(1_000, 1_000), 4_000_000),
        (lambda: torch.zeros(1_000, 1_000, dtype=torch.float64), 8_000_000),
        (lambda: torch.full((1_000, 1_000), 1.0), 4_000_000),
        (lambda: torch.arange(1_000_000), 8_000_000),
        (lambda: torch.eye(1_000), 4_000_000),
        (lambda: torch.randn(1_000, 1_000, generator=torch.Generator()), 4_000_000),
        (lambda: SIDE.new_zeros(1_000_000), 4_000_000),
        (lambda: SIDE[:, None] - SIDE, 4_000_000),
        (lambda: torch.outer(SIDE, SIDE), 4_000_000),
        (lambda: SIDE.repeat(1_000), 4_000_000),
        (lambda: SIDE.expand(1_000, 1_000).contiguous(), 4_000_000),
        (lambda: torch.cat([SIDE] * 1_000), 4_000_000),
    ],
)
def test_the_size_of_a_result_is_known_before_it_is_made(make, needed):
    with pytest.raises(fitting._Exceeded) as exceeded:
        with fitting._Refusing(MOST):
            make()
    assert exceeded.value.needed >= needed


def test_small_results_and_changes_in_place_are_made():
    with fitting._Refusing(MOST):
        values = torch.empty(200_000).normal_()
        assert values.add_(1).view(-1, 2).sum() != 0
        assert torch.arange(1_000).tolist()[-1] == 999


def test_an_operation_without_sizes_is_not_run_where_its_inputs_are_small():
    add = torch.ops.aten.add.Tensor
    assert bytes_of_result(add, (torch.ones(2), torch.ones(2)), {}, MOST) <= MOST
