"""Layers -> config: precedence, normalisation, interpolation, and YAML that reads back to the same config."""

from __future__ import annotations

import random
import string

import pytest
import yaml

from fwk.components.registry import registry
from fwk.config import yaml_text
from fwk.config.identity import differences, identity, to_yaml
from fwk.config.resolve import from_mapping, from_python, read, resolve
from fwk.config.run_config import RunConfig
from fwk.config.spec import DEFAULTS
from fwk.errors import ConfigError, UnknownName

QUICK = ["task=synthetic"]


def config(overrides=(), files=(), **flags) -> RunConfig:
    return resolve(files, flags, [*QUICK, *overrides]).config


@pytest.fixture
def file(tmp_path):
    count = iter(range(100))

    def write(text: str) -> str:
        path = tmp_path / f"config{next(count)}.yaml"
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def forgets():
    """Forget the names that a test registered."""
    yield
    for key in [k for k, entry in registry.live.items() if entry.module == __name__]:
        del registry.live[key]


# ---- defaults and precedence ----


def test_defaults():
    made = resolve().config
    assert {k: getattr(made, k).name for k in DEFAULTS if k != "criterion"} == {
        k: v for k, v in DEFAULTS.items() if k != "criterion"
    }
    assert list(made.criterion) == ["masked_lm"] and list(made.hooks) == [
        "terminal",
        "jsonl",
        "tensorboard",
        "summary",
    ]
    assert made.train.updates == 600 and made.seed == 1 and made.run is None and not made.views


def test_another_end_than_updates_needs_no_updates():
    assert config(["train.minutes=2"]).train.updates is None
    assert config(["train.minutes=2", "train.updates=7"]).train.updates == 7


def test_later_wins(file):
    one, two = file("train: {batch: 2, clip: 2}\nseed: 2\n"), file("train:\n  batch: 3\n")
    assert config(files=[one, two]).train.batch == 3
    assert config(files=[two, one]).train.batch == 2
    assert config(["train.batch=5", "train.batch=6"], [one, two]).train.batch == 6
    assert config(files=[one]).seed == 2 and config(files=[one], seed="4").seed == 4
    assert config(["seed=5"], [one], seed="4").seed == 5
    assert config(files=[one, two]).train.clip == 2.0


def test_flags_win_over_files_and_overrides_over_flags(file):
    path = file("optimizer: sgd\n")
    assert config(files=[path]).optimizer.name == "sgd"
    assert config(files=[path], optimizer="adamw").optimizer.name == "adamw"
    assert config(["optimizer=sgd"], optimizer="adamw").optimizer.name == "sgd"
    assert config(["optimizer.name=sgd"], optimizer="adamw").optimizer.name == "sgd"


def test_every_value_knows_where_it_came_from(file):
    path = file("optimizer:\n  lr: 1e-4\ntrain:\n  batch: 8\n  clip: 2\n")
    found = resolve(
        [path],
        {"task": "synthetic", "criterion": ["semantic_augment"]},
        ["train.batch=16", "criterion.tied_weight=1"],
    ).provenance
    assert found["optimizer.lr"] == f"{path}:2" and found["train.clip"] == f"{path}:5"
    assert found["train.batch"] == "train.batch=16" and found["task.name"] == "--task"
    assert found["criterion.semantic_augment.name"] == "--criterion"
    assert found["criterion.semantic_augment.tied_weight"] == "criterion.tied_weight=1"
    assert found["train.save_every"] == "default" and found["schedule.name"] == "default"


def test_options_said_for_a_name_go_with_it(file):
    named = file("optimizer: {name: adamw, lr: 0.5, betas: [0.1, 0.2]}\n")
    assert config(files=[named]).optimizer.values["lr"] == 0.5
    assert config(files=[named], optimizer="sgd").optimizer.values["lr"] != 0.5
    assert config(files=[named], optimizer="adamw").optimizer.values["betas"] == (0.1, 0.2)


