"""The conformance kit over every registered component: later objectives inherit it."""

from __future__ import annotations

import pytest
from support.cases import NEEDS, on_a_run

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.testing import assert_conforms, check

load_plugins()
OPTIONS = {
    "two_tower": {"network": {"name": "scaled", "towers": True}}
}  # noisers that need a network of another kind


def registered(kind: str) -> list[str]:
    """Built-in and first-party names; what other tests register at run time is theirs to check."""
    return [e.name for e in registry.entries(kind) if e.module.startswith(("fwk.", "fwk_plugins."))]


@pytest.mark.parametrize("name", registered("criterion"))
def test_criteria_conform(name):
    assert_conforms("criterion", name, base=NEEDS.get(name))


@pytest.mark.parametrize("name", registered("noiser"))
def test_noisers_conform(name):
    assert_conforms("noiser", name, options=OPTIONS.get(name))


@pytest.mark.parametrize("name", registered("model"))
def test_encoders_conform(name, tmp_path):
    base = on_a_run(tmp_path / "run") if name == "frozen" else None
    assert_conforms(
        "model", name, base=base
    )  # one that is made after the main encoder is tried beside it


@pytest.mark.parametrize("name", registered("optimizer"))
def test_optimizers_conform(name):
    assert_conforms("optimizer", name)


@pytest.mark.parametrize("name", registered("schedule"))
def test_schedules_conform(name):
    assert_conforms("schedule", name)


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


def test_the_kit_finds_what_it_looks_for(tmp_path):
    """A criterion that breaks several rules is told so, rule by rule; a kit that cannot fail proves nothing."""
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
