"""Intervals against closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clearwater.evaluation.estimates import QUANTILE, Estimate


def test_an_interval_has_95_percent_and_keeps_within_what_is_possible() -> None:
    assert pytest.approx(stats.norm.ppf(0.975), rel=1e-12) == QUANTILE
    assert Estimate.normal(2.0, 0.5).interval == pytest.approx((2 - 0.5 * QUANTILE, 2 + 0.5 * QUANTILE))
    assert Estimate.normal(0.1, 0.5, least=0).interval == (0, pytest.approx(0.1 + 0.5 * QUANTILE))
    assert Estimate.normal(0.9, 0.5, most=1).interval == (pytest.approx(0.9 - 0.5 * QUANTILE), 1)


@given(st.integers(0, 50), st.integers(1, 50))
def test_that_of_a_share_is_where_the_score_test_changes_its_mind(successes: int, more: int) -> None:
    """Wilson's ends p are where the share is 1.96 of √(p (1 - p) / n) from p."""
    n = successes + more
    share = successes / n
    found = Estimate.proportion(share, n)
    assert found.error == pytest.approx(math.sqrt(share * (1 - share) / n))
    for end in found.interval:
        assert abs(share - end) == pytest.approx(QUANTILE * math.sqrt(end * (1 - end) / n), abs=1e-7)


def test_a_share_of_none_or_all_has_an_interval_too() -> None:
    edge = QUANTILE**2 / (100 + QUANTILE**2)
    assert Estimate.proportion(0.0, 100).interval == pytest.approx((0, edge), abs=1e-12)
    assert Estimate.proportion(1.0, 100).interval == pytest.approx((1 - edge, 1), abs=1e-12)


@pytest.mark.parametrize("n", [80, 500, 1000, 2000])
def test_a_share_of_none_or_all_is_in_its_interval_whatever_the_rounding(n: int) -> None:
    assert Estimate.proportion(0.0, n).interval[0] == 0
    assert Estimate.proportion(1.0, n).interval[1] == 1
