"""fwk-plugins: list, show, new, check, index."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fwk.cli.plugins import main
from fwk.cli.train import main as train
from fwk.components.registry import registry
from fwk.components.user_dirs import PREFIX


@pytest.fixture(autouse=True)
def forgotten():
    yield
    for table in (registry.live, registry.packages, sys.modules):
        for key in [
            k
            for k in table
            if (table[k].module if table is registry.live else k).startswith(PREFIX)
        ]:
            del table[key]


def test_list_says_kind_name_plugin_and_place(capsys):
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {(row[0], row[1]): row[2:4] for row in rows}
    assert found["criterion", "semantic_augment"][0] == "tied_mlm"
    assert (
        found["criterion", "semantic_augment"][1]
        .rpartition(":")[0]
        .endswith("tied_mlm/criteria/semantic_augment.py")
    )
    assert found["model", "bert"][0] == "fwk"
    assert main(["list", "noiser"]) == 0
    assert all(line.startswith("noiser") for line in capsys.readouterr().out.splitlines())


def test_show_prints_options(capsys):
    assert main(["show", "semantic_augment"]) == 0
    out = capsys.readouterr().out
    assert (
        "criterion.tied_weight  (float >= 0; default 1.0)" in out and "semantic_augment.py:" in out
    )
    assert main(["show", "noiser/bert_mask"]) == 0
    assert "views.VIEW.ratio" in capsys.readouterr().out


def test_list_and_show_import_no_torch():
    code = (
        "import sys; from fwk.cli.plugins import main; assert main(['list']) == 0 == main(['show', 'bert']);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "contains"),
    [
        (["lst"], "Unknown command of fwk-plugins 'lst'. Did you mean 'list'"),
        (["show"], "'show' takes one argument"),
        (["show", "semantic_agument"], "Did you mean 'semantic_augment'"),
        (["show", "critreion/masked_lm"], "Did you mean 'criterion'"),
        (["list", "criteria"], "Did you mean 'criterion'"),
        (["list", "a", "b"], "at most one argument"),
        (["new", "Not-A-Name"], "cannot be a criterion's name"),
        (["new", "mine", "--dir"], "--dir needs a value"),
        (["--dri", "x", "new", "mine"], "Did you mean '--dir'"),
        (["check", "nowhere"], "there is no such directory or file"),
        (["index", "no_such_package"], "no package 'no_such_package'"),
        (["check", __file__], "registers nothing"),
    ],
)
def test_wrong_input_is_one_message(arguments, contains, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert (
        contains in err
        and len(err.strip().splitlines()) == 1
        and err.startswith("fwk-plugins: error: ")
    )


def test_help_and_nothing_at_all_print_the_usage(capsys):
    assert main([]) == 0 == main(["--help"])
    assert capsys.readouterr().out.count("usage: fwk-plugins") == 2


@pytest.mark.slow
def test_new_writes_a_skeleton_that_keeps_the_rules_and_trains(tmp_path, capsys):
    place = tmp_path / "mine"
    assert main(["new", "my_objective", "--dir", str(place)]) == 0
    assert sorted(p.name for p in place.iterdir()) == ["my_objective.py", "test_my_objective.py"]
    assert main(["new", "my_objective", "--dir", str(place)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["check", str(place)]) == 0
    out = capsys.readouterr().out
    assert "criterion my_objective" in out and "all rules hold" in out and "BROKEN" not in out
    assert (
        train(
            [
                "--user-dir",
                str(place),
                "--criterion",
                "my_objective",
                "--task",
                "synthetic",
                "--run",
                str(tmp_path / "run"),
                "train.updates=2",
                "train.batch=4",
                "train.device=cpu",
                "hooks={jsonl: {}}",
            ]
        )
        == 0
    )


def test_check_names_the_broken_rule(tmp_path, capsys):
    main(["new", "bad_objective", "--dir", str(tmp_path / "bad")])
    path = tmp_path / "bad" / "bad_objective.py"
    path.write_text(path.read_text().replace("view.valid, 0.0).sum()", "view.valid, 0.0).mean()"))
    capsys.readouterr()
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "geometry                     BROKEN" in out and "1 broken" in out