def test_options_said_for_no_name_stay(file):
    nameless = file("optimizer: {lr: 0.5}\n")
    assert config(files=[nameless], optimizer="sgd").optimizer.values["lr"] == 0.5
    with pytest.raises(ConfigError, match="optimizer.betas: optimizer 'sgd' has no option 'betas'"):
        config(files=[file("optimizer: {betas: [0.1, 0.2]}\n")], optimizer="sgd")


# ---- criteria ----


@pytest.mark.parametrize(
    "text",
    [
        "criterion: masked_lm",
        "criterion: {masked_lm: {}}",
        "criterion: {masked_lm: masked_lm}",
        "criterion: {masked_lm: {name: masked_lm}}",
        "criterion: {masked_lm: {weight: 1}}",
    ],
)
def test_shorthands_mean_the_canonical_form(file, text):
    assert (
        config(files=[file(text)]).to_mapping()["criterion"] == config().to_mapping()["criterion"]
    )


def test_a_label_is_the_name_unless_it_says_otherwise(file):
    made = config(
        files=[file("criterion: {easy: {name: masked_lm, weight: 2}, semantic_augment: {}}")]
    )
    assert [(label, spec.name, spec.weight) for label, spec in made.criterion.items()] == [
        ("easy", "masked_lm", 2.0),
        ("semantic_augment", "semantic_augment", 1.0),
    ]


def test_shorthand_with_one_criterion():
    made = config(["criterion.label_smoothing=0.1", "criterion.weight=3"])
    assert made.criterion["masked_lm"].component.values["label_smoothing"] == 0.1
    assert made.criterion["masked_lm"].weight == 3.0
    made = config(
        ["criterion.tied_weight=7", "criterion.views=[a, b]"], criterion=["semantic_augment"]
    )
    assert made.criterion["semantic_augment"].component.values["tied_weight"] == 7.0
    assert made.criterion["semantic_augment"].component.values["views"] == ("a", "b")


def test_shorthand_with_several_names_the_labels():
    with pytest.raises(
        ConfigError,
        match=r"labels: masked_lm, semantic_augment; write criterion\.LABEL\.tied_weight",
    ):
        config(["criterion.tied_weight=7"], criterion=["masked_lm", "semantic_augment"])
    made = config(
        ["criterion.semantic_augment.tied_weight=7"], criterion=["masked_lm", "semantic_augment"]
    )
    assert made.criterion["semantic_augment"].component.values["tied_weight"] == 7.0


def test_the_flag_replaces_the_set_and_keeps_the_options_of_labels_that_remain(file):
    path = file(
        "criterion:\n  masked_lm: {label_smoothing: 0.2, weight: 3}\n  other: {name: semantic_augment}\n"
    )
    assert list(config(files=[path]).criterion) == ["masked_lm", "other"]
    made = config(files=[path], criterion=["semantic_augment", "masked_lm"])
    assert list(made.criterion) == ["semantic_augment", "masked_lm"]
    assert made.criterion["masked_lm"].component.values["label_smoothing"] == 0.2
    assert made.criterion["masked_lm"].weight == 3.0
    assert list(config(files=[path], criterion=["other"]).criterion) == ["other"]
    assert config(files=[path], criterion=["other"]).criterion["other"].name == "semantic_augment"


def test_files_combine_objectives_by_label(file):
    one, two = file("criterion: masked_lm"), file("criterion: semantic_augment")
    assert list(config(files=[one, two]).criterion) == ["masked_lm", "semantic_augment"]
    off = file("criterion: {masked_lm: null, semantic_augment: {}}")
    assert list(config(files=[one, off]).criterion) == ["semantic_augment"]


def test_the_default_criterion_is_no_part_of_a_named_set(file):
    assert list(config(files=[file("criterion: {semantic_augment: {}}")]).criterion) == [
        "semantic_augment"
    ]
    assert list(config(["criterion.semantic_augment.tied_weight=1"]).criterion) == [
        "semantic_augment"
    ]
    assert list(config(["criterion=semantic_augment"]).criterion) == ["semantic_augment"]


