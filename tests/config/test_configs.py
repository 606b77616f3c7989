"""Every file under configs/ resolves, has the values that its comments name, and trains when it is shrunk."""

from __future__ import annotations

import json
from pathlib import Path
from string import Formatter

import pytest
from support import fine_tuning
from support.cases import PROMPTED, TREEBANK, labelled
from support.paths import ROOT

from fwk import testing
from fwk.components.trust import trusting
from fwk.config.resolve import from_mapping, resolve
from fwk.contracts.noiser import LearnedNoiser
from fwk.data.layouts.glue import glue_task
from fwk.errors import ConfigError
from fwk.runs import start
from fwk.testing import merge_settings

FILES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name != "shared"  # what other files extend, without criteria
)
PAPERS = [name for name in FILES if name.startswith("configs/papers/")]
CVT = [
    name for name in PAPERS if name.startswith("configs/papers/cvt_")
]  # of sentences, not of text
BAM = [
    name for name in PAPERS if name.startswith("configs/papers/bam_")
]  # of several tasks, in chains
TEXT = [name for name in PAPERS if name not in CVT and name not in BAM]
# files of each kind
SAMPLE = (
    *("demo/", "electra_small", "coco_lm_base", "semantic_augment_tied", "electric", "cvt_"),
    *("bam_single_to", "lm_bff_rte", "fine_tuning/electra_squad", "semantic_augment_swag"),
)

# the values of the paper, by dotted key
COMMON = {
    "task.name": "mlm",
    "task.length": 128,
    "task.blocks": "contiguous",
    "task.tokenizer": "wordpiece",
    "task.vocabulary": 30522,
    "task.lower": True,
    "model.name": "bert",
    "model.size": "base",
    "model.positions": "learned",
    "model.norm": "post",
    "model.dropout": 0.1,
    "model.attention_dropout": 0.1,
    "model.initialisation": "bert",
    "model.layers": None,
    "model.width": None,
    "views.masked.noiser": "bert_mask",
    "views.masked.ratio": 0.15,
    "views.masked.mask": 0.8,
    "views.masked.random": 0.1,
    "optimizer.name": "adamw",
    "optimizer.lr": 1e-4,
    "optimizer.weight_decay": 0.01,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.eps": 1e-6,
    "optimizer.layer_decay": 1.0,
    "schedule.name": "linear",
    "schedule.warmup": 0.01,
    "schedule.final_ratio": 0.0,
    "train.batch": 1024,
    "train.clip": 1.0,
    "train.epochs": None,
    "train.tokens": None,
    "train.minutes": None,
    "train.ema": 0.0,
}
TWO_VIEWS = {
    "criterion.semantic_augment.name": "semantic_augment",
    "criterion.semantic_augment.views": ["masked", "remasked"],
    "views.remasked.noiser": "bert_mask",
    "views.remasked.ratio": 0.15,
    "views.remasked.mask": 0.8,
    "views.remasked.random": 0.1,
    "train.updates": 40_000,
}
TABLE = {
    "configs/papers/semantic_augment_baseline.yaml": {
        **COMMON,
        "criterion.masked_lm.name": "masked_lm",
        "criterion.masked_lm.view": "masked",
        "train.updates": 80_000,
    },
    "configs/papers/semantic_augment_tw0.yaml": {
        **COMMON,
        **TWO_VIEWS,
        "criterion.semantic_augment.tied_weight": 0.0,
    },
    "configs/papers/semantic_augment_tied.yaml": {
        **COMMON,
        **TWO_VIEWS,
        "criterion.semantic_augment.tied_weight": 5.0,
        "criterion.semantic_augment.level": "word",
        "criterion.semantic_augment.features": "hidden",
    },
}
SEMANTIC_AUGMENT = sorted(TABLE)

