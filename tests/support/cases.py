"""Every objective the engine is tried with: the registered ones, and the contracts' own. Each case is a nested mapping
laid over `fwk.testing.TINY`."""

from __future__ import annotations

from pathlib import Path

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.testing import tiny_config
from support.paths import FIXTURES, OBJECTIVES

CONTRACTS = str(OBJECTIVES)

GENERATOR = {
    "name": "bert",
    "layers": 1,
    "width": 16,
    "heads": 2,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
CORRUPTED = {
    "noiser": "test_generator",
    "of": "masked",
    "network": {**GENERATOR, "tie": ["embedding"]},
}

load_plugins()
REGISTERED = [
    e.name for e in registry.entries("criterion") if e.module.startswith(("fwk.", "fwk_plugins."))
]

TREEBANK = {
    "path": str(FIXTURES / "tiny.conllu"),
    "labels": {"pos": "upos", "tree": "tree"},
    "fraction": 0.5,
    "valid": str(FIXTURES / "tiny.conllu"),
}
SENTENCES = {
    "task": {
        "name": "sentences",
        "data": {"tiny": TREEBANK},
        "fewest": 1,
        "clean": False,
        "unlabelled_share": 0.5,
    },
    "model": {
        "name": "cnn_bilstm",
        "width": 6,
        "words": 8,
        "characters": 4,
        "filters": 3,
        "dropout": 0.0,
        "unlabelled_dropout": 0.0,
    },
}
TABLE = str(FIXTURES / "examples.jsonl")


def labelled(label: str, kind: str = "auto", **options: object) -> dict:
    """The task of the small table of examples, with one of its labels."""
    task = {
        "name": "examples",
        "data": TABLE,
        "valid": TABLE,
        "texts": ["question", "passage"],
        "label": label,
        "kind": kind,
        "length": 48,
        "vocabulary": 120,
    }
    return {"task": {**task, **options}}


NO_DROPOUT = {"dropout": 0.0}
# the words of colours are none of the few tokens of the tiny tokenizer
PROMPTED = labelled(
    "colour",
    length=64,
    templates={"prompt": "{question} It is [MASK], {passage}"},
    label_words={"green": "garden", "red": ["apple", "door"], "white": "house", "blue": "book"},
    demonstrations=1,
    demonstration_sets=2,
)
NEEDS = {
    "classification": {
        **labelled("colour"),
        "criterion": {"classification": {**NO_DROPOUT, "hidden": "tanh"}},
    },
    "multilabel": {**labelled("topics"), "criterion": {"multilabel": NO_DROPOUT}},
    "regression": {
        **labelled("length"),
        "criterion": {"regression": {**NO_DROPOUT, "pooling": "mean", "high": 10.0}},
    },
    "multiple_choice": {
        **labelled("right", "choice", texts=["context=passage"], choices=["choices"]),
        "criterion": {"multiple_choice": NO_DROPOUT},
    },
    "similarity": {
        **labelled("length"),
        "criterion": {"similarity": {"fields": ["question", "passage"]}},
    },
    "answer_span": {**labelled("answer", "span"), "criterion": {"answer_span": NO_DROPOUT}},
    # without dropout two passes are equal, so the second one is noised
    "consistency": {
        **labelled("colour"),
        "criterion": {"classification": NO_DROPOUT, "consistency": {}},
        "views": {"text_again": {"noiser": "bert_mask"}},
    },
    "virtual_adversarial": {
        **labelled("colour"),
        "criterion": {"classification": NO_DROPOUT, "virtual_adversarial": {}},
    },
    "verbalizer": {**PROMPTED, "criterion": {"verbalizer": {}}},
    "cvt_tagging": {**SENTENCES, "criterion": {"cvt_tagging": {"label": "pos", "hidden": 8}}},
    "cvt_parsing": {**SENTENCES, "criterion": {"cvt_parsing": {"hidden": 6}}},
    "causal_lm": {"model": {"direction": "left_to_right"}},
    "cloze": {
        "model": {
            "name": "two_tower",
            "layers": 2,
            "width": 16,
            "heads": 2,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        }
    },
}
TOWERS = {"noiser": "two_tower", "of": "masked", "network": {"name": "scaled", "towers": True}}

# logits of the four colours for each example of the table
COLOURS = str(FIXTURES / "colours.targets")
# an answer in windows, both views of a bi-encoder, an auxiliary masked LM on one of the texts
WINDOWS = labelled("answer", "span", length=20, stride=4)
FINE_TUNING = {
    "prompt that three criteria read": {
        **PROMPTED,
        "criterion": {
            "verbalizer": {},
            "masked_lm": {"view": "prompt"},
            "consistency": {
                "head": "verbalizer.logits",
                "first": "prompt",
                "second": "prompt_again",
            },
        },
        "views": {
            "prompt": {"noiser": "identity", "fields": ["prompt"]},
            "prompt_again": {"noiser": "bert_mask"},
        },
    },
    "choices that agree under dropout and noise": {
        **NEEDS["multiple_choice"],
        "criterion": {
            "multiple_choice": NO_DROPOUT,
            "consistency": {
                "head": "multiple_choice.logits",
                "first": "choices",
                "second": "choices_again",
            },
            "virtual_adversarial": {"head": "multiple_choice.logits", "view": "choices"},
        },
        "views": {
            "choices": {"fields": ["context", "choices"]},
            "choices_again": {"noiser": "bert_mask"},
        },
    },
    "classes of an annealed teacher": {
        **labelled("colour", teacher=COLOURS),
        "criterion": {"classification": {**NO_DROPOUT, "temperature": 2.0}},
    },
    "joint answers in windows": {
        **WINDOWS,
        "criterion": {"answer_span": {**NO_DROPOUT, "head": "joint", "hidden": 8}},
    },
    "several tasks in a batch": {
        "task": {
            "name": "several",
            "tokenizer": "wordpiece",
            "length": 48,
            "tasks": {
                "{task}": {
                    "name": "examples",
                    "data": TABLE,
                    "valid": TABLE,
                    "texts": ["question", "passage"],
                    "vocabulary": 120,
                },
                "colour": {"label": "colour"},
                "size": {"label": "length", "texts": ["passage"]},
                "choice": {
                    "label": "right",
                    "kind": "choice",
                    "texts": ["context=passage"],
                    "choices": ["choices"],
                },
                "answer": {"label": "answer", "kind": "span"},
            },
        },
        "criterion": {
            "{task}": {**NO_DROPOUT, "name": "classification", "view": "{task}", "label": "{task}"},
            "size": {
                **NO_DROPOUT,
                "name": "regression",
                "view": "size",
                "label": "size",
                "high": 10.0,
            },
            "choice": {
                **NO_DROPOUT,
                "name": "multiple_choice",
                "view": "choice",
                "label": "choice",
            },
            "answer": {**NO_DROPOUT, "name": "answer_span", "view": "answer", "label": "answer"},
            "masked_lm": {"weight": 0.5},
        },
        "views": {
            "{task}": {"noiser": "identity", "part": "{task}"},
            "choice": {"noiser": "identity", "part": "choice", "fields": ["context", "choices"]},
            "masked": {"part": "size"},
        },
    },
    "several numbers of one of two texts, beside a masked LM on the other": {
        **labelled("numbers"),
        "criterion": {
            "regression": {**NO_DROPOUT, "view": "question"},
            "masked_lm": {"weight": 0.5},
        },
        "views": {
            "question": {"noiser": "identity", "fields": ["question"]},
            "masked": {"fields": ["passage"]},
        },
    },
}

COCO_LM = {"corrective_lm": {}, "sequence_contrastive": {}}

CASES: dict[str, dict] = {
    **{name: {"criterion": {name: {}}, **NEEDS.get(name, {})} for name in REGISTERED},
    **FINE_TUNING,
    "tagger and parser that are imitated": {
        **SENTENCES,
        "criterion": {
            "pos": {"name": "cvt_tagging", "label": "pos"},
            "tree": {"name": "cvt_parsing", "auxiliary_labels": True},
        },
    },
    "tagger and parser under virtual adversarial noise": {
        **SENTENCES,
        "criterion": {
            "pos": {"name": "cvt_tagging", "label": "pos", "students": "adversarial"},
            "tree": {"name": "cvt_parsing", "students": "adversarial", "adversarial_norm": 2.0},
        },
    },
    "tagger and parser that take turns under a mean teacher": {
        **SENTENCES,
        "train": {"ema": 0.9},
        "criterion": {
            "pos": {
                "name": "cvt_tagging",
                "label": "pos",
                "students": "primary",
                "turns": 2,
                "targets": "hard",
            },
            "tree": {
                "name": "cvt_parsing",
                "students": "primary",
                "turns": 2,
                "turn": 1,
                "ramp_up": 0.5,
            },
        },
        "views": {
            "plain": {"noiser": "rows", "sources": ["unlabelled"]},
            "unlabelled": {"noiser": "word_dropout", "of": "plain"},
            "teacher": {"noiser": "identity", "of": "plain", "mode": "teacher", "ema": True},
        },
    },
    "COCO-LM": {
        "criterion": COCO_LM,
        "model": {"positions": "learned", "buckets": 8, "farthest": 12},
    },
    "language model over all tokens of a corrupted view": {
        "criterion": {
            "corrective_lm": {
                "positions": "all",
                "copy_weight": 0.0,
                "stop_gradient": False,
                "reduction": "sum",
            }
        }
    },
    "five objectives that share four views": {
        "criterion": {
            "masked_lm": {},
            "semantic_augment": {},
            "replaced_token_detection": {},
            **COCO_LM,
        },
        "views": {
            "corrupted": {
                "noiser": "masked_lm",
                "of": "masked",
                "sampling": "without_dropout",
                "network": {"name": "scaled", "width": 1.0, "layers": 0.5},
            }
        },
    },
    "causal LM right to left": {"criterion": "causal_lm", "model": {"direction": "right_to_left"}},
    "generator against its discriminator": {
        "criterion": {"replaced_token_detection": {}},
        "views": {"corrupted": {"learns": "adversarial"}},
    },
    "discriminator of a cloze model's samples": {
        "criterion": {"replaced_token_detection": {}},
        "views": {"corrupted": TOWERS},
    },
    "generator first, then its discriminator": {
        "criterion": {"replaced_token_detection": {}},
        "hooks": {"two_stage": {"updates": 2}},
        "views": {"corrupted": {"network": {"width": 1.0, "share": "none"}}},
    },
    "generator that is the discriminator, sampled in a run of its own": {
        "criterion": {"replaced_token_detection": {}},
        "views": {
            "corrupted": {
                "sampling": "run_again",
                "unchanged": 0.2,
                "network": {"width": 1.0, "share": "all"},
            }
        },
    },
    "head without examples here and there": {"criterion": {"test_multi_task": {}}},
    "generator with tied embeddings": {
        "criterion": {"test_detection": {}},
        "views": {"corrupted": CORRUPTED},
    },
    "generator that learns from a reward": {
        "criterion": {"test_detection": {}},
        "views": {"corrupted": {**CORRUPTED, "reinforce": True}},
    },
    "count that only a network knows": {
        "criterion": {"test_detection": {"only_changed": True}},
        "views": {"corrupted": {**CORRUPTED, "prepare": True}},
    },
    "targets that only a network knows": {"criterion": {"test_confident": {}}},
    "contrast over the whole update": {"criterion": {"test_contrast_over_update": {}}},
    "virtual adversarial noise": {"criterion": {"test_virtual_adversarial": {}}},
    "teacher view": {"criterion": {"test_teacher": {}}},
    "teacher view with averaged weights": {
        "criterion": {"test_teacher": {"averaged": True}},
        "train": {"ema": 0.9},
    },
    "change of phase": {"criterion": {"masked_lm": {}}, "hooks": {"test_two_phases": {}}},
    "gradients per term": {
        "criterion": {"semantic_augment": {}, "test_multi_task": {}},
        "hooks": {"test_pcgrad": {}},
    },
    "batch that is not text": {
        "task": {"name": "test_digits"},
        "model": {"name": "test_pixels"},
        "criterion": {"test_classify": {}},
    },
    "noiser that reads an encoding": {
        "criterion": {"masked_lm": {}},
        "views": {
            "masked": {"noiser": "test_attention_mask", "of": "plain"},
            "plain": {"noiser": "identity"},
        },
    },
    "views of two lengths": {
        "criterion": {"masked_lm": {}, "second": {"name": "masked_lm", "view": "short"}},
        "views": {"short": {"noiser": "test_drop_last", "of": "masked"}},
    },
    "crop of a learned view": {
        "criterion": {"test_detection": {}, "second": {"name": "test_detection", "view": "short"}},
        "views": {
            "corrupted": {**CORRUPTED, "prepare": True},
            "short": {
                "noiser": "test_drop_last",
                "of": "corrupted",
                "network": None,
                "prepare": True,
            },
        },
    },
    "rows that are missing here and there": {
        "criterion": {"masked_lm": {}},
        "views": {"few": {"noiser": "rows", "sources": ["b"]}, "masked": {"of": "few"}},
    },
    "several objectives at once": {
        "criterion": {
            "semantic_augment": {"weight": {"from": 0.0, "to": 1.0}},
            "test_detection": {},
            "test_multi_task": {"weight": 0.5},
        },
        "views": {"corrupted": CORRUPTED},
    },
}


# encoders of LSTMs, which are not compiled
LSTM = [name for name, case in CASES.items() if case.get("model", {}).get("name") == "cnn_bilstm"]


def on_a_run(folder: Path) -> dict:
    """A tagger of words is trained in `folder`; a config that reads its encoder, frozen, in a task of its own."""
    from fwk.testing import train_briefly

    case = {**SENTENCES, "criterion": {"cvt_tagging": {"label": "pos", "students": "none"}}}
    train_briefly(tiny_config({**case, "train": {"precision": "fp32"}}), folder, 2)
    return {
        "task": {**SENTENCES["task"], "pretrained": str(folder)},
        "criterion": case["criterion"],
    }


def config_of(name: str, changes: dict | None = None):
    from fwk.testing import merge_settings

    return tiny_config(merge_settings(CASES[name], changes or {}), [CONTRACTS])


# unregistered cases, one of each shape, that stay in the fast tier where all of them are slow
SHAPES = (
    "contrast over the whole update",
    "several objectives at once",
    "tagger and parser that are imitated",
    "change of phase",
)
