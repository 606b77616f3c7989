"""Components with a fault: each is one sentence that names the component, and where possible before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fwk import (
    Criterion,
    Encoder,
    LearnedNoiser,
    Noiser,
    OptimizerConfig,
    OptimizerFactory,
    Output,
    Read,
    Schedule,
    ScheduleConfig,
    Task,
    hookimpl,
    option,
    register,
    registry,
)
from fwk.errors import ConfigError, PluginError, RunError
from fwk.runs import start
from fwk.testing import tiny_config
from fwk.testing.noisers import NOISER_RULES

NAMES = ("refusing", "test_stray", "test_silent_weights", "test_idle")


@pytest.fixture(autouse=True)
def forgotten():
    """Forget what a test registered."""
    yield
    for kind, name in [key for key in registry.live if key[1] in NAMES]:
        registry.remove(kind, name)


@pytest.mark.parametrize("bases", [(LearnedNoiser,), (nn.Module, Noiser), (Noiser, nn.Module)])
def test_a_noiser_without_apply_is_refused_although_torch_modules_have_a_method_of_that_name(bases):
    with pytest.raises(PluginError, match="noiser 'test_idle' leaves out apply"):
        register("noiser", "test_idle")(type("Idle", bases, {"__module__": "elsewhere"}))


def test_a_noiser_with_parameters_that_nothing_would_train_is_refused(tmp_path):
    class Silent(Noiser, nn.Module):
        def __init__(self, config, build):
            nn.Module.__init__(self)
            Noiser.__init__(self, config, build)
            self.weight = nn.Parameter(torch.zeros(3))

        def apply(self, source, key, context=None):
            return source

    register("noiser", "test_silent_weights")(Silent)
    views = {
        "masked": {"noiser": "bert_mask", "of": "weighed"},
        "weighed": {"noiser": "test_silent_weights"},
    }
    config = tiny_config({"criterion": "masked_lm", "views": views, "run": str(tmp_path / "run")})
    with pytest.raises(
        PluginError, match=r"'test_silent_weights' \(views.weighed\).*LearnedNoiser"
    ):
        start.train(config)


# -- token ids outside the vocabulary ------------------------------------------------------------------------------


def stray(base, token):
    """A noiser that puts `token` at the second position of every sequence."""

    class Stray(base):
        def apply(self, source, key, context=None, prepared=None):
            tokens = source.tokens.clone()
            tokens[:, 1] = token
            inputs = {**source.inputs, "tokens": tokens}
            return source.replace(inputs=inputs, changed=tokens != source.target)

    return register("noiser", "test_stray")(Stray)


@pytest.mark.parametrize("base", [Noiser, LearnedNoiser])
@pytest.mark.parametrize("token", [32, -3])
@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.mostly_slow("False-32-Noiser", "True--3-LearnedNoiser")
def test_a_noiser_that_makes_ids_outside_the_vocabulary_is_named(base, token, chained, tmp_path):
    stray(base, token)
    faulty = {"noiser": "test_stray", "of": "masked"}
    if base is LearnedNoiser:
        faulty["network"] = {"name": "bert", "layers": 1, "width": 8, "heads": 2}
    views = {"masked": {"noiser": "bert_mask"}, "faulty": faulty}
    if chained:  # the view that is encoded is made of the faulty one
        prepare = {"prepare": True} if base is LearnedNoiser else {}
        views["last"] = {"noiser": "crop", "of": "faulty", **prepare}
        faulty.update(prepare)
    read = "last" if chained else "faulty"
    config = tiny_config(
        {
            "criterion": {"masked_lm": {"view": read}},
            "views": views,
            "train": {"batch": 4},
            "run": str(tmp_path / "run"),
        }
    )
    message = (
        rf"update 1: noiser 'test_stray' put the token id {token} into the view 'faulty' "
        r"\(views.faulty\), but the vocabulary has the ids 0 to 31"
    )
    with pytest.raises(RunError, match=message):
        start.train(config)


def test_the_conformance_kit_finds_ids_outside_the_vocabulary():
    stray(Noiser, 32)
    rule = NOISER_RULES["ids of the vocabulary"]
    assert rule("test_stray", {}) == (
        "the view has token ids from 0 to 32, and the vocabulary those from 0 to 31"
    )
    assert rule("bert_mask", {}) == ""


# -- a ValueError in a constructor ----------------------------------------------------------------------------------


class Refusing:
    """A constructor that refuses an option, as those of torch's optimizers do."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        number: int = option(3, "a number")

    def __init__(self, config, *arguments):
        raise ValueError(f"number is {config.number},\n  expected an even number")


class RefusingCriterion(Refusing, Criterion):
    @classmethod
    def reads(cls, config):
        return {"masked": Read({"noiser": "bert_mask"})}

    def normalizers(self, views, context):
        return {}

    def forward(self, views, context):
        return Output()


class RefusingNoiser(Refusing, Noiser):
    def apply(self, source, key, context=None):
        return source


class RefusingHook(Refusing):
    @hookimpl
    def fwk_run_begin(self, run, resumed):
        pass


class RefusingTask(Refusing, Task):
    def splits(self):
        return ("train",)

    def sources(self, split):
        return {}

    def collate(self, examples, draws, sources):
        return None

    def fingerprint(self):
        return ""


class RefusingEncoder(Refusing, Encoder):
    def forward(self, inputs, mask, embedding_change=None, states=()):
        return None


class RefusingSchedule(Refusing, Schedule):
    @dataclass(frozen=True, kw_only=True)
    class Config(ScheduleConfig):
        number: int = option(3, "a number")

    def after_warmup(self, progress):
        return 1.0


class RefusingOptimizer(OptimizerFactory):
    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        number: int = option(3, "a number")

    @classmethod
    def build(cls, config, groups, device):
        raise ValueError(f"number is {config.number},\n  expected an even number")


REFUSING = {
    "criterion": (RefusingCriterion, "criterion.refusing", {"refusing": {}}),
    "noiser": (RefusingNoiser, "views.odd", None),
    "hook": (RefusingHook, "hooks.refusing", {"refusing": {}}),
    "task": (RefusingTask, "task", {"name": "refusing"}),
    "model": (RefusingEncoder, "model", {"name": "refusing"}),
    "schedule": (RefusingSchedule, "schedule", {"name": "refusing"}),
    "optimizer": (RefusingOptimizer, "optimizer", {"name": "refusing"}),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_a_value_error_in_a_constructor_is_a_sentence_at_the_components_key(kind, tmp_path):
    cls, key, given = REFUSING[kind]
    register(kind, "refusing")(cls)
    slot = "hooks" if kind == "hook" else kind
    settings = {"criterion": {"masked_lm": {}}, slot: given}
    if kind == "noiser":
        odd = {"odd": {"noiser": "refusing"}, "masked": {"noiser": "bert_mask", "of": "odd"}}
        settings = {"criterion": {"masked_lm": {}}, "views": odd}
    run = tmp_path / "run"
    with pytest.raises(ConfigError) as refused:
        start.train(tiny_config({**settings, "run": str(run)}))
    assert str(refused.value) == f"{key}: number is 3, expected an even number"
    assert not run.exists()
