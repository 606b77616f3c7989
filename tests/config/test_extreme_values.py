"""Every numeric option of every component, with values beyond what any machine can hold."""

import math
import re

import pytest

from fwk.components.discovery import load_plugins
from fwk.components.registry import registry
from fwk.config.spec import SEED, TRAIN_SCHEMA, construct
from fwk.contracts.options import convert
from fwk.errors import ConfigError

EXTREMES = [2**62, 2**63, 10**400, 1e308, 5e-324, -1, 0, math.nan, math.inf, -math.inf]
KINDS = ("task", "model", "criterion", "noiser", "optimizer", "schedule", "hook")
# whole numbers that are only compared, counted to or used as a bound: any value has a meaning
COUNTERS = {
    *("train.updates", "train.tokens", "train.micro_batch", "train.scale_growth_interval"),
    *("train.validate_every", "train.validate_batches", "train.save_every", "train.log_every"),
    *("train.keep_last", "train.keep_best", "train.check_ranks_every", "train.patience"),
    *("sentences.fewest", "synthetic.shortest", "cnn_bilstm.widths"),
    *("cvt_parsing.turns", "cvt_parsing.turn", "cvt_tagging.turns", "cvt_tagging.turn"),
    # columns and classes by number, which are looked up in the data
    *(f"{task}.{name}" for task in ("examples", "sts") for name in ("texts", "choices", "label")),
    *(f"{task}.{name}" for task in ("examples", "sts") for name in ("classes", "key")),
    *("summary.sentences", "summary.baseline_tokens", "two_stage.updates"),
}

load_plugins()
ENTRIES = [
    entry
    for kind in KINDS
    for entry in registry.entries(kind)
    if entry.module.startswith(("fwk.", "fwk_plugins."))
]
OPTIONS = [("train", spec, None) for spec in TRAIN_SCHEMA] + [
    (entry.name, spec, entry) for entry in ENTRIES for spec in entry.schema
]
NUMERIC = [option for option in OPTIONS if "int" in option[1].type or "float" in option[1].type]


def nested(spec, value):
    """Return a value for an option that is a number, a pair, a list or a mapping of numbers."""
    if "tuple[float, float]" in spec.type:
        return [value, value]
    if spec.type.startswith("tuple"):
        return [value]
    return {"head": value} if spec.type.startswith("dict") else value


def test_an_extreme_value_is_taken_or_refused_with_its_key():
    taken = 0
    for owner, spec, entry in NUMERIC:
        for value in EXTREMES:
            key = f"{owner}.{spec.name}"
            try:
                converted = convert(nested(spec, value), spec, key)
                if entry is not None and not any(s.required for s in entry.schema):
                    values = {s.name: convert(s.default, s, key) for s in entry.schema}
                    construct(entry.cls, {**values, spec.name: converted}, owner)
                taken += 1
            except ConfigError as error:
                assert error.key.startswith(owner), error
    assert 0 < taken < len(NUMERIC) * len(EXTREMES)


def test_a_whole_number_that_reaches_the_system_has_an_upper_bound():
    unbounded = {
        f"{owner}.{spec.name}"
        for owner, spec, _ in NUMERIC
        if re.search(r"\bint\b", spec.type) and "float" not in spec.type and spec.high is None
    }
    assert unbounded <= COUNTERS, f"bound {unbounded - COUNTERS} (option(high=...))"


@pytest.mark.parametrize("value", [-1, 2**63, math.nan, 1.5])
def test_a_seed_fits_into_64_bits(value):
    with pytest.raises(ConfigError):
        convert(value, SEED, "seed")