def test_a_weight_may_change_over_the_run():
    made = config(["criterion.weight={from: 0, to: 2, end: 0.5}"])
    assert made.criterion["masked_lm"].weight == {"from": 0.0, "to": 2.0, "start": 0.0, "end": 0.5}


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("{from: 1}", "criterion.masked_lm.weight.to"),
        ("{from: 1, too: 2}", "Did you mean 'to'"),
        ("{from: 1, to: 2, start: 0.9, end: 0.1}", "start < end"),
        ("[1]", "a number or a mapping"),
        ("x", "got 'x'"),
        ("{from: a, to: 1}", "criterion.masked_lm.weight.from: expected a number"),
    ],
)
def test_wrong_weights(weight, message):
    with pytest.raises(ConfigError, match=message):
        config([f"criterion.weight={weight}"])


# ---- hooks ----


def test_hooks_are_added_by_label_and_removed_by_null():
    assert list(config(["hooks.tensorboard=null"]).hooks) == ["terminal", "jsonl", "summary"]
    made = config(["hooks.more.name=jsonl"])
    assert (
        list(made.hooks) == ["terminal", "jsonl", "tensorboard", "summary", "more"]
        and made.hooks["more"].name == "jsonl"
    )
    assert list(config(["hooks={}"]).hooks) == []
    assert list(config(["hooks={}", "hooks.jsonl={}"]).hooks) == ["jsonl"]


# ---- values ----


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E-4", 1e-4),
        ("'1e-4'", 1e-4),
        ("1", 1.0),
        (".5", 0.5),
        ("1_000", 1000.0),
    ],
)
def test_numbers(file, text, value):
    assert config([f"optimizer.lr={text}"]).optimizer.values["lr"] == value
    assert config(files=[file(f"optimizer: {{lr: {text}}}")]).optimizer.values["lr"] == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("yes", True), ("no", False), ("on", True), ("Off", False), ("true", True), ("FALSE", False)],
)
def test_truth_values(file, text, value):
    assert config([f"train.compile={text}"]).train.compile is value
    assert config(files=[file(f"train: {{compile: {text}}}")]).train.compile is value


@pytest.mark.parametrize(
    "text",
    ["no", "2024", "1e5", "null-ish", "a: b", "*.txt", "x # y", "{", "&a", "%d", "@", "`", "-"],
)
def test_text_on_the_command_line_is_what_was_typed(text):
    if text == "{":
        text = "'{'"
    assert config([f"run={text}"]).run == text.strip("'")


def test_text_in_a_file_must_be_text(file):
    for text in ("no", "2024", "1.5"):
        with pytest.raises(ConfigError, match="in quotes"):
            config(files=[file(f"run: {text}")])
        assert config(files=[file(f"run: '{text}'")]).run == text


def test_yaml_features(file):
    path = file("""
base: &b {batch: 4}
""")
    with pytest.raises(ConfigError, match="base: unknown key"):
        config(files=[path])
    path = file(
        "train: &t {batch: 4, clip: 2}\n"
        "views: {masked: {noiser: bert_mask, ratio: &r 0.2}, remasked: {<<: {noiser: bert_mask}, ratio: *r}}\n"
    )
    made = config(files=[path])
    assert made.views["remasked"] == {"noiser": "bert_mask", "ratio": 0.2} and made.train.batch == 4
    assert config(files=[file("# nothing\n")]) == config()
    assert config(files=[file("\ufefftrain: {batch: 4}\n")]).train.batch == 4
    assert config(files=[file("train:\r\n  batch: 4\r\n")]).train.batch == 4


@pytest.mark.parametrize("length", [1, 1000, 1001, 1025, 5000])
def test_keys_of_any_length_survive_writing_and_reading(length):
    key = "\u00e9" * length
    values = {key: {"inner": {key: [{key: 1, "b": None}]}}, "z": 1}
    assert yaml_text.parse(yaml_text.dump(values), "again").values == values


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0",
        "00",
        "010",
        "1:30",
        "0x10",
        "0b1",
        "1_0",
        "2024-01-01",
        "+1",
        "1.",
        ".5",
        "1e5",
        "1e",
        "e5",
        ".inf",
        "-.INF",
        ".nan",
        "~",
        "",
        "null",
        "Null",
        "nULL",
        "y",
        "n",
        "Yes",
        "0.1.2",
    ],
)
def test_scalars_agree_with_omegaconf_but_for_octals_sixties_and_times(text):
    from omegaconf import OmegaConf

    made = yaml_text.scalar(text)
    theirs = OmegaConf.create(f"v: {text}").v if text else None
    if text in ("00", "010", "1:30", "2024-01-01", "0x10", "0b1"):
        assert made == text
    else:
        assert made == theirs or (made != made and theirs != theirs)


