"""fwk-train's grammar and its errors: one message, the nearest right thing, exit status 2, no traceback, no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fwk.cli.train import main
from fwk.errors import UserError

S = ["--task", "synthetic"]

# (arguments, what the message must contain); every one is found out before torch is imported
WRONG = [
    # names
    (["--task", "mml"], "Unknown task 'mml'. Did you mean 'mlm'"),
    (["--criterion", "semantic_augmnt"], "Did you mean 'semantic_augment'"),
    (
        ["--criterion", "masked_lm", "--criterion", "nope_nope"],
        "Unknown criterion 'nope_nope'",
    ),
    (["--model", "brt"], "Unknown model 'brt'. Did you mean 'bert'"),
    (["--model", "masked_lm"], "'masked_lm' is a criterion"),
    (["--optimizer", "adam"], "Did you mean 'adamw'"),
    (["--schedule", "linaer"], "Did you mean 'linear'"),
    (["model=brt"], "Unknown model 'brt' (given in model.name, model=brt). Did you mean 'bert'"),
    (["hooks.tb.name=tensorbord"], "Did you mean 'tensorboard'"),
    (["hooks.tensorbord.every=3"], "Unknown hook 'tensorbord'"),
    (["views.masked.noiser=bert_mesk"], "Did you mean 'bert_mask'"),
    (["networks.g=brt"], "Unknown model 'brt'"),
    # keys
    (["trian.batch=3"], "trian: unknown key (trian.batch=3). Did you mean 'train'"),
    (
        ["train.bacth=3"],
        "train.bacth: train has no option 'bacth' (train.bacth=3). Did you mean 'batch'",
    ),
    (["optimizer.rl=3"], "optimizer.rl: optimizer 'adamw' has no option 'rl'"),
    (
        ["model.layer=3"],
        "model.layer: model 'bert' has no option 'layer' (model.layer=3). Did you mean 'layers'",
    ),
    (
        [*S, "task.lenght=3"],
        "task.lenght: task 'synthetic' has no option 'lenght' (task.lenght=3). Did you mean 'length'",
    ),
    (
        ["criterion.label_smooting=0.1"],
        "'label_smooting' is neither an option of criterion 'masked_lm' nor a criterion "
        "(criterion.label_smooting=0.1). Did you mean",
    ),
    (
        ["criterion.masked_lm.label_smooting=0.1"],
        "criterion.masked_lm.label_smooting: criterion 'masked_lm' has no option",
    ),
    (
        ["--criterion", "masked_lm", "--criterion", "semantic_augment", "criterion.tied_weight=3"],
        "masked_lm, semantic_augment",
    ),
    (["views.masked.ratoi=0.1"], "Did you mean 'ratio'"),
    (
        ["views.masked.noiser=bert_mask", "views.masked.ratoi=0.1"],
        "noiser 'bert_mask' has no option 'ratoi' (views.masked.ratoi=0.1). Did you mean 'ratio'",
    ),
    (["seed.x=3"], "'seed' has no keys of its own"),
    (["model.name.x=3"], "model.name.x: 'name' has no keys of its own"),
    (["views.masked.noiser.x=3"], "'noiser' has no keys of its own"),
    (["schedule.warmpu=3"], "Did you mean 'warmup'"),
    (["train.batch.x=3"], "train.batch: expected a whole number, got a mapping"),
    (["criterion.name=masked_lm"], "'criterion' maps labels to criteria"),
    (["views.a b.noiser=identity"], "a label is made of"),
    # types
    (["optimizer.lr=fast"], "optimizer.lr: expected a number, got 'fast' (optimizer.lr=fast)"),
    (["train.batch=3.5"], "train.batch: expected a whole number, got 3.5"),
    (["train.batch=1e3"], "train.batch: expected a whole number, got 1000.0; write 1000"),
    (["train.batch=true"], "expected a whole number, got true"),
    (["train.batch=null"], "expected a whole number, got null"),
    (["train.batch="], "expected a whole number, got ''"),
    (["train.compile=1"], "expected true or false, got 1"),
    (["train.compile=maybe"], "expected true or false, got 'maybe'"),
    (["train=3"], "train: expected a mapping, got 3"),
    (["task=[a]"], "task: expected a name or a mapping, got a list"),
    (["criterion=[masked_lm]"], "criterion: expected a mapping of labels or one name, got a list"),
    (["criterion.masked_lm=3"], "criterion.masked_lm: expected a name or a mapping, got 3"),
    (["views=identity"], "views: expected a mapping of labels"),
    (["views.masked=[1]"], "views.masked: expected a name or a mapping, got a list"),
    (["model.name=3"], "model.name: expected a name, got 3"),
    (["optimizer.betas=0.9"], "optimizer.betas: expected a list of 2 values, got 0.9"),
    (["optimizer.betas=[0.9]"], "expected a list of 2 values, got 1"),
    (["optimizer.betas=[0.9, x]"], "optimizer.betas.1: expected a number, got 'x'"),
    (["--seed", "one"], "seed: expected a whole number, got 'one' (--seed)"),
    (["user_dirs=3"], "user_dirs: expected a list of text"),
    (["criterion.view=[a]"], "criterion.masked_lm.view: expected text, got a list"),
    # values
    (["--seed", "-1"], "seed: must be between 0 and"),
    (["--seed", "99999999999999999999"], "seed: must fit into 64 bits, got 99999999999999999999"),
    (["train.batch=0"], "train.batch: must be between 1 and 1e+07, got 0"),
    (["criterion.label_smoothing=3"], "must be between 0 and 1, got 3"),
    (
        ["train.precision=fp61"],
        "expected one of 'fp32', 'bf16', 'fp16', 'fp64', got 'fp61' (train.precision=fp61). Did you mean 'fp6",
    ),
    (["train.precision=16"], "train.precision: expected one of"),
    (["optimizer.lr=.nan"], "finite"),
    (["optimizer.lr=.inf"], "finite"),
    (
        ["views.masked.noiser=bert_mask", "views.masked.ratio=1.5"],
        "views.masked.ratio: must be between 0 and 1, got 1.5",
    ),
    (["run=${oc.env:HOME}"], "the resolver 'oc.env' is not allowed"),
    (
        ["train.batch=${train.bacth}"],
        "${train.bacth} names no key (train.batch=${train.bacth}). Did you mean 'train.batch'",
    ),
    (["train.batch=???"], "must be given"),
    # the command line itself
    (["--citerion", "masked_lm"], "Unknown flag '--citerion'. Did you mean '--criterion'"),
    (["-x"], "Unknown flag '-x'. See 'fwk-train --help'"),
    (["--task"], "--task needs a value: --task NAME"),
    (["--task", "--model", "bert"], "--task needs a value"),
    (["--task="], "--task needs a value"),
    (["--task", "mlm", "--task", "synthetic"], "--task is given twice"),
    (["--overwrite=yes"], "--overwrite takes no value"),
    (["masked_lm"], "cannot parse 'masked_lm'; expected key.path=value"),
    (["base.yaml"], "a config file is given by --config base.yaml"),
    (["=3"], "expected key.path=value"),
    (["train..batch=3"], "expected key.path=value"),
    (["train.batch=[1, 2"], "train.batch: train.batch=[1, 2: not valid YAML"),
    (["train={batch: 3, batch: 4}"], "a second time"),
    (["--user-dir", "nowhere"], "--user-dir nowhere: there is no such directory or file"),
    (["--user-dir", __file__[:-3] + ".txt"], "there is no such directory or file"),
]

# name of the file's content -> (bytes, what the message must contain after FILE)
FILES = {
    "syntax": (b"train: {batch: 3\n", ":2: not valid YAML"),
    "colon": (b"seed: 1\nrun: a: b\n", ":2: not valid YAML: mapping values are not allowed here"),
    "no-space": (b"train:\n  batch:3\n", "train"),
    "tab": (b"train:\n\tbatch: 3\n", ":2: not valid YAML: a tab where YAML needs spaces"),
    "duplicate": (
        b"seed: 1\ntrain: {}\nseed: 2\n",
        ":3: the key 'seed' is given a second time (first in line 1)",
    ),
    "nested-duplicate": (b"train:\n  batch: 1\n  batch: 2\n", ":3: the key 'batch'"),
    "list": (b"- a\n- b\n", ":1: expected 'key: value' lines at the top, got a list"),
    "scalar": (b"hello\n", ":1: expected 'key: value' lines at the top, got a single value"),
    "latin1": (b"seed: 1\nrun: caf\xe9\n", ":2 is not UTF-8 text (byte 0xe9)"),
    "utf16": ("seed: 1\n".encode("utf-16"), "is not UTF-8 text"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "control": (b"seed: 1\nrun: \x01\n", ":2: a character that is not text (#x0001)"),
    "nul": (b"\x00" * 100, "a character that is not text"),
    "huge": (b"# " + b"x" * 1_100_000, "is larger than"),
    "tag": (
        b"run: !!python/object/apply:os.system ['true']\n",
        "the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed",
    ),
    "tag-local": (b"run: !env HOME\n", ":1: the tag '!env' is not allowed"),
    "two-documents": (b"seed: 1\n---\nseed: 2\n", "not valid YAML"),
    "unknown-anchor": (b"run: *nothing\n", ":1: not valid YAML: found undefined alias"),
    "recursive": (b"train: &t\n  batch: *t\n", "circular"),
    "laughs": (
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9))
            for c in range(ord("b"), ord("j"))
        ),
        "too many",
    ),
    "deep": (b"run: " + b"[" * 5000, "YAML|too many|deep"),
    "complex-key": (b"? [a, b]\n: 3\n", "a key must be plain text"),
    "merge-of-a-list": (b"train:\n  <<: [a]\n", "merges mappings only"),
    "unknown-key": (b"seed: 1\n\ntrian:\n  batch: 3\n", ":3)"),
    "unknown-option": (b"train:\n  batch: 3\n  clipp: 3\n", ":3)"),
    "type": (b"train:\n  batch: many\n", ":2)"),
    "name": (b"criterion:\n  masked_ml: {}\n", ":2)"),
    "flat": (b"train.batch: 3\n", "write the key nested"),
    "truth-for-text": (b"run: no\n", "YAML reads yes, no"),
    "criterion-list": (
        b"criterion: [masked_lm, semantic_augment]\n",
        "criterion: expected a mapping of labels or one name, got a list",
    ),
    "hook-list": (b"hooks: [terminal]\n", "hooks: expected a mapping of labels, got a list"),
    "quoted-number": (b"train: {batch: '3'}\n", "expected a whole number, got '3'"),
    "null-task": (b"task: null\n", "task: expected a name or a mapping, got null"),
}


def assert_one_message(status: int, err: str, contains: str) -> None:
    lines = err.strip().splitlines()
    assert status == 2, err
    assert len(lines) == 1 and lines[0].startswith("fwk-train: error: "), err
    assert any(part in lines[0] for part in contains.split("|")), err
    assert "Traceback" not in err and len(lines[0]) < 900


@pytest.mark.parametrize(("arguments", "contains"), WRONG, ids=[" ".join(a)[:60] for a, _ in WRONG])
def test_wrong_input_is_one_message(arguments, contains, capsys):
    status = main(arguments)
    out, err = capsys.readouterr()
    assert_one_message(status, err, contains)
    assert out == ""


@pytest.mark.parametrize("name", FILES)
def test_wrong_config_file_is_one_message_with_its_place(name, tmp_path, capsys):
    data, contains = FILES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_bytes(data)
    status = main(["--config", str(path)])
    err = capsys.readouterr().err
    assert_one_message(status, err, contains)
    assert str(path) in err


def test_config_files_that_are_not_there(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("seed: 1\n")
    assert_one_message(
        main(["--config", str(tmp_path / "bsae.yaml")]), capsys.readouterr().err, "Did you mean"
    )
    assert_one_message(main(["--config", str(tmp_path)]), capsys.readouterr().err, "Is a directory")
    assert_one_message(
        main(["--config", str(tmp_path / "a" / "b.yaml")]),
        capsys.readouterr().err,
        "there is no file",
    )


def test_errors_and_help_import_no_torch(tmp_path):
    """All of the cases above in one process, which must not have imported torch at the end."""
    for name, (data, _) in FILES.items():
        (tmp_path / f"{name}.yaml").write_bytes(data)
    cases = [a for a, _ in WRONG] + [["--config", str(tmp_path / f"{n}.yaml")] for n in FILES]
    helps = [
        ["--help"],
        ["--version"],
        ["--criterion", "semantic_augment", "--help"],
        ["train.batch=3", "--help"],
    ]
    code = (
        "import json, sys; from fwk.cli.train import main\n"
        "wrong, right = json.load(sys.stdin)\n"
        "assert all(main(a) == 2 for a in wrong); assert all(main(a) == 0 for a in right)\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules or 'rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([cases, helps]),
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, (
        f"if components changed, run `fwk-plugins index`; {done.stderr[-2000:]}"
    )


def test_general_help(capsys):
    assert main(["--help"]) == 0 == main(["-h"])
    out = capsys.readouterr().out
    for word in (
        "usage: fwk-train",
        "--criterion",
        "masked_lm",
        "semantic_augment",
        "train.micro_batch",
        "--print-config",
    ):
        assert word in out


def test_help_shows_the_chosen_components(capsys):
    assert main(["--criterion", "semantic_augment", "--help"]) == 0
    out = capsys.readouterr().out
    assert "criterion.tied_weight  (float >= 0; default 1.0)" in out and "weight of the tie" in out
    assert "train.batch" not in out and "task." not in out
    assert (
        main(
            [
                "--criterion",
                "semantic_augment",
                "--criterion",
                "masked_lm",
                "--optimizer",
                "sgd",
                "--help",
            ]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "criterion.semantic_augment.tied_weight" in out and "criterion.masked_lm.tied_output" in out
    )
    assert "optimizer.momentum" in out
    assert main(["--task", "nope", "--help"]) == 2


def test_help_shows_what_makes_the_views_that_a_criterion_brings(capsys):
    assert main(["--criterion", "semantic_augment", "--help"]) == 0
    shown = capsys.readouterr().out
    assert (
        "views masked, remasked, each made by\nnoiser bert_mask" in shown
        and "views.masked.ratio" in shown
    )
    assert main(["--criterion", "masked_lm", "views.masked=identity", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "noiser identity" in shown and "bert_mask" not in shown


def test_every_line_of_help_fits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main(["train.batch=1", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 160


def test_print_config_prints_views_and_origins_and_is_a_fixed_point(capsys, tmp_path):
    arguments = [
        *S,
        "--criterion",
        "semantic_augment",
        "criterion.tied_weight=1e0",
        "views.masked.ratio=0.2",
        "--print-config",
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert (
        "remasked:" in out
        and "# criterion.tied_weight=1e0" in out
        and "# views.masked.ratio=0.2" in out
        and "# --task" in out
    )
    (tmp_path / "a.yaml").write_text(out)
    assert main(["--config", str(tmp_path / "a.yaml"), "--print-config"]) == 0
    again = capsys.readouterr().out
    (tmp_path / "b.yaml").write_text(again)
    strip = lambda text: [line.split("  #")[0].rstrip() for line in text.splitlines()]  # noqa: E731
    assert strip(again) == strip(out) and f"# {tmp_path / 'a.yaml'}:" in again
    assert main(["--config", str(tmp_path / "b.yaml"), "--print-config"]) == 0
    assert strip(capsys.readouterr().out) == strip(out)


@pytest.mark.parametrize(
    ("arguments", "contains"),
    [
        (
            [*S, "views.masked.ratio=2", "--print-config"],
            "views.masked.ratio: must be between 0 and 1",
        ),
        (
            [*S, "views.masked.of=maskd", "--print-config"],
            "views.masked.of: there is no view 'maskd'. Did you mean 'masked'",
        ),
        ([*S, "optimizer.betas=[2, 0]"], "optimizer.betas"),
        (
            [*S, "criterion=semantic_augment", "criterion.views=[a, a]"],
            "expected two different views",
        ),
        ([*S, "views.spare.ratio=0.5"], "views.spare: no criterion reads a view of this name"),
    ],
)
def test_what_needs_the_classes_is_one_message_too(arguments, contains, capsys):
    assert_one_message(main(arguments), capsys.readouterr().err, contains)


def test_of_several_ranks_the_first_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["--task", "nope"]) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "0")
    assert main(["--task", "nope"]) == 2
    assert "Unknown task" in capsys.readouterr().err


def test_a_failed_run_is_status_1(capsys, monkeypatch):
    from fwk.errors import RunError
    from fwk.runs import start

    def fails(*args, **kwargs):
        raise RunError("the loss is not finite\nafter update 3")

    monkeypatch.setattr(start, "train", fails)
    assert main(S) == 1
    assert capsys.readouterr().err == "fwk-train: error: the loss is not finite after update 3\n"


def test_an_interrupt_is_status_130(capsys, monkeypatch):
    from fwk.runs import start

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "train", interrupted)
    assert main(S) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch):
    from fwk.runs import start

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(start, "train", broken)
    with pytest.raises(ZeroDivisionError):
        main(S)


def test_what_nothing_reads_is_a_warning(capsys, monkeypatch):
    from fwk.runs import start

    monkeypatch.setattr(start, "train", lambda config, **_: type("Done", (), {"exit_status": 0}))
    assert main([*S, "networks.spare=bert"]) == 0
    assert "fwk-train: warning: networks.spare is read by nothing" in capsys.readouterr().err


def test_flags_reach_the_engine(monkeypatch):
    from fwk.runs import start

    seen = {}
    monkeypatch.setattr(
        start,
        "train",
        lambda config, **kw: (
            seen.update(kw, config=config) or type("Done", (), {"exit_status": 75})
        ),
    )
    assert main([*S, "--run", "2024", "--seed=7", "--overwrite", "train.batch=4"]) == 75
    assert seen["overwrite"] and not seen["allow_broken_plugins"]
    assert (seen["config"].run, seen["config"].seed, seen["config"].train.batch) == ("2024", 7, 4)


def test_train_from_python_raises_what_the_command_reports():
    import fwk

    with pytest.raises(UserError, match="Did you mean 'synthetic'"):
        fwk.train(task="synthetik")


def test_a_terminal_without_utf8_shows_help():
    done = subprocess.run(
        [sys.executable, "-m", "fwk.cli.plugins", "list"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0 and b"bert_mask" in done.stdout
