"""Time samplers: which levels a batch is trained at."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clearwater.times import LowDiscrepancy, Uniform


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=["uniform", "low discrepancy"])
@pytest.mark.parametrize("position", [0, 3])
def test_every_place_in_a_batch_is_uniform_over_the_levels(times, position):
    shared = generator(3)
    drawn = torch.stack([times(5, 10, shared)[0] for _ in range(4000)])[:, position]
    counts = torch.bincount(drawn, minlength=11)
    assert int(counts[0]) == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


def test_uniform_levels_are_independent():
    """Pairs of neighbours in a batch are uniform over the 5 × 5 combinations."""
    drawn = Uniform()(20_000, 5, generator(4))[0].reshape(-1, 2) - 1
    pairs = torch.bincount(5 * drawn[:, 0] + drawn[:, 1], minlength=25)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
def test_low_discrepancy_takes_every_level_once_in_a_batch_of_as_many(T):
    for seed in range(20):
        assert sorted(LowDiscrepancy()(T, T, generator(seed))[0].tolist()) == list(range(1, T + 1))


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 10**6))
def test_low_discrepancy_takes_no_level_more_than_its_share(n, T, seed):
    """n points at equal distances on a circle: an arc of 1/T holds the whole number below n/T, or the one above."""
    counts = torch.bincount(LowDiscrepancy()(n, T, generator(seed))[0], minlength=T + 1)
    assert int(counts[0]) == 0
    assert len(counts) == T + 1
    assert set(counts[1:].tolist()) <= {n // T, -(-n // T)}


@pytest.mark.parametrize("times", [Uniform(), LowDiscrepancy()], ids=["uniform", "low discrepancy"])
def test_the_first_and_the_last_level_are_drawn(times):
    drawn = set(torch.cat([times(7, 4, generator(seed))[0] for seed in range(50)]).tolist())
    assert drawn == {1, 2, 3, 4}