# ---- interpolation ----


def test_interpolation_reads_any_key_also_a_default(file):
    made = config(
        [
            "train.micro_batch=${train.batch}",
            "train.batch=8",
            "train.save_every=${train.validate_every}",
        ]
    )
    assert made.train.micro_batch == 8 and made.train.save_every == 250
    made = config(files=[file("run: runs/${task.name}-${seed}\nseed: 7\n")])
    assert made.run == "runs/synthetic-7"
    assert config(["train.batch=${oc.select:train.log_every,3}"]).train.batch == 10


def test_an_escaped_interpolation_is_text_and_stays_it():
    made = config([r"run=a\${seed}"])
    assert made.run == "a${seed}"
    assert from_mapping(yaml.safe_load("x: 1") and {"task": "synthetic"}) is not None
    assert read_text(to_yaml(made)).run == "a${seed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${oc.env:HOME}", "the resolver 'oc.env' is not allowed"),
        ("${oc.decode:'1'}", "oc.decode"),
        ("${nope:1}", "'nope'"),
        ("${oc.create:{}}", "oc.create"),
        ("x${oc.env:HOME,}y", "oc.env"),
        ("${trian.batch}", r"names no key \(run=\S+\)\. Did you mean 'train.batch'"),
        ("${}", "not an interpolation"),
        ("${train.batch", "not an interpolation|not valid"),
        ("${${seed}}", "not an interpolation"),
        ("${.batch}", "a path from the top"),
        ("${run}", "refers to itself"),
        ("${train[batch]}", "a path from the top"),
        ("???", "must be given"),
    ],
)
def test_wrong_interpolations(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config([f"run={text}"])
    assert caught.value.key == "run" and "\n" not in str(caught.value)


def test_a_cycle_of_interpolations():
    with pytest.raises(ConfigError, match="train.batch|train.log_every"):
        config(["train.batch=${train.log_every}", "train.log_every=${train.batch}"])


def test_an_interpolated_value_is_checked_as_any_other():
    with pytest.raises(ConfigError, match="train.batch: expected a whole number, got 'synthetic'"):
        config(["train.batch=${task.name}"])


def test_a_name_is_no_interpolation():
    with pytest.raises(
        ConfigError, match="model.name: a component's name cannot be an interpolation"
    ):
        config(["model=${task.name}"])


# ---- out and in again ----


def read_text(text: str) -> RunConfig:
    layer = yaml_text.parse(text, "printed")
    return resolve(layers=[("printed", layer.values)]).config


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["hooks={}"],
        ["hooks.terminal=null", "hooks.mine.name=jsonl"],
        ["criterion=semantic_augment"],
        [
            "criterion.masked_lm.weight={from: 1, to: 0}",
            "criterion.more.name=masked_lm",
            "criterion.more.view=second",
        ],
        ["views.masked.ratio=0.3", "run='2024'"],
        ["run=no", "task.length=9", "optimizer.lr_scales={'a.b': 0.5}"],
        ["networks.small={name: bert, layers: 1, tie: [embedding]}", "views.masked.encoder=small"],
        ["train.minutes=0.5"],
        ['run="a \'b\' \\"c\\" # d: e"'],
    ],
)
def test_what_is_printed_is_a_fixed_point(overrides):
    made = resolve((), {}, [*QUICK, *overrides])
    text = to_yaml(made)
    again = read_text(text)
    assert again == made.config.with_complete_views() and to_yaml(again) == text
    noted = to_yaml(made, made.provenance)
    assert read_text(noted) == again and "# default" in noted
    assert identity(again) == identity(made.config) and differences(again, made.config) == {}
    assert yaml.safe_load(text)["train"]["batch"] == 32  # other readers of YAML read it too


