"""Operations counted from configs, against the published columns and against a count by hand."""

from __future__ import annotations

import pytest
from support.paths import ROOT

from fwk.config.resolve import resolve
from fwk.contracts.sizes import GELU, NORM, SequenceShape, Transformer
from fwk.flops import count, main

PAPERS = ROOT / "configs" / "papers"
CVT = ("multitask", "parsing", "tagging")  # their model does not list its Transformers


def counted(name: str, *overrides: str):
    return count(
        resolve([str(PAPERS / f"{name}.yaml")], overrides=["task.data=store", *overrides]).config
    )


# Clark et al. 2020, tables 1 to 3 and 8: training, and inference on one sequence
@pytest.mark.parametrize(
    "name, overrides, training, inference",
    [
        ("bert_small", (), 1.4e18, 3.7e9),
        ("electra_small", ("views.corrupted.network.width=0.5",), 1.4e18, 3.7e9),
        ("efficiency_bert", (), 6.4e19, 2.9e10),
        ("electra_base", (), 6.4e19, 2.9e10),
        (
            "efficiency_bert",
            (
                "train.updates=464000",
                "train.batch=2048",
                "model.layers=24",
                "model.width=1024",
                "model.heads=16",
                "model.inner=4096",
                "model.embedding=1024",
            ),
            7.1e20,
            None,
        ),
        ("electra_large_400k", (), 7.1e20, None),
        ("electra_large_1m75", (), 3.1e21, None),
    ],
)
def test_published_counts_come_out_within_5_percent(name, overrides, training, inference):
    result = counted(name, *overrides)
    assert result.training == pytest.approx(training, rel=0.05) and not result.uncounted
    assert inference is None or result.inference == pytest.approx(inference, rel=0.05)


def test_with_the_tables_generator_electra_small_costs_less_than_its_column_says():
    assert counted("electra_small").training == pytest.approx(1.29e18, rel=0.01)


@pytest.mark.parametrize(
    "name, parameters",
    [("electra_small", 14e6), ("electra_base", 110e6), ("electra_large_400k", 335e6)],
)
def test_parameters_are_those_published(name, parameters):
    import torch

    from fwk.contracts.context import BuildContext, Vocabulary

    config = resolve([str(PAPERS / f"{name}.yaml")], overrides=["task.data=store"]).config
    with torch.device("meta"):
        encoder = config.model.cls(
            config.model.config, BuildContext(vocabulary=Vocabulary(size=30522, pad=0), length=512)
        )
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(parameters, rel=0.05)


def test_a_layer_is_its_products_and_what_is_small_beside_them():
    T, V, D, inner, E = 128, 30522, 256, 1024, 128
    one, text = (
        Transformer(layers=12, width=D, heads=4, inner=inner, embedding=E),
        SequenceShape(T, V),
    )
    products = T * (
        2 * V * E + 2 * E * D + 12 * (4 * 2 * D * D + 2 * 2 * T * D + 2 * 2 * D * inner)
    )
    assert products < one.forward(text) < 1.03 * products
    assert one.softmax(text, share=1.0) == T * ((2 * D + 1 + GELU + NORM) * E + (2 * E + 7) * V)


def test_what_does_not_say_its_operations_is_named():
    config = resolve(
        [],
        flags={"criterion": ["simcse"]},
        overrides=[
            f"user_dirs=[{ROOT / 'user_dir_examples' / 'simcse'}]",
            "task.vocabulary=1000",
        ],
    ).config
    assert counted_parts(config) == ("criterion.simcse",)


def counted_parts(config) -> tuple[str, ...]:
    return count(config).uncounted


@pytest.mark.slow
def test_every_config_of_the_papers_is_counted_or_named_with_a_reason(capsys):
    """As docs/flops.md prints the command: python -m fwk.flops configs/papers/*.yaml."""
    files = sorted(map(str, PAPERS.glob("*.yaml")))
    assert main(files) == 0
    lines = dict(zip(files, capsys.readouterr().out.splitlines(), strict=True))
    uncounted = {file for file, line in lines.items() if "cannot be counted: " in line}
    assert uncounted == {str(PAPERS / f"cvt_{name}.yaml") for name in CVT}
    # their length is a number of passes over data that the file does not know
    by_epochs = {file for file in lines if "/bam_" in file}
    assert all("  update " in lines[file] for file in by_epochs)
    assert all("  training " in lines[file] for file in lines.keys() - uncounted - by_epochs)


def test_a_config_that_cannot_be_counted_or_read_says_why(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("model: {name: brt}")
    files = [str(PAPERS / f"{name}.yaml") for name in (*map("cvt_{}".format, CVT), "bert_small")]
    assert main(files) == 0
    *refused, counted = capsys.readouterr().out.splitlines()
    for line in refused:
        assert "cannot be counted: task.vocabulary" in line and "'cnn_bilstm'" in line
    assert "training 1.42e+18" in counted
    assert main([str(tmp_path / "broken.yaml")]) == 2
    assert "cannot be read: " in capsys.readouterr().out


def test_parts_of_a_batch_are_counted_as_one_batch():
    given = {"length": 128, "vocabulary": 30522}
    many = resolve([ROOT / "configs/papers/bam_multi.yaml"], overrides=["task.data=x"]).config
    one = resolve(
        [ROOT / "configs/papers/fine_tuning/bam_single_rte.yaml"],
        overrides=["task.data=x", f"train.batch={many.train.batch}"],
    ).config
    assert count(many, **given).update == pytest.approx(count(one, **given).update, rel=1e-12)
