"""The conformance kit over every registered component, one test per rule; later objectives inherit it."""

from __future__ import annotations

import pytest
from support.cases import NEEDS, on_a_run

from fwk.testing import assert_conforms, check, parametrize, registered

# noisers that need a network of another kind
OPTIONS = {"two_tower": {"network": {"name": "scaled", "towers": True}}}


# criteria that the fast tier tries with the long rules, too
TRIED = ("masked_lm", "replaced_token_detection", "classification", "cvt_parsing")


@parametrize("criterion", base=NEEDS)
@pytest.mark.mostly_slow(
    *("-finite", "-no_global", "-options"),
    *(
        f"={name}-{rule}"
        for name in TRIED
        for rule in ("geometry", "one_encode_per_view", "resume")
    ),
)
def test_criteria_conform(rule):
    rule()


@parametrize("noiser", options=OPTIONS)
def test_noisers_conform(rule):
    rule()


@parametrize("model", skip=["frozen", "hf"])  # which need a run, or a folder
@pytest.mark.mostly_slow("bert-")
def test_encoders_conform(rule):
    """An encoder that cannot be the main one is examined beside it."""
    rule()


@pytest.mark.slow
def test_the_frozen_encoder_of_a_run_conforms(tmp_path):
    assert_conforms("model", "frozen", base=on_a_run(tmp_path / "run"))


@parametrize("optimizer")
@pytest.mark.mostly_slow("adamw", "muon")
def test_optimizers_conform(rule):
    rule()


@parametrize("schedule")
def test_schedules_conform(rule):
    rule()


@pytest.mark.parametrize("kind", ["task", "hook"])
def test_every_option_is_documented(kind):
    for name in registered(kind):
        assert_conforms(kind, name)


def test_the_kit_finds_a_learned_noiser_that_breaks_the_rules(tmp_path):
    (tmp_path / "broken_noiser.py").write_text('''
from dataclasses import dataclass
import torch
from torch import nn
from fwk import LearnedNoiser, LossTerm, Output, register

@register("noiser", "kit_broken_noiser")
class Broken(LearnedNoiser):
    """Its loss is a mean over the micro-batch."""
    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass
    def apply(self, source, key, context, prepared=None):
        features = context.encode(source).features
        return source.replace(changed=source.tokens != source.target, extra={"features": features})
    def normalizers(self, views, context):
        return {"own": torch.tensor(1)}
    def losses(self, views, outcomes, context):
        return Output(terms={"own": LossTerm(views[self.view].extra["features"][..., 0].square().mean())})
''')
    results = {r.name: r for r in check("noiser", "kit_broken_noiser", user_dirs=[str(tmp_path)])}
    assert not results["geometry"].passed and "micro-batches" in results["geometry"].detail
    assert (
        results["resume"].passed
        and results["finite"].passed
        and results["no global randomness"].passed
    )


@pytest.mark.slow
def test_the_kit_finds_what_it_looks_for(tmp_path):
    """A criterion that breaks several rules is reported, rule by rule; a kit that cannot fail proves nothing."""
    (tmp_path / "broken.py").write_text('''
from dataclasses import dataclass, field
import torch
from torch import nn
from fwk import Criterion, LossTerm, Output, Read, register

@register("criterion", "kit_broken")
class Broken(Criterion):
    """Divides by the micro-batch, draws from the global generator, and keeps a counter that no checkpoint holds."""
    @dataclass(frozen=True, kw_only=True)
    class Config:
        silent: int = 0
    def __init__(self, config, build):
        super().__init__(config, build)
        self.head = nn.Linear(build.encoder.width, 1)
        self.calls = 0
    @classmethod
    def reads(cls, config):
        return {"plain": Read({"noiser": "identity"})}
    def normalizers(self, views, context):
        return {"loss": torch.tensor(1)}
    def forward(self, views, context):
        self.calls += 1
        noise = torch.randn(())
        losses = self.head(views["plain"].encoded.features).squeeze(-1).square()
        return Output(terms={"loss": LossTerm(losses.mean() * (1 + self.calls + 0 * noise))})
''')
    results = {r.name: r for r in check("criterion", "kit_broken", user_dirs=[str(tmp_path)])}
    assert not results["geometry"].passed and "micro-batches" in results["geometry"].detail
    assert not results["resume"].passed
    assert (
        not results["no global randomness"].passed
        and "torch" in results["no global randomness"].detail
    )
    assert (
        not results["options documented"].passed
        and "silent" in results["options documented"].detail
    )
    assert results["finite"].passed and results["one encode per view"].passed
    with pytest.raises(AssertionError, match="breaks the contract"):
        assert_conforms("criterion", "kit_broken", user_dirs=[str(tmp_path)])


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    from fwk.errors import UnknownName

    with pytest.raises(UnknownName, match="masked_lm"):
        check("criterion", "masked_ln")


def test_a_test_per_rule_is_made_for_what_a_user_directory_registers(tmp_path):
    (tmp_path / "own_schedule.py").write_text('''
from dataclasses import dataclass
from fwk import register
from fwk.contracts.schedule import Schedule

@register("schedule", "kit_too_high")
class TooHigh(Schedule):
    """Twice the learning rate, which no schedule may give."""
    @dataclass(frozen=True, kw_only=True)
    class Config(Schedule.Config):
        pass
    expected_failures = {"pure": "declared without need"}
    def after_warmup(self, share):
        return 2.0
''')
    mark = parametrize("schedule", user_dirs=[str(tmp_path)])
    tests = {case.id: case.values[0] for case in mark.args[1]}
    assert list(tests) == [
        "kit_too_high-a_factor",
        "kit_too_high-pure",
        "kit_too_high-options_documented",
    ]
    tests["kit_too_high-options_documented"]()
    with pytest.raises(AssertionError, match="'kit_too_high' breaks the contract: a factor: upd"):
        tests["kit_too_high-a_factor"]()
    with pytest.raises(AssertionError, match="declared to fail .declared without need., but holds"):
        tests["kit_too_high-pure"]()
