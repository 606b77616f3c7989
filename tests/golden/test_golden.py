"""Golden curves: 50 updates of every objective give the losses they always gave, to the last bit. The last bits belong
to a version of torch and a kind of CPU; elsewhere the curves agree to 1e-5, and the test says that it compared so."""

from __future__ import annotations

import warnings

import make
import pytest

from fwk.components.discovery import discover
from fwk.components.registry import registry

LONGEST = "coco_lm_and_semantic_augment"


@pytest.mark.parametrize(
    "name",
    [  # the other combinations are as exact, and three times as long
        pytest.param(name, marks=pytest.mark.slow if name == LONGEST else ())
        for name in make.CURVES
    ],
)
@pytest.mark.mostly_slow(
    *("=masked_lm", "=replaced_token_detection", "=classification", "=several_tasks"),
    "=cvt_tagging",
)
def test_fifty_updates_give_the_golden_curve(name):
    where, golden = make.read(name)
    losses = make.curve(name)
    assert len(losses) == len(golden) == make.UPDATES
    differing = [i for i, (a, b) in enumerate(zip(losses, golden)) if a != b]
    if where == make.machine():
        first = differing[0] if differing else 0
        assert not differing, (
            f"{len(differing)} of {len(golden)} losses changed, first that of update {first + 1}: "
            f"{losses[first]!r}, golden {golden[first]!r}"
        )
        return
    # other kernels round differently, and 50 updates pass the difference on
    warnings.warn(
        f"golden curve '{name}' is of {where}, this is {make.machine()}: compared to 1e-5, not exactly "
        f"({len(differing)} losses differ)",
        stacklevel=1,
    )
    assert losses == pytest.approx(golden, rel=1e-5)


def test_every_objective_of_the_distribution_has_a_golden_curve():
    discover()
    entries = [registry.get("criterion", name) for name in registry.names("criterion")]
    ours = {entry.name for entry in entries if entry.module.split(".")[0] in ("fwk", "fwk_plugins")}
    assert ours <= make.CURVES.keys(), "add it to CURVES in tests/golden/make.py, and run that"


def test_a_changed_curve_is_told(monkeypatch):
    losses = make.curve("masked_lm")
    monkeypatch.setattr(make, "curve", lambda name: [*losses[:-1], losses[-1] * (1 + 1e-4)])
    with pytest.raises(AssertionError):
        test_fifty_updates_give_the_golden_curve("masked_lm")
