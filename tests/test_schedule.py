import pytest

from fwk.errors import ConfigError
from fwk.optim.constant import Constant
from fwk.optim.cosine import Cosine
from fwk.optim.linear import Linear

ALL = pytest.mark.parametrize("schedule", [Linear, Cosine, Constant])
DECAYING = pytest.mark.parametrize("schedule", [Linear, Cosine])


def factors(schedule, total, **settings):
    made = schedule(schedule.Config(**settings))
    return [made.factor(update, total, (update - 1) / total) for update in range(1, total + 1)]


def test_linear_by_hand():
    assert factors(Linear, 6, warmup=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert factors(Linear, 4, warmup=0, final_ratio=0.5) == [1.0, 0.875, 0.75, 0.625]


def test_cosine_by_hand():
    assert factors(Cosine, 4, warmup=0) == pytest.approx([1, 0.8535533906, 0.5, 0.1464466094])


def test_constant_stays_at_the_peak():
    assert factors(Constant, 5, warmup=2) == [0.5, 1, 1, 1, 1]


@ALL
def test_every_update_moves_and_none_beyond_the_peak(schedule):
    for warmup in (0, 1, 0.1, 7, 0.99):
        assert all(0 < factor <= 1 for factor in factors(schedule, 40, warmup=warmup))


@ALL
def test_warm_up_as_updates_or_as_a_share_of_the_run_agree(schedule):
    assert factors(schedule, 100, warmup=20) == factors(schedule, 100, warmup=0.2)


@DECAYING
def test_the_end_may_be_known_by_progress_only(schedule):
    made = schedule(schedule.Config(warmup=0.1))
    for update in range(2, 101):
        known = made.factor(update, 100, (update - 1) / 100)
        assert made.factor(update, None, (update - 1) / 100) == pytest.approx(known, rel=1e-9)


@DECAYING
def test_the_nearest_limit_governs(schedule):
    made = schedule(schedule.Config(warmup=0))
    half_as_long = made.factor(26, 100, 0.5)  # half the minutes are gone after a quarter of the updates
    assert half_as_long == pytest.approx(made.factor(26, 50, 0.5))
    assert made.factor(26, 100, 0.1) == made.factor(26, 100, 0.25) == made.factor(26, 100)


@DECAYING
def test_the_first_update_of_a_run_by_minutes_has_a_rate(schedule):
    assert schedule(schedule.Config(warmup=10)).factor(1, None, 0.0) == 0.1
    assert schedule(schedule.Config(warmup=0)).factor(1, None, 0.0) == 1.0
    assert schedule(schedule.Config(warmup=0.1)).factor(1, None, 0.0) == 0.0  # nobody knows yet how long a tenth is


@DECAYING
def test_without_an_end_the_error_names_the_keys(schedule):
    with pytest.raises(ConfigError, match=r"train\.updates.*train\.minutes"):
        schedule(schedule.Config()).factor(1)


def test_constant_needs_an_end_only_for_a_warm_up_by_share():
    assert Constant(Constant.Config(warmup=4)).factor(9) == 1
    assert Constant(Constant.Config(warmup=4)).factor(1) == 0.25
    with pytest.raises(ConfigError, match="a warm-up over 0.1 of the run"):
        Constant(Constant.Config(warmup=0.1)).factor(1)


@DECAYING
def test_beyond_the_end_the_rate_rests_at_its_last_value(schedule):
    made = schedule(schedule.Config(warmup=0, final_ratio=0.1))
    assert made.factor(200, 100, 1.0) == pytest.approx(0.1)


@ALL
def test_a_longer_run_changes_nothing_but_the_numbers(schedule):
    # length may change on resume: the factor is a pure function of update, total and progress
    made = schedule(schedule.Config(warmup=5))
    assert made.factor(50, 200, 49 / 200) == schedule(schedule.Config(warmup=5)).factor(50, 200, 49 / 200)


@ALL
def test_a_warm_up_of_one_and_a_half_updates_is_refused(schedule):
    with pytest.raises(ConfigError, match=r"schedule\.warmup.*1\.5"):
        schedule.Config(warmup=1.5)
