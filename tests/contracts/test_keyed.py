"""Keyed randomness: a pure function of (seed, purpose, draw, position)."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fwk.contracts.keyed import Key, choose, exact_share, fold, invert_cdf, mix, mix_array


def key(draws, seed=1, purpose="test"):
    return Key(seed, purpose, torch.as_tensor(draws))


def test_vectorised_hashes_equal_the_reference_on_python_integers():
    words = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    expected = [mix(word) for word in words]
    assert mix_array(np.array(words, dtype=np.uint64)).tolist() == expected
    golden = 0x9E3779B97F4A7C15
    draw, position = 12345, 7
    per_draw = mix(draw * golden + fold(3, "p"))
    reference = mix(per_draw + (position + 1) * golden) & (2**63 - 1)
    assert int(Key(3, "p", torch.tensor([draw])).bits(10)[0, position]) == reference


def test_numbers_depend_on_draw_and_position_only_not_on_the_batch_they_are_in():
    whole = key(torch.arange(16)).bits(8)
    parts = torch.cat([key(torch.arange(0, 5)).bits(8), key(torch.arange(5, 16)).bits(8)])
    assert torch.equal(whole, parts)
    assert torch.equal(key(torch.arange(16)).bits(4), whole[:, :4])


def test_purposes_seeds_and_draws_give_unrelated_numbers():
    a = key(torch.arange(2000)).uniform(1).squeeze(1)
    for other in (
        key(torch.arange(2000), purpose="other"),
        key(torch.arange(2000), seed=2),
        key(torch.arange(2000, 4000)),
    ):
        b = other.uniform(1).squeeze(1)
        correlation = torch.corrcoef(torch.stack([a, b]))[0, 1]
        assert (
            abs(float(correlation)) < 0.08
        )  # 3.5 standard deviations of an independent sample of 2000


def test_uniforms_fill_the_interval_evenly():
    values = key(torch.arange(400)).uniform(256).flatten()
    counts = torch.histc(values, bins=50, min=0, max=1)
    expected = len(values) / 50
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 95  # the 99.99% quantile of chi-square with 49 degrees of freedom
    assert float(values.min()) >= 0 and float(values.max()) < 1


@pytest.mark.parametrize(
    "ratio,n,expected",
    [(0.1, 30, 3), (0.15, 20, 3), (0.15, 21, 4), (0.3, 10, 3), (1.0, 7, 7), (0.0, 5, 0)],
)
def test_exact_share_is_the_ceiling_of_the_rational_number(ratio, n, expected):
    assert int(exact_share(ratio, torch.tensor(n))) == expected
    assert expected == -(-Fraction(str(ratio)) * n // 1)


def test_choose_takes_exactly_the_share_of_eligible_positions_and_no_other():
    torch.manual_seed(0)
    eligible = torch.rand(64, 50) < 0.7
    eligible[0] = False
    positions, valid = choose(key(torch.arange(64)), eligible, 0.15)
    assert positions.shape == (64, 8)
    for row in range(64):
        chosen = positions[row][valid[row]].tolist()
        assert len(chosen) == len(set(chosen)) == int(exact_share(0.15, eligible[row].sum()))
        assert chosen == sorted(chosen)
        assert all(eligible[row, position] for position in chosen)


def test_choose_is_uniform_over_positions():
    positions, valid = choose(key(torch.arange(4000)), torch.ones(4000, 20, dtype=torch.bool), 0.15)
    counts = torch.bincount(positions[valid], minlength=20).double()
    expected = 4000 * 3 / 20
    assert (
        float(((counts - expected) ** 2 / expected).sum()) < 50
    )  # 99.99% quantile at 19 degrees of freedom is 50.8


def test_inverted_cdf_samples_the_distribution():
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    samples = invert_cdf(probabilities.expand(200, 100, 4), key(torch.arange(200)).uniform(100))
    share = torch.bincount(samples.flatten(), minlength=4).double() / samples.numel()
    assert share[1] == 0
    assert torch.allclose(
        share, probabilities, atol=0.015
    )  # 4 standard deviations of 20,000 samples


def test_inverted_cdf_at_the_edges():
    probabilities = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    assert invert_cdf(probabilities, torch.tensor([0.0], dtype=torch.float64)).item() == 1
    assert invert_cdf(probabilities, torch.tensor([1 - 2**-53], dtype=torch.float64)).item() == 2


def test_numpy_and_torch_give_the_same_integers_and_choices(monkeypatch):
    """What the CPU computes with numpy, a GPU computes with torch."""
    rng = np.random.default_rng(3)
    for B, T, ratio in [
        (1, 1, 0.15),
        (5, 16, 0.15),
        (7, 33, 0.0),
        (4, 64, 1.0),
        (40, 512, 0.5),
        (0, 8, 0.3),
    ]:
        eligible = torch.from_numpy(rng.random((B, T)) < 0.7)
        draws = torch.from_numpy(rng.integers(0, 2**62, B))
        results = []
        for with_numpy in (True, False):
            monkeypatch.setattr(
                "fwk.contracts.keyed._with_numpy", lambda tensor, answer=with_numpy: answer
            )
            k = key(draws)
            positions, valid = choose(k, eligible, ratio)
            results.append(
                [
                    k.bits(T),
                    k.bits(positions),
                    k.below(positions, 997),
                    k.uniform(T),
                    positions,
                    valid,
                ]
            )
        for mine, other in zip(*results):
            assert (
                mine.dtype == other.dtype and mine.shape == other.shape and torch.equal(mine, other)
            )


def test_the_numbers_are_those_of_every_version():
    """A change here would give every run other noise: golden curves, resumes and published seeds depend on it."""
    k = key([0, 1, 10**12])
    assert k.bits(3)[:, 2].tolist() == [
        5020362933703974717,
        8509397249773321674,
        368935651645771926,
    ]
    assert k.below(5, 1000)[2].tolist() == [399, 299, 926, 388, 237]
    positions, valid = choose(k, torch.ones(3, 20, dtype=torch.bool), 0.15)
    assert positions.tolist() == [[10, 14, 16], [8, 11, 16], [2, 16, 19]] and bool(valid.all())


@given(st.floats(0, 1), st.integers(0, 1 << 22))
def test_exact_share_of_an_array_is_that_of_an_integer(ratio, n):
    """A ratio with many digits times a length does not fit into 64 bits: it must not come out wrong."""
    expected = exact_share(ratio, n)  # Python's integers have no end
    assert (
        int(exact_share(ratio, np.array([n]))[0])
        == int(exact_share(ratio, torch.tensor(n)))
        == expected
    )
    assert abs(expected - ratio * n) < 1 + 1e-5 and (expected > 0) == (ratio > 0 and n > 0)


def test_a_third_of_a_long_sequence_is_a_third():
    assert exact_share(1 / 3, np.array([3, 4096, 65536])).tolist() == [1, 1366, 21846]


def test_two_positions_with_the_same_first_bits_are_told_apart(monkeypatch):
    """The CPU sorts by 32 of the bits; where those do not decide, the rest does, as everywhere."""
    B, T = 6, 40
    words = np.random.default_rng(5).integers(0, 1 << 62, (B, T)).astype(np.uint64)
    words[2] = words[2] % np.uint64(1 << 20) + np.uint64(
        1 << 40
    )  # one sequence in which the first 32 bits are equal
    monkeypatch.setattr(Key, "_words", lambda self, positions: words.copy())
    eligible = torch.ones(B, T, dtype=torch.bool)
    positions, valid = choose(key(torch.arange(B)), eligible, 0.25)
    expected = [sorted(range(T), key=lambda t: (int(row[t]) >> 6 << 6) | t)[:10] for row in words]
    assert positions.tolist() == [sorted(chosen) for chosen in expected] and bool(valid.all())


def test_what_happens_with_a_probability_does_so_in_that_share_of_cases():
    keyed = key(torch.arange(2000))
    happened = keyed.happens(8, 0.25)
    assert happened.dtype == torch.bool and torch.equal(happened, keyed.below(8, 1000) < 250)
    assert abs(float(happened.double().mean()) - 0.25) < 4 * (0.25 * 0.75 / 16_000) ** 0.5
    assert not keyed.happens(8, 0.0).any() and keyed.happens(8, 1.0).all()