def test_mapping_there_and_back():
    made = config(["criterion=semantic_augment", "hooks.tensorboard=null"])
    assert from_mapping(made.to_mapping()) == made


def test_any_text_survives_the_printer():
    pick = random.Random(0)
    alphabet = string.printable + "äß漢\u2028\u0085\ufeff🙂\x1b\x00" + "${}\\'\"#:- " * 4
    odd = [
        "",
        " ",
        "-",
        "- a",
        "? a",
        "a: b",
        "a #b",
        "true",
        "1e3",
        "0x1",
        "null",
        "~",
        "\\",
        "\\${seed}",
        "a\\\\${b",
        "=",
        "!x",
        "%",
    ]
    for text in odd + ["".join(pick.choices(alphabet, k=pick.randrange(8))) for _ in range(300)]:
        printed = yaml_text.dump({"a": text, "b": [text, {text or "k": text}], "c": {"d": text}})
        values = dict(yaml_text.parse(printed, "x").values)
        escaped = values["a"]
        from omegaconf import OmegaConf

        try:
            assert (
                OmegaConf.to_container(OmegaConf.create({"a": escaped}), resolve=True)["a"] == text
            ), (text, printed)
        except Exception as error:
            raise AssertionError((text, printed)) from error


def test_read_a_run_folders_config(tmp_path):
    made = config(["train.batch=6"])
    (tmp_path / "config.yaml").write_text(to_yaml(made))
    assert read(tmp_path / "config.yaml") == made.with_complete_views()


# ---- from Python ----


def test_from_python_takes_what_the_command_takes(file):
    path = file("train: {batch: 6}\n")
    made = from_python(
        path,
        {
            "task": "synthetic",
            "criterion": "semantic_augment",
            "optimizer.lr": 1e-4,
            "seed": 3,
            "train": {"clip": 2},
            "criterion.tied_weight": 3,
        },
    )
    assert made.train.batch == 6 and made.train.clip == 2.0 and made.seed == 3
    assert (
        made.optimizer.values["lr"] == 1e-4
        and made.criterion["semantic_augment"].component.values["tied_weight"] == 3.0
    )
    assert (
        from_python({"task": "synthetic"})
        == config()
        == from_python(config())
        == from_python([config(), {"seed": 1}])
    )
    assert list(
        from_python(
            {"task": "synthetic"}, {"criterion": ["masked_lm", "semantic_augment"]}
        ).criterion
    ) == ["masked_lm", "semantic_augment"]
    with pytest.raises(ConfigError, match="expected a path, a mapping or a RunConfig, got 3"):
        from_python(3)
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        from_python(None, {"trian.batch": 3})


# ---- what a run is ----


def test_length_logging_and_place_are_not_what_a_run_is():
    base = config()
    same = [
        "train.updates=9",
        "train.minutes=3",
        "train.log_every=1",
        "train.save_every=3",
        "train.keep_last=5",
        "train.device=cpu",
        "train.workers=2",
        "train.micro_batch=4",
        "train.compile=true",
        "run=elsewhere",
        "hooks={}",
        "train.timeout=9",
        "train.threads=1",
        "train.validate_every=3",
    ]
    assert differences(base, config(same)) == {} and identity(base) == identity(config(same))
    for other in (
        "train.batch=8",
        "seed=2",
        "optimizer.lr=1",
        "criterion.label_smoothing=0.1",
        "task.length=16",
        "model.width=32",
        "views.masked.ratio=0.2",
        "train.precision=bf16",
        "schedule.warmup=3",
        "train.clip=0",
        "train.ema=0.9",
    ):
        changed = differences(base, config([other]))
        key, value = other.split("=")
        key = key.replace("criterion.", "criterion.masked_lm.")
        assert list(changed) == [key], changed
        assert str(changed[key][1]) in (value, f"{value}.0") and identity(
            config([other])
        ) != identity(base)
    assert set(differences(base, config(["optimizer=sgd"]))) >= {
        "optimizer.name",
        "optimizer.betas",
        "optimizer.momentum",
    }
    assert len(identity(base)) == 8 and int(identity(base), 16) >= 0