# the dissertation's tables 5.1 and 5.2; Clark et al. 2020, table 6
ELECTRA = {
    "task.name": "mlm",
    "task.blocks": "contiguous",
    "task.tokenizer": "wordpiece",
    "task.vocabulary": 30522,
    "task.lower": True,
    "model.positions": "learned",
    "model.length": 512,
    "model.norm": "post",
    "model.norm_eps": 1e-12,
    "model.dropout": 0.1,
    "model.attention_dropout": 0.1,
    "model.initialisation": "bert",
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.01,
    "optimizer.betas": [0.9, 0.999],
    "optimizer.eps": 1e-6,
    "schedule.name": "linear",
    "schedule.warmup": 10_000,
    "schedule.final_ratio": 0.0,
    "train.clip": 1.0,
    "train.ema": 0.0,
    "train.keep_at": [0.0625, 0.125, 0.25, 0.5],
}


def of_size(layers, width, heads, embedding, length, lr, batch, updates):
    return {
        **ELECTRA,
        "model.layers": layers,
        "model.width": width,
        "model.heads": heads,
        "model.inner": 4 * width,
        "model.embedding": embedding,
        "task.length": length,
        "optimizer.lr": lr,
        "train.batch": batch,
        "train.updates": updates,
    }


def generator(width, ratio=0.15, share="token_and_position"):
    return {
        "views.masked.noiser": "bert_mask",
        "views.masked.ratio": ratio,
        "views.masked.mask": 1.0,
        "views.masked.random": 0.0,
        "views.corrupted.noiser": "masked_lm",
        "views.corrupted.of": "masked",
        "views.corrupted.temperature": 1.0,
        "views.corrupted.weight": 1.0,
        "views.corrupted.never_true": False,
        "views.corrupted.learns": "likelihood",
        "views.corrupted.output_bias": "zeros",
        "views.corrupted.network.name": "scaled",
        "views.corrupted.network.width": width,
        "views.corrupted.network.layers": 1.0,
        "views.corrupted.network.share": share,
    }


RTD = {
    f"criterion.replaced_token_detection.{key}": value
    for key, value in {
        "view": "corrupted",
        "loss_weight": 50.0,
        "positions": "all",
        "reduction": "mean",
    }.items()
}
BERT = {
    "criterion.masked_lm.view": "masked",
    "criterion.masked_lm.output_bias": "zeros",
    "views.masked.ratio": 0.15,
    "views.masked.mask": 0.8,
    "views.masked.random": 0.1,
}
TOWERS = {
    "views.corrupted.noiser": "two_tower",
    "views.corrupted.network.towers": True,
    "views.masked.ratio": 0.15,
    "views.corrupted.network.share": "token_and_position",
}
THIRD = 0.3333333
SMALL, BASE, LARGE = (
    (12, 256, 4, 128, 128, 5e-4, 128),
    (12, 768, 12, 768, 512, 2e-4, 256),
    (24, 1024, 16, 1024, 512, 2e-4, 2048),
)
TABLE |= {
    f"configs/papers/{name}.yaml": settings
    for name, settings in {
        "electra_small": {**of_size(*SMALL, 1_000_000), **RTD, **generator(0.25)},
        "electra_base": {**of_size(*BASE, 766_000), **RTD, **generator(THIRD)},
        "electra_large_400k": {**of_size(*LARGE, 400_000), **RTD, **generator(0.25, ratio=0.25)},
        "electra_large_1m75": {**of_size(*LARGE, 1_750_000), **RTD, **generator(0.25, ratio=0.25)},
        "bert_small": {**of_size(*SMALL, 1_450_000), **BERT},
        "electric_base": {
            **of_size(*BASE, 766_000),
            **TOWERS,
            "criterion.noise_contrastive.loss_weight": 50.0,
            "criterion.noise_contrastive.head": "linear",
        },
        "electra_tt": {**of_size(*BASE, 766_000), **TOWERS, **RTD},
        "two_tower": {
            **of_size(12, 256, 4, 768, 512, 2e-4, 256, 766_000),
            "model.name": "two_tower",
            "criterion.cloze.view": "plain",
        },
        "efficiency_electra": {**of_size(*BASE, 766_000), **RTD, **generator(THIRD)},
        "efficiency_electra_15": {
            **of_size(*BASE, 766_000),
            **RTD,
            **generator(THIRD),
            "criterion.replaced_token_detection.positions": "chosen",
        },
        "efficiency_replace_mlm": {
            **of_size(*BASE, 766_000),
            **generator(THIRD),
            "criterion.replace_mlm.view": "corrupted",
        },
        "efficiency_all_tokens_mlm": {
            **of_size(*BASE, 766_000),
            **generator(THIRD),
            "criterion.all_tokens_mlm.copy": True,
        },
        "efficiency_bert": {**of_size(*BASE, 1_000_000), **BERT},
        "study_weight_sharing": {**of_size(*BASE, 500_000), **RTD, **generator(1.0)},
        "study_generator_size": {**of_size(*BASE, 500_000), **RTD, **generator(THIRD)},
        "study_model_size": {**of_size(*SMALL, 1_000_000), **RTD, **generator(0.25)},
        "study_training_algorithm": {
            **of_size(*BASE, 500_000),
            **RTD,
            **generator(1.0, share="none"),
            "hooks.two_stage.updates": 250_000,
        },
    }.items()
}

