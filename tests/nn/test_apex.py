"""NVIDIA apex is used where it is installed, and distinguished from the other package of that name.

It is not installed here: stand-ins take its place, so its kernels are not what is tested."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from fwk.errors import ConfigError
from fwk.nn.apex import import_apex
from fwk.testing import gradients, tiny_config, trainer_of

APEX = {"criterion": {"masked_lm": {}}, "model": {"norm_kernel": "apex", "norm": "pre"}}


class FusedLayerNorm(nn.LayerNorm):
    """As NVIDIA's: the same arguments, parameters and numbers."""


@pytest.fixture
def install(monkeypatch):
    """Puts a package `apex` with these parts where imports find it first; None: there is no such package."""

    def put(parts: dict[str, dict] | None) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
            monkeypatch.delitem(sys.modules, name)
        if parts is None:
            monkeypatch.setitem(sys.modules, "apex", None)
            return
        package = ModuleType("apex")
        package.__path__ = []
        monkeypatch.setitem(sys.modules, "apex", package)
        for part, content in parts.items():
            module = ModuleType(f"apex.{part}")
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, f"apex.{part}", module)
        importlib.invalidate_caches()

    return put


@pytest.mark.slow
def test_the_option_puts_the_fused_norm_everywhere_in_the_encoder_and_changes_no_name(install):
    install({"normalization": {"FusedLayerNorm": FusedLayerNorm}})
    with (
        trainer_of(tiny_config(APEX)) as apex,
        trainer_of(tiny_config({**APEX, "model": {"norm": "pre"}})) as plain,
    ):
        ours = [
            m for m in apex.run.module.networks["main"].modules() if isinstance(m, nn.LayerNorm)
        ]
        assert len(ours) == 6 and {type(m) for m in ours} == {
            FusedLayerNorm
        }  # embeddings, 2 x 2, final
        assert {m.eps for m in ours} == {1e-12}
        assert list(apex.run.module.state_dict()) == list(plain.run.module.state_dict())


def test_the_fused_norm_is_trained_like_the_other(install):
    install({"normalization": {"FusedLayerNorm": FusedLayerNorm}})
    apex, plain = (
        gradients(tiny_config(APEX)),
        gradients(tiny_config({**APEX, "model": {"norm": "pre"}})),
    )
    assert all(torch.equal(apex[name], plain[name]) for name in plain)


def test_another_package_of_that_name_is_told_from_nvidias(install):
    install({})
    with (
        pytest.raises(
            ConfigError,
            match="model.norm_kernel: needs NVIDIA apex, and the installed package 'apex' is another one .*"
            "the package of that name on the public index is unrelated; .*or use 'torch'",
        ),
        trainer_of(tiny_config(APEX)),
    ):
        pass


def test_without_any_package_of_that_name_it_says_where_nvidias_is(install):
    install(None)
    with (
        pytest.raises(
            ConfigError,
            match="not installed; NVIDIA's is built from https://github.com/NVIDIA/apex, or use",
        ),
        trainer_of(tiny_config(APEX)),
    ):
        pass


def test_a_part_is_returned_as_it_is(install):
    install({"optimizers": {"FusedLAMB": "a class"}})
    assert import_apex("optimizers", "optimizer.name", "lamb").FusedLAMB == "a class"


def test_nothing_imports_apex_unless_it_is_asked_for(install):
    install(None)  # an import would fail
    with trainer_of(tiny_config({"criterion": {"masked_lm": {}}})):
        pass