def test_a_hook_that_takes_part_is_what_a_run_is(forgets):
    from fwk import hookimpl, register

    @register("hook", "two_stages_for_a_test")
    class TwoStages:
        @hookimpl
        def fwk_phase(self, run):
            return None

    @register("hook", "listener_for_a_test")
    class Listener:
        @hookimpl
        def fwk_logged(self, record):
            pass

    @register("hook", "drawer_for_a_test")
    class Drawer:
        listens_only = True

        @hookimpl
        def fwk_update_end(self, run):
            pass

    assert (
        differences(
            config(), config(["hooks.listener_for_a_test={}", "hooks.drawer_for_a_test={}"])
        )
        == {}
    )
    assert (
        differences(
            config(),
            config(["hooks={terminal: null, jsonl: null, tensorboard: null, summary: null}"]),
        )
        == {}
    )
    changed = differences(config(), config(["hooks.two_stages_for_a_test={}"]))
    assert list(changed) == ["hooks.two_stages_for_a_test.name"]


# ---- views ----


def test_default_views_are_the_criterions():
    views = config(criterion=["semantic_augment"]).views_by_name
    assert list(views) == ["masked", "remasked"]
    assert (
        views["masked"].noiser == "bert_mask"
        and views["masked"].of is None
        and views["masked"].mode == "train"
    )
    assert views["masked"].component.config.ratio == 0.15


def test_views_override_by_name_and_key():
    views = config(["views.masked.ratio=0.3"], criterion=["semantic_augment"]).views_by_name
    assert (
        views["masked"].component.values["ratio"] == 0.3
        and views["remasked"].component.values["ratio"] == 0.15
    )


@pytest.fixture
def silent():
    """A criterion to derive from, which reads no view and returns no term."""
    from fwk import Criterion, Output

    class Silent(Criterion):
        @classmethod
        def reads(cls, config):
            return {}

        def normalizers(self, views, context):
            return {}

        def forward(self, views, context):
            return Output({})

    return Silent


def test_another_noiser_drops_the_default_ones_options(forgets, silent):
    from fwk import Read, register

    @register("criterion", "needs_a_view")
    class Needs(silent):
        @classmethod
        def reads(cls, config):
            return {
                "v": Read({"noiser": "bert_mask", "ratio": 0.4, "mode": "teacher"}),
                "w": Read({}),
            }

    made = config(["views.v.noiser=identity", "views.w=identity"], criterion=["needs_a_view"])
    views = made.views_by_name
    assert (
        views["v"].noiser == "identity"
        and views["v"].component.values == {}
        and views["v"].mode == "teacher"
    )
    with pytest.raises(
        ConfigError, match="views.w: criterion 'needs_a_view' reads this view, and nothing says how"
    ):
        _ = config(criterion=["needs_a_view"]).views_by_name
    with pytest.raises(ConfigError, match="views.v.ratio: noiser 'identity' has no option 'ratio'"):
        config(["views.v.noiser=identity", "views.v.ratio=0.2"])