# COCO-LM, as its text says (Meng et al. 2021, section 4), and what each row of its ablation table changes
COCO_LM = {
    "task.name": "mlm",
    "task.blocks": "contiguous",
    "task.length": 512,
    "task.tokenizer": "bpe",
    "task.vocabulary": 32768,
    "task.lower": True,
    "model.layers": 12,
    "model.width": 768,
    "model.heads": 12,
    "model.positions": "learned",
    "model.buckets": 32,
    "model.farthest": 128,
    "train.batch": 2048,
    "train.updates": 125_000,
    "criterion.corrective_lm.copy_weight": 50.0,
    "criterion.corrective_lm.lm_weight": 1.0,
    "criterion.corrective_lm.copy": True,
    "criterion.corrective_lm.stop_gradient": True,
    "criterion.corrective_lm.positions": "chosen",
    "criterion.corrective_lm.reduction": "mean",
    "criterion.corrective_lm.weight": 1.0,
    "views.masked.ratio": 0.15,
    "views.masked.mask": 1.0,
    "views.corrupted.noiser": "masked_lm",
    "views.corrupted.weight": 1.0,
    "views.corrupted.sampling": "without_dropout",
    "views.corrupted.network.width": 1.0,
    "views.corrupted.network.layers": THIRD,
    "views.corrupted.network.share": "token_and_position",
}
CONTRAST = {
    "criterion.sequence_contrastive.temperature": 1.0,
    "criterion.sequence_contrastive.weight": 1.0,
    "criterion.sequence_contrastive.views": ["corrupted", "cropped"],
    "views.cropped.noiser": "crop",
    "views.cropped.keep": 0.9,
}
# Clark et al. 2018, table 4.1 and section 3.1
CROSS_VIEW = {
    "task.name": "sentences",
    "task.unlabelled_share": 0.5,
    "model.name": "cnn_bilstm",
    "model.width": 1024,
    "model.projection": 512,
    "model.words": 300,
    "model.characters": 50,
    "model.filters": 100,
    "model.widths": [2, 3, 4],
    "model.dropout": 0.5,
    "model.unlabelled_dropout": 0.2,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.5,
    "optimizer.momentum": 0.9,
    "schedule.name": "inverse_time",
    "schedule.rate": 0.005,
    "schedule.power": 0.5,
    "train.batch": 64,
    "train.ema": 0.998,
    "train.evaluate_average": True,
}
PARSING = {
    "students": "auxiliary",
    "targets": "soft",
    "threshold": 0.0,
    "turns": 1,
    "cvt_weight": 1.0,
}
TAGGING = {**PARSING, "smoothing": 0.1}


