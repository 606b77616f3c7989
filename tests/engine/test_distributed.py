"""Several ranks: the same update as one process, and resumable to the last bit; ranks.py does the work in one start."""

from __future__ import annotations

import json

import pytest
from support.cases import CASES, REGISTERED
from support.commands import torchrun
from support.paths import RANKS


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("ranks") / "results.json"
    done = torchrun(str(RANKS / "gradient_ranks.py"), str(out), ranks=4)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_four_ranks_with_accumulation_give_the_gradient_of_one_process(four_ranks, name):
    assert four_ranks["geometry"][name] < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *REGISTERED,
        "head without examples here and there",
        "virtual adversarial noise",
        "contrast over the whole update",
        "change of phase",
        "batch that is not text",
    ],
)
def test_twenty_fp32_updates_on_four_ranks_agree_with_one_process(four_ranks, name):
    assert four_ranks["twenty"][name] < 1e-5


@pytest.mark.slow
def test_negatives_of_all_ranks_give_the_gradient_of_one_process_with_all_sequences(four_ranks):
    assert four_ranks["gathered"]["sequence_contrastive"] < 1e-10


@pytest.mark.slow
def test_all_ranks_hold_the_same_weights(four_ranks):
    assert four_ranks["same"]["several objectives at once"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_resume_on_four_ranks_is_bit_identical(four_ranks, name):
    result = four_ranks["resume"][name]
    assert result["weights"] and result["metrics"] and result["lines"] >= 5
