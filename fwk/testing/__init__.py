"""The conformance kit: many small checks whose names read as rules.

A test of one line proves that a component keeps the contract of its kind:

    from fwk.testing import assert_conforms

    def test_my_objective_conforms():
        assert_conforms("criterion", "my_objective", user_dirs=["."])

`parametrize` makes a test of every rule for every component of a kind; the project runs it over its whole registry. A
component that cannot keep a rule declares that on its class, with the reason:
`expected_failures = {"geometry": "in-batch negatives are those of the micro-batch"}`.

The kit's tools serve other tests too: tiny configs, trainers that are about to make an update, gradients, short runs.
"""

from __future__ import annotations

from fwk.testing.config import TINY, change_config, merge_settings, tiny_config
from fwk.testing.criteria import (
    CRITERION_RULES,
    rule_finite,
    rule_geometry,
    rule_no_global_randomness,
    rule_one_encode,
    rule_resume,
)
from fwk.testing.encoders import (
    ENCODER_RULES,
    encoder_is_padding_proof,
    encoder_returns_named_states,
)
from fwk.testing.kit import Result, assert_conforms, check, parametrize, registered
from fwk.testing.noisers import (
    NOISER_RULES,
    noiser_ignores_the_batch,
    noiser_is_repeatable,
    noiser_keeps_its_source,
    noiser_keeps_rows_apart,
    noiser_keeps_special_tokens,
)
from fwk.testing.optimizers import (
    OPTIMIZER_RULES,
    optimizer_learns,
    optimizer_leaves_what_has_no_gradient,
    optimizer_obeys_the_rate,
)
from fwk.testing.running import (
    batches_of,
    begin_update,
    difference,
    differentiate_once,
    gradients,
    stopped_at,
    train_briefly,
    trainer_of,
)
from fwk.testing.schedules import SCHEDULE_RULES, schedule_is_a_factor, schedule_is_pure

__all__ = [
    "CRITERION_RULES",
    "ENCODER_RULES",
    "NOISER_RULES",
    "OPTIMIZER_RULES",
    "SCHEDULE_RULES",
    "TINY",
    "Result",
    "assert_conforms",
    "batches_of",
    "begin_update",
    "change_config",
    "check",
    "difference",
    "differentiate_once",
    "encoder_is_padding_proof",
    "encoder_returns_named_states",
    "gradients",
    "merge_settings",
    "noiser_ignores_the_batch",
    "noiser_is_repeatable",
    "noiser_keeps_its_source",
    "noiser_keeps_rows_apart",
    "noiser_keeps_special_tokens",
    "optimizer_learns",
    "optimizer_leaves_what_has_no_gradient",
    "optimizer_obeys_the_rate",
    "parametrize",
    "registered",
    "rule_finite",
    "rule_geometry",
    "rule_no_global_randomness",
    "rule_one_encode",
    "rule_resume",
    "schedule_is_a_factor",
    "schedule_is_pure",
    "stopped_at",
    "tiny_config",
    "train_briefly",
    "trainer_of",
]