def cross_view(**criteria):
    return {
        **CROSS_VIEW,
        **{
            f"criterion.{label}.{key}": value
            for label, own in criteria.items()
            for key, value in own.items()
        },
    }


TABLE |= {
    f"configs/papers/cvt_{name}.yaml": settings
    for name, settings in {
        "tagging": cross_view(entity=TAGGING),
        "parsing": cross_view(tree=PARSING),
        "multitask": cross_view(pos=TAGGING, chunk=TAGGING, entity=TAGGING, tree=PARSING),
    }.items()
}
PLUS = {
    **COCO_LM,
    **CONTRAST,
    "task.vocabulary": 64_000,
    "task.lower": False,
    "train.updates": 1_953_125,
}
RANDOM = {key: setting for key, setting in COCO_LM.items() if not key.startswith("views.corrupted")}
TABLE |= {
    f"configs/papers/coco_lm_{name}.yaml": settings
    for name, settings in {
        "base": {**COCO_LM, **CONTRAST},
        "base_plus": PLUS,
        "large_plus": {
            **PLUS,
            "model.layers": 24,
            "model.width": 1024,
            "model.heads": 16,
            "views.corrupted.network.layers": 0.25,
        },
        "rtd_only": {**COCO_LM, "criterion.corrective_lm.lm_weight": 0.0},
        "clm_only": COCO_LM,
        "scl_rtd": {**COCO_LM, **CONTRAST, "criterion.corrective_lm.lm_weight": 0.0},
        "no_rel_pos": {**COCO_LM, **CONTRAST, "model.buckets": 0},
        "electra_auxiliary": {
            **COCO_LM,
            **CONTRAST,
            "views.corrupted.network.width": THIRD,
            "views.corrupted.network.layers": 1.0,
            "views.corrupted.sampling": "with_dropout",
        },
        "random_replacements": {**RANDOM, **CONTRAST, "views.corrupted.noiser": "uniform"},
        "converged_auxiliary": {
            **COCO_LM,
            **CONTRAST,
            "views.corrupted.network.share": "none",
            "train.updates": 250_000,
            "hooks.two_stage.updates": 125_000,
            "hooks.two_stage.copy": False,
        },
        "all_token_lm": {
            **COCO_LM,
            "criterion.corrective_lm.positions": "all",
            "criterion.corrective_lm.copy_weight": 0.0,
            "criterion.corrective_lm.stop_gradient": False,
        },
        "no_copy": {**COCO_LM, "criterion.corrective_lm.copy": False},
        "no_stop_gradient": {**COCO_LM, "criterion.corrective_lm.stop_gradient": False},
        "crop_fraction": {**COCO_LM, **CONTRAST},
    }.items()
}
YES = {"entailment": "Yes", "not_entailment": "No"}
SAME = {"1": "Yes", "0": "No"}
LM_BFF = {  # the task of GLUE -> table 1 of the paper
    "sst2": ("{sentence} It was [MASK] .", {"1": "great", "0": "terrible"}),
    "cola": ("{sentence} This is [MASK] .", {"1": "correct", "0": "incorrect"}),
    "mrpc": ("{sentence1} [MASK] , {sentence2}", SAME),
    "qqp": ("{question1} [MASK] , {question2}", SAME),
    "mnli": (
        "{premise} ? [MASK] , {hypothesis}",
        {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
    ),
    "qnli": ("{question} ? [MASK] , {sentence}", YES),
    "rte": ("{sentence1} ? [MASK] , {sentence2}", YES),
}
TABLE |= {
    f"configs/papers/lm_bff_{name}.yaml": {
        "task.name": "glue",
        "task.set": name,
        "task.per_class": 16,
        "task.demonstrations": 1,
        "task.templates.prompt": template,
        "task.label_words": words,
        "criterion.verbalizer.name": "verbalizer",
        "criterion.verbalizer.template": "prompt",
        "optimizer.lr": 4e-6,
    }
    for name, (template, words) in LM_BFF.items()
}
TABLE |= {
    f"configs/papers/fine_tuning/{name}.yaml": settings
    for name, settings in fine_tuning.table().items()
}
TABLE |= {
    f"configs/papers/bam_{name}.yaml": settings
    for name, settings in fine_tuning.bam_table().items()
}
FILES_OF_TASKS: dict[str, Path] = {}  # `folder`: where tiny GLUE, SQuAD and SWAG are
GRIDS = [
    ("fine_tuning/electra_rte", ["optimizer.lr=3.0e-4"]),
    ("fine_tuning/electra_squad", ["optimizer.lr=5.0e-5", "optimizer.layer_decay=0.9"]),
    *(
        ("coco_lm_crop_fraction", [f"views.cropped.keep={keep}"])
        for keep in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    ),
    *(
        (f"coco_lm_{row}", ["criterion.sequence_contrastive.views=[corrupted,cropped]"])
        for row in ("clm_only", "all_token_lm", "no_copy", "no_stop_gradient")
    ),
    *(
        ("study_weight_sharing", [f"views.corrupted.network.share={share}"])
        for share in ("none", "token", "token_and_position", "all")
    ),
    *(
        ("study_generator_size", [f"views.corrupted.network.width={width}"])
        for width in (0.0833333, 0.1666667, 0.25, 0.5, 0.6666667, 1.0)
    ),
    *(
        ("efficiency_electra", ["views.corrupted={noiser: " + noiser + ", of: masked}"])
        for noiser in ("unigram", "uniform")
    ),
    *(
        (
            "study_model_size",
            [f"model.width={width}", f"model.heads={width // 64}", f"model.inner={4 * width}"],
        )
        for width in (128, 512, 768)
    ),
    *(("lm_bff_mnli", [f"optimizer.lr={lr}", "task.choice_seed=21"]) for lr in (3e-6, 4e-6, 5e-6)),
    ("study_training_algorithm", ["hooks.two_stage=null"]),
    ("study_training_algorithm", ["hooks.two_stage=null", "views.corrupted.learns=adversarial"]),
]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    """Run in the root of the repository, to which the user directories of the files are relative."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", autouse=True)
def files_of_tasks(tmp_path_factory):
    """Write tiny files in the shapes of GLUE, SQuAD and SWAG."""
    folder = tmp_path_factory.mktemp("tasks")
    fine_tuning.write_files(folder)
    FILES_OF_TASKS["folder"] = folder


def resolved(name: str, *overrides: str):
    data = ["task.data=store"] if name in TEXT or name in BAM else []
    with trusting(True):  # one of them names an example of this repository
        return resolve([name], overrides=[*data, *overrides]).config


def value(mapping: dict, key: str):
    for part in key.split("."):
        mapping = mapping[part]
    return mapping


def tiny(name: str, *overrides: str, **train):
    """Return the file's config with a task and a model for a unit test and everything else unchanged."""
    config = resolved(name, *overrides).to_mapping()
    kept = {key: config[key] for key in ("views", "criterion", "networks", "schedule")}
    kept["hooks"] = {
        label: {**hook, "updates": 1}
        for label, hook in config["hooks"].items()
        if label == "two_stage"
    }
    kept["optimizer"] = config["optimizer"]
    if name in CVT:
        return testing.tiny_config(
            {
                **kept,
                **tiny_sentences(config),
                "train": {"updates": 2, "save_every": 0, "validate_every": 0, **train},
            }
        )
    if config["task"]["name"] == "examples":
        kept["task"] = labelled("colour")["task"]
    if config["task"].get("templates"):
        kept["task"] = PROMPTED["task"]
    elif name in BAM:
        kept["task"] = without_teachers(config["task"])
        train = {"best_metric": config["train"]["best_metric"], **train}
    elif name.startswith("configs/papers/fine_tuning/"):
        kept["task"] = fine_tuning.tiny_task(config["task"], FILES_OF_TASKS["folder"])
        train = {"best_metric": config["train"]["best_metric"], **train}
    shapes = ("name", "positions", "norm", "initialisation", "buckets", "farthest", "pooler")
    model = {key: config["model"][key] for key in shapes if key in config["model"]}
    changes = {
        **kept,
        "model": model,
        "train": {"updates": 2, "save_every": 0, "validate_every": 0, **train},
    }
    return testing.tiny_config(changes, config["user_dirs"])


def without_teachers(task: dict) -> dict:
    """Return a task of BAM with the tiny files of GLUE. Chains with teachers are trained by tests/runs/test_bam.py."""
    folder = FILES_OF_TASKS["folder"]
    if task["name"] == "glue":
        return {**fine_tuning.tiny_task({**task, "set": "rte"}, folder), "teacher": None}
    tasks = {
        label: {key: value for key, value in entry.items() if key != "teacher"}
        for label, entry in task["tasks"].items()
    }
    own = {"tasks": tasks, "data": str(folder / "GLUE"), "tokenizer": "wordpiece", "length": 48}
    return {**task, **own}


def tiny_sentences(config: dict) -> dict:
    """Return task and model of a file for taggers and parsers, with sentences of the tests."""
    data = {
        name: {
            **given,
            **{split: TREEBANK["path"] for split in ("path", "valid")},
            "fraction": 0.5,
            "format": "conllu",
            "labels": {
                label: column if column == "tree" else "upos"
                for label, column in given["labels"].items()
            },
        }
        for name, given in config["task"]["data"].items()
    }
    sizes = {"width": 6, "projection": 3, "words": 8, "characters": 4, "filters": 3}
    return {
        "task": {**config["task"], "data": data, "unlabelled": [], "vectors": None, "clean": False},
        "model": {**config["model"], **sizes},
    }


def test_the_files_are_where_they_are_expected():
    assert sorted(TABLE) == PAPERS and {
        "configs/demo/masked_lm.yaml",
        "configs/demo/semantic_augment.yaml",
        "configs/demo/combined.yaml",
        "configs/demo/with_a_user_dir.yaml",
    } <= set(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.mostly_slow(*SAMPLE)
def test_it_resolves_its_views_are_complete_and_nothing_is_without_effect(name):
    config = resolved(name)
    views = config.views_by_name
    read = {
        view
        for spec in config.criterion.values()
        for view in spec.component.cls.reads(spec.component.config)
    }
    assert read and read <= set(views)
    assert config.unused_keys() == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.mostly_slow(*SAMPLE)
def test_the_resolved_config_reads_back_as_itself(name):
    config = resolved(name)
    assert from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize("name", FILES)
@pytest.mark.mostly_slow(
    "demo/combined",
    "coco_lm_base.yaml",
    "electra_small",
    "electric_base",
    "cvt_multitask",
    "semantic_augment_tied",
)
def test_every_view_is_encoded_once(name):
    assert testing.rule_one_encode(tiny(name)) == ""


def test_combined_objectives_share_their_views_in_one_encoder_call():
    with testing.trainer_of(tiny("configs/demo/with_a_user_dir.yaml")) as trainer:
        testing.differentiate_once(trainer)
        assert trainer.run.module.encoding.calls == 1
        assert sorted(trainer.run.module.specs) == ["masked", "remasked"]
    with testing.trainer_of(tiny("configs/demo/combined.yaml")) as trainer:
        seen = []
        trainer.run.module.networks["main"].register_forward_hook(
            lambda part, given, made: seen.append(len(given[0]["tokens"]))
        )
        testing.differentiate_once(trainer)
        assert (
            seen == [4 * 12] and trainer.run.module.encoding.calls == 2
        )  # the other call is the auxiliary network's
        assert sorted(trainer.run.module.specs) == ["corrupted", "cropped", "masked", "remasked"]


@pytest.mark.parametrize(
    "rule", [testing.rule_geometry, testing.rule_resume, testing.rule_no_global_randomness]
)
@pytest.mark.slow
def test_the_combined_demo_keeps_the_rules_of_one_objective(rule):
    config = merge_settings(
        tiny("configs/demo/combined.yaml", updates=6).to_mapping(),
        {"criterion": {"sequence_contrastive": {"weight": 1.0}}},
    )  # which the first update has at 0
    assert rule(from_mapping(config)) == ""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.mostly_slow(
    "cvt_multitask",
    "demo/combined",
    "coco_lm_base.yaml",
    "electra_small",
    "electric_base",
    "semantic_augment_tied",
    "with_a_user_dir",
)
def test_shrunk_it_trains_two_updates(name, tmp_path):
    config = merge_settings(
        tiny(name, precision="fp32", log_every=1).to_mapping(),
        {"run": str(tmp_path / "run"), "hooks": {"jsonl": {"name": "jsonl"}}},
    )
    done = start.train(from_mapping(config))
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [line for line in lines if line["split"] == "train" and "loss" in line]
    assert (
        done.status == "finished"
        and done.update == 2
        and [line["update"] for line in trained] == [1, 2]
    )
    assert all(line["loss"] > 0 for line in trained)
    terms = {name.split("/")[0] for line in trained for name in line["terms"]}
    if name in CVT:  # an update is of one kind of sentences
        return
    learned = {
        view
        for view, spec in from_mapping(config).views_by_name.items()
        if issubclass(spec.component.cls, LearnedNoiser)
    }
    assert terms == set(config["criterion"]) | learned


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.mostly_slow(*SAMPLE[1:])
def test_papers_settings(name):
    config = resolved(name)
    mapping = config.with_complete_views().to_mapping()
    assert {key: value(mapping, key) for key in TABLE[name]} == TABLE[name]
    named = {key.split(".")[1] for key in TABLE[name] if key.startswith("criterion.")}
    assert mapping["criterion"].keys() == named
    # the file says every view, but where a baseline that is named there does without
    assert config.views.keys() == (set() if name in CVT else mapping["views"].keys())


@pytest.mark.parametrize("name", LM_BFF)
def test_templates_and_words_are_those_of_a_task_of_glue(name):
    config = resolved(f"configs/papers/lm_bff_{name}.yaml").task.config
    glue = glue_task(name)
    (template,) = config.templates.values()
    texts = [text for _, text, *_ in Formatter().parse(template) if text is not None]
    assert texts == list(glue.texts) and template.count("[MASK]") == 1
    assert sorted(config.label_words) == sorted(glue.classes)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.mostly_slow("electra_small", "coco_lm_base.yaml")
def test_papers_data_must_be_named_and_the_message_says_so(name):
    with pytest.raises(ConfigError, match="task.data: must be given"):
        resolve([name])
    assert (
        resolve([name], overrides=["task.data=corpus/*.txt"]).config.task.values["data"]
        == "corpus/*.txt"
    )


def test_two_view_papers_differ_in_the_tie_alone():
    two, tied = (
        resolved(f"configs/papers/semantic_augment_{name}.yaml").to_mapping()
        for name in ("tw0", "tied")
    )
    two["criterion"]["semantic_augment"]["tied_weight"] = 5.0
    assert two == tied


def test_the_baseline_differs_from_the_two_view_papers_as_it_must():
    one, two = (
        resolved(f"configs/papers/semantic_augment_{name}.yaml").to_mapping()
        for name in ("baseline", "tw0")
    )
    for key in ("task", "model", "optimizer", "schedule", "hooks", "seed"):
        assert one[key] == two[key], key
    assert one["views"]["masked"] == two["views"]["masked"] == two["views"]["remasked"]
    # equal compute: one view with twice the updates
    assert one["train"]["updates"] == 2 * two["train"]["updates"]
    same = {"updates", "micro_batch"}
    assert {k: v for k, v in one["train"].items() if k not in same} == {
        k: v for k, v in two["train"].items() if k not in same
    }


@pytest.mark.parametrize("level", ["word", "sentence", "cls"])
@pytest.mark.parametrize("weight", [1, 3, 5, 7, 10])
def test_the_grid_is_overrides_of_the_tied_file(level, weight):
    config = resolved(
        "configs/papers/semantic_augment_tied.yaml",
        f"criterion.level={level}",
        f"criterion.tied_weight={weight}",
    )
    made = config.criterion["semantic_augment"].component.config
    assert (made.level, made.tied_weight) == (level, float(weight))
    text = (ROOT / "configs/papers/semantic_augment_tied.yaml").read_text()
    assert "for level in word sentence cls" in text and "for weight in 1 3 5 7 10" in text


def compared_with() -> list[str]:
    """Return the overrides that the comments of cvt_multitask.yaml list."""
    lines = [
        line.split("   ")[1:]
        for line in (ROOT / "configs/papers/cvt_multitask.yaml").read_text().splitlines()
        if line.startswith("#   ")
    ]
    return [
        part.strip().replace("and the like", "") for line in lines for part in line if "=" in part
    ]


def test_what_cross_view_training_is_compared_with_is_all_there():
    assert len(compared_with()) == 8


@pytest.mark.parametrize("name", CVT)
@pytest.mark.parametrize("listed", compared_with())
@pytest.mark.slow
def test_what_cross_view_training_is_compared_with_are_overrides_of_its_files(name, listed):
    """In the lists chunk stands for every criterion; parsers have no modules to choose."""
    criteria = {
        label: spec["name"] for label, spec in resolved(name).to_mapping()["criterion"].items()
    }
    overrides = []
    for number, (label, criterion) in enumerate(criteria.items()):
        for override in listed.split():
            if criterion == "cvt_tagging" or "modules" not in override:
                override = override.replace(
                    "criterion.chunk.turn=1", f"criterion.chunk.turn={number}"
                )
                overrides.append(override.replace("criterion.chunk.", f"criterion.{label}."))
    with testing.trainer_of(tiny(name, *overrides)) as trainer:
        testing.differentiate_once(trainer)
        assert not listed.startswith("criterion.chunk.students=none") or set(
            trainer.run.module.specs
        ) == {"labelled"}


@pytest.mark.parametrize("name, overrides", GRIDS)
def test_the_grids_of_the_studies_are_overrides_of_their_files(name, overrides):
    config = resolved(f"configs/papers/{name}.yaml", *overrides)
    assert config.views_by_name and config.unused_keys() == []


@pytest.mark.parametrize("name", SEMANTIC_AUGMENT)
def test_the_variant_length_stands_in_the_file(name):
    updates = TABLE[name]["train.updates"]
    assert f"updates: {updates}        # variant: {2 * updates}" in (ROOT / name).read_text()


def test_the_published_model_has_110_million_parameters():
    """BERT-base uncased has 109.5 M with a pooler, which fwk does not need: 108.9 M in the encoder."""
    import torch

    from fwk import BuildContext, Vocabulary

    component = resolved("configs/papers/semantic_augment_tied.yaml").model
    with torch.device("meta"):
        encoder = component.cls(
            component.config, BuildContext(vocabulary=Vocabulary(size=30522), length=128)
        )
    count = sum(p.numel() for p in encoder.parameters())
    D, layers = 768, 12
    embeddings = (30522 + 512 + 2) * D + 2 * D
    layer = 4 * (D * D + D) + 2 * D + (D * 4 * D + 4 * D) + (4 * D * D + D) + 2 * D
    assert count == embeddings + layers * layer == 108_891_648
