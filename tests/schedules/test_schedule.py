import itertools
import math
import warnings

import pytest
import torch

from fwk.errors import ConfigError
from fwk.schedules.constant import Constant
from fwk.schedules.cosine import Cosine
from fwk.schedules.inverse_sqrt import InverseSqrt
from fwk.schedules.inverse_time import InverseTime
from fwk.schedules.linear import Linear
from fwk.schedules.one_cycle import OneCycle
from fwk.schedules.polynomial import Polynomial
from fwk.schedules.wsd import WarmupStableDecay as WSD

EVERY = (Linear, Cosine, Constant, Polynomial, InverseSqrt, OneCycle, WSD)
ALL = pytest.mark.parametrize("schedule", EVERY)
FROM_ZERO = pytest.mark.parametrize(
    "schedule", [s for s in EVERY if s is not OneCycle]
)  # whose way up begins higher
DECAYING = pytest.mark.parametrize("schedule", [Linear, Cosine, Polynomial, WSD])
ENDING = pytest.mark.parametrize("schedule", [Linear, Cosine, Polynomial, WSD, OneCycle])


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


@ENDING
def test_the_end_may_be_known_by_progress_only(schedule):
    made = schedule(schedule.Config(warmup=0.1))
    for update in range(2, 101):
        known = made.factor(update, 100, (update - 1) / 100)
        assert made.factor(update, None, (update - 1) / 100) == pytest.approx(known, rel=1e-9)


@ENDING
def test_the_nearest_limit_governs(schedule):
    made = schedule(schedule.Config(warmup=0))
    half_as_long = made.factor(
        26, 100, 0.5
    )  # half the minutes are gone after a quarter of the updates
    assert half_as_long == pytest.approx(made.factor(26, 50, 0.5))
    assert made.factor(26, 100, 0.1) == made.factor(26, 100, 0.25) == made.factor(26, 100)


@DECAYING
def test_the_first_update_of_a_run_by_minutes_has_a_rate(schedule):
    assert schedule(schedule.Config(warmup=10)).factor(1, None, 0.0) == 0.1
    assert schedule(schedule.Config(warmup=0)).factor(1, None, 0.0) == 1.0
    assert (
        schedule(schedule.Config(warmup=0.1)).factor(1, None, 0.0) == 0.0
    )  # nobody knows yet how long a tenth is


@ENDING
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
    assert made.factor(50, 200, 49 / 200) == schedule(schedule.Config(warmup=5)).factor(
        50, 200, 49 / 200
    )


@ALL
def test_a_warm_up_of_one_and_a_half_updates_is_refused(schedule):
    with pytest.raises(ConfigError, match=r"schedule\.warmup.*1\.5"):
        schedule.Config(warmup=1.5)


# -- the equations ---------------------------------------------------------------------------------------------------