def test_two_criteria_that_mean_different_views_by_one_name(forgets, silent):
    from fwk import Read, register

    @register("criterion", "other_masks")
    class Other(silent):
        @classmethod
        def reads(cls, config):
            return {"masked": Read({"noiser": "bert_mask", "ratio": 0.4})}

    with pytest.raises(
        ConfigError,
        match="views.masked: criteria 'masked_lm' and 'other_masks' define this view differently",
    ):
        _ = config(criterion=["masked_lm", "other_masks"]).views_by_name
    views = config(["views.masked.ratio=0.2"], criterion=["masked_lm", "other_masks"]).views_by_name
    assert views["masked"].component.values["ratio"] == 0.2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["views.masked.of=nowhere"], "views.masked.of: there is no view 'nowhere'"),
        (["views.a={noiser: identity, of: masked}", "views.masked.of=a"], "in a circle"),
        (["views.masked.of=masked"], "in a circle"),
        (["views.masked.encoder=small"], "views.masked.encoder: there is no network 'small'"),
        (["views.masked.network=main"], "is not learned and has no use for a network"),
        (["views.masked.network={name: bert}"], "is not learned"),
        (["views.masked.prepare=true"], "views.masked.prepare"),
        (["views.masked.ema=true"], "set train.ema"),
        (
            ["views.maskd.ratio=0.2"],
            "views.maskd: no criterion reads a view of this name, and it has no noiser. Did you mean 'masked'",
        ),
        (["views.masked.ratio=2"], "views.masked.ratio: must be between 0 and 1"),
        (["views.masked.mask=0.9", "views.masked.random=0.9"], "views.masked"),
        (["views.batch=identity"], "'batch' is the batch itself"),
        (
            ["views.masked.network={layers: 3}"],
            "views.masked.network.name",
        ),  # no criterion names it either
    ],
)
def test_views_that_cannot_be(overrides, message):
    with pytest.raises(ConfigError, match=message):
        _ = config(overrides).views_by_name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["views.masked.network={name: brt}"], "Unknown model 'brt' .*Did you mean 'bert'"),
        (["views.masked.network={name: bert, layrs: 3}"], "Did you mean 'layers'"),
        (["networks.small={layers: 3}"], "networks.small: has no name"),
        (["networks.small=brt"], "Unknown model 'brt'"),
        (["networks.main=bert"], "'main' is the network of 'model'"),
        (
            ["networks.small={name: bert, tie: embedding}"],
            "networks.small.tie: expected a list of text",
        ),
        (["views.masked.mode=techer"], "Did you mean 'teacher'"),
        (
            ["views.masked.noiser=bert_msk"],
            "Unknown noiser 'bert_msk' .*Did you mean 'bert_mask'",
        ),
        (["views.masked.ratoi=0.2"], "views.masked.ratoi: .*Did you mean 'ratio'"),
    ],
)
def test_views_and_networks_are_checked_before_any_class_is_needed(overrides, message):
    with pytest.raises((ConfigError, UnknownName), match=message):
        config(overrides)


def test_what_nothing_reads_is_told():
    made = config(
        [
            "views.spare=identity",
            "networks.spare=bert",
            "views.base=identity",
            "views.masked.of=base",
        ]
    )
    assert made.unused_keys() == ["views.spare", "networks.spare"]
    assert config().unused_keys() == []


def test_what_a_dataclass_refuses_is_an_error_with_the_key(forgets, silent):
    from dataclasses import dataclass

    from fwk import option, register

    @register("criterion", "strict_for_a_test")
    class Strict(silent):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            a: int = option(1, "odd")

            def __post_init__(self):
                if self.a % 2 == 0:
                    raise ValueError(f"a is {self.a}; expected an odd number")

    with pytest.raises(
        ConfigError, match=r"criterion.strict_for_a_test: a is 2; expected an odd number"
    ):
        _ = config(["criterion.a=2"], criterion=["strict_for_a_test"]).views_by_name
    with pytest.raises(ConfigError, match=r"^optimizer.betas: expected"):
        _ = config(["optimizer.betas=[1.0, 0.5]"]).views_by_name


@pytest.mark.parametrize("name", ["epochs", "minutes", "tokens", "updates"])
def test_a_run_has_some_length(name):
    bound = "above 0" if name in ("epochs", "minutes") else "at least 1"
    with pytest.raises(ConfigError, match=f"^train.{name}: must be {bound}, got 0"):
        config([f"train.{name}=0"])


def test_a_required_option(forgets):
    from dataclasses import dataclass

    from fwk import option, register

    @register("criterion", "demanding_for_a_test")
    class Demanding:
        @dataclass(frozen=True, kw_only=True)
        class Config:
            path: str = option(doc="where it lies")

    with pytest.raises(
        ConfigError, match="criterion.demanding_for_a_test.path: .*needs this option: where it lies"
    ):
        config(criterion=["demanding_for_a_test"])
    assert config(["criterion.path=x"], criterion=["demanding_for_a_test"])