def rates(scheduler, optimizer, updates):
    """What a scheduler of torch gives each update, the peak being 1."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is stepped here
        for _ in range(updates):
            found.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return found


def one_parameter():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)


def test_polynomial_by_hand():
    assert factors(Polynomial, 4, warmup=0) == [1.0, 0.75**2, 0.5**2, 0.25**2]
    assert factors(Polynomial, 6, warmup=2, power=3.0, final_ratio=0.5) == [
        0.5,
        1.0,
        *(0.5 + 0.5 * (1 - share) ** 3 for share in (0, 0.25, 0.5, 0.75)),
    ]


def test_polynomial_of_power_one_is_linear():
    assert factors(Polynomial, 30, warmup=5, power=1.0) == factors(Linear, 30, warmup=5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.5])
def test_polynomial_is_torchs(power):
    optimizer = one_parameter()
    theirs = rates(
        torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=power), optimizer, 40
    )
    assert factors(Polynomial, 40, warmup=0, power=power) == pytest.approx(theirs, rel=1e-9)


def test_linear_and_cosine_are_torchs():
    optimizer = one_parameter()
    theirs = rates(
        torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.25, total_iters=40), optimizer, 40
    )
    assert factors(Linear, 40, warmup=0, final_ratio=0.25) == pytest.approx(theirs, rel=1e-9)
    optimizer = one_parameter()
    theirs = rates(
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.25), optimizer, 40
    )
    assert factors(Cosine, 40, warmup=0, final_ratio=0.25) == pytest.approx(theirs, rel=1e-9)


def test_inverse_sqrt_is_vaswanis_equation_as_a_share_of_its_peak():
    made = InverseSqrt(InverseSqrt.Config())
    for update in (1, 2, 1000, 3999, 4000, 4001, 16000, 10**7):
        published = min(
            update**-0.5, update * 4000**-1.5
        )  # equation 3, its factor width^-0.5 left out
        assert made.factor(update) == pytest.approx(published / 4000**-0.5, rel=1e-12)


def test_inverse_sqrt_needs_an_end_only_for_a_warm_up_by_share():
    assert InverseSqrt(InverseSqrt.Config(warmup=9.0)).factor(36) == 0.5
    assert InverseSqrt(InverseSqrt.Config(warmup=0.0)).factor(1) == 1.0
    with pytest.raises(ConfigError, match="a warm-up over 0.1 of the run"):
        InverseSqrt(InverseSqrt.Config(warmup=0.1)).factor(1)
    assert factors(InverseSqrt, 100, warmup=0.1) == factors(InverseSqrt, 100, warmup=10.0)


def test_inverse_time_is_the_rate_of_cross_view_training():
    made = InverseTime(InverseTime.Config())
    for update in (1, 4, 100, 10**6):
        assert 0.5 * made.factor(update) == pytest.approx(
            0.5 / (1 + 0.005 * update**0.5), rel=1e-12
        )
    warmed = InverseTime(InverseTime.Config(warmup=8.0, rate=0.1, power=1.0))
    assert warmed.factor(4) == pytest.approx(0.5 / 1.4) and warmed.factor(8) == pytest.approx(
        1 / 1.8
    )
    with pytest.raises(ConfigError, match="a warm-up over 0.1 of the run"):
        InverseTime(InverseTime.Config(warmup=0.1)).factor(1)


@pytest.mark.parametrize("anneal, theirs", [("cosine", "cos"), ("linear", "linear")])
@pytest.mark.parametrize("total, warmup", [(100, 0.3), (50, 0.1), (37, 0.5), (1000, 0.05)])
def test_one_cycle_is_torchs(anneal, theirs, total, warmup):
    optimizer = one_parameter()
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=total,
        pct_start=warmup,
        anneal_strategy=theirs,
        cycle_momentum=False,
        div_factor=20.0,
        final_div_factor=500.0,
    )
    expected = rates(
        scheduler, optimizer, total - 1
    )  # and the last one, which torch refuses to step beyond
    ours = factors(
        OneCycle, total, warmup=warmup, anneal=anneal, start_ratio=0.05, final_ratio=0.05 / 500
    )
    assert ours[:-1] == pytest.approx(expected, rel=1e-9)
    assert ours[-1] == pytest.approx(0.05 / 500, rel=1e-9)


def test_one_cycle_starts_peaks_and_ends_where_it_says():
    found = factors(OneCycle, 101, warmup=31)
    assert (found[0], found[30]) == (0.04, 1.0) and found[-1] == pytest.approx(4e-6, rel=1e-9)
    assert found[:31] == sorted(found[:31]) and found[30:] == sorted(found[30:], reverse=True)


@pytest.mark.parametrize(
    "shape, equation",
    [
        ("linear", lambda s: 1 - s),
        ("sqrt", lambda s: 1 - s**0.5),
        ("cosine", lambda s: 0.5 + 0.5 * math.cos(math.pi * s)),
    ],
)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_wsd_by_hand(shape, equation, final):
    found = factors(WSD, 20, warmup=4, decay=0.4, shape=shape, final_ratio=final)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0] and found[4:13] == [1.0] * 9
    assert found[13:] == pytest.approx(
        [final + (1 - final) * equation(done / 8) for done in range(1, 8)]
    )


def test_wsds_decay_as_updates_or_as_a_share_of_the_run_agree():
    assert factors(WSD, 100, decay=20) == factors(WSD, 100, decay=0.2)
    with pytest.raises(ConfigError, match=r"schedule\.decay.*1\.5"):
        WSD.Config(decay=1.5)


def test_wsd_without_a_decay_is_constant():
    assert factors(WSD, 30, warmup=3, decay=0) == factors(Constant, 30, warmup=3)


def test_the_stable_part_of_wsd_does_not_depend_on_the_end():
    short, long = factors(WSD, 100, warmup=10), factors(WSD, 1000, warmup=10)
    assert short[:80] == long[:80]


def test_a_decay_longer_than_what_is_left_begins_after_the_warm_up():
    found = factors(WSD, 10, warmup=6, decay=8, shape="linear")
    assert found[:6] == pytest.approx([u / 6 for u in range(1, 7)])
    assert found[6:] == pytest.approx([1.0, 0.75, 0.5, 0.25])


# -- what all have in common -----------------------------------------------------------------------------------------


@FROM_ZERO
def test_a_warm_up_longer_than_the_run_is_cut_off_by_its_end(schedule):
    assert factors(schedule, 10, warmup=100) == pytest.approx([u / 100 for u in range(1, 11)])


def test_one_cycle_with_a_way_up_longer_than_the_run_never_comes_down():
    found = factors(OneCycle, 10, warmup=100)
    assert found == sorted(found) and found[-1] < 0.1


@ALL
def test_the_rate_rises_to_one_peak_and_falls_from_there(schedule):
    for warmup in (0, 1, 10, 0.3):
        found = factors(schedule, 100, warmup=warmup)
        peak = found.index(max(found))
        assert max(found) == 1.0
        assert found[: peak + 1] == sorted(found[: peak + 1]) and found[peak:] == sorted(
            found[peak:], reverse=True
        )


@ALL
@pytest.mark.parametrize("total", [1000, 10_000])
def test_the_rate_has_no_jumps(schedule, total):
    """Twice as many updates, about half the largest change: what is steep is steep, and nothing is broken. A root falls
    by the root of a step at its start, so for it the steps shrink by the root of two."""

    def largest(n):
        found = factors(schedule, n, warmup=0.1)
        return max(abs(a - b) for a, b in itertools.pairwise(found))

    assert largest(total) / largest(2 * total) == pytest.approx(
        2**0.5 if schedule is WSD else 2, rel=0.05
    )


@ENDING
def test_the_first_update_of_a_run_by_minutes_has_a_finite_rate(schedule):
    for settings in ({"warmup": 0}, {"warmup": 10}, {"warmup": 0.1}):
        assert 0 <= schedule(schedule.Config(**settings)).factor(1, None, 0.0) <= 1


@ALL
def test_a_run_of_one_update_has_a_rate(schedule):
    for warmup in (0, 1, 0.5):
        assert 0 < schedule(schedule.Config(warmup=warmup)).factor(1, 1, 0.0) <= 1


@ENDING
def test_beyond_the_end_nothing_moves_any_more(schedule):
    made = schedule(schedule.Config(warmup=2, final_ratio=0.1))
    assert made.factor(101, 100, 1.0) == made.factor(500, 100, 1.0) == pytest.approx(0.1)


@ALL
def test_a_resumed_run_asks_for_later_updates_only_and_gets_the_same(schedule):
    whole = factors(schedule, 60, warmup=0.2)
    made = schedule(schedule.Config(warmup=0.2))
    assert [made.factor(update, 60, (update - 1) / 60) for update in range(31, 61)] == whole[30:]
