"""What the Fréchet distance is off by: its error against derivatives, a bootstrap and trials; its floor."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clearwater.evaluation.fidelity import Moments, frechet_distance, frechet_estimate, frechet_floor

Array = npt.NDArray[np.float64]


def _gaussian(mean: Array, covariance: Array) -> Moments:
    """Moments with exactly this mean and this covariance."""
    return Moments(11, torch.from_numpy(mean), torch.from_numpy(covariance) * 10)


def _heavy(rng: np.random.Generator, n: int, d: int) -> Array:
    """No Gaussian: each row of a width of its own."""
    return rng.standard_normal((n, d)) * rng.exponential(1, (n, 1)) + 0.3


def _weighted(rows: Array, weights: Array) -> Moments:
    """Of rows with weights that add up to 1."""
    mean = weights @ rows
    return _gaussian(mean, (rows - mean).T * weights @ (rows - mean) * len(rows) / (len(rows) - 1))


def _derivatives(of: Array, other: Moments) -> Array:
    """Of the distance by the weight of each image, as differences, less their mean."""
    n, step = len(of), 1e-5

    def distance(i: int, change: float) -> float:
        weights = np.full(n, (1 - change) / n)
        weights[i] += change
        return frechet_distance(_weighted(of, weights), other)

    return np.array([(distance(i, step) - distance(i, -step)) / (2 * step) for i in range(n)])


@pytest.mark.parametrize(("n", "m", "d"), [(20, 30, 3), (30, 20, 3), (6, 9, 12), (5, 40, 12)])
def test_the_error_is_that_of_the_derivative_by_the_weight_of_each_image(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n)
    a, b = _heavy(rng, n, d), rng.standard_normal((m, d))
    of_a = _derivatives(a, Moments.of(torch.from_numpy(b))).var(ddof=1) / n
    of_b = _derivatives(b, Moments.of(torch.from_numpy(a))).var(ddof=1) / m
    samples, data = torch.from_numpy(a), torch.from_numpy(b)
    assert frechet_estimate(samples, data).error == pytest.approx(math.sqrt(of_a + of_b), rel=1e-4)
    assert frechet_estimate(samples, Moments.of(data)).error == pytest.approx(math.sqrt(of_a), rel=1e-4)


@pytest.mark.parametrize("d", [4, 32])
def test_the_error_is_a_bootstraps(d: int) -> None:
    rng = np.random.default_rng(d)
    a, b = _heavy(rng, 600, d), rng.standard_normal((500, d))
    drawn = [
        frechet_distance(*(Moments.of(torch.from_numpy(of[rng.integers(len(of), size=len(of))])) for of in (a, b)))
        for _ in range(200)
    ]
    found = frechet_estimate(torch.from_numpy(a), torch.from_numpy(b))
    assert found.error == pytest.approx(np.std(drawn), rel=0.2)
    # What a bootstrap would get wrong: its distances are larger than the one that they are to surround.
    assert np.mean(drawn) > found.value


@pytest.mark.parametrize(("n", "d"), [(300, 5), (20, 30)], ids=["many images", "fewer images than features"])
def test_intervals_of_different_sets_have_the_expected_distance_in_them(n: int, d: int) -> None:
    rng = np.random.default_rng(n)
    mixing = torch.from_numpy(np.linalg.qr(rng.standard_normal((d, d)))[0] * np.exp(rng.uniform(-1, 1, d)))
    found = [
        frechet_estimate(
            torch.from_numpy(rng.standard_normal((n, d)) + 1) @ mixing.T, torch.from_numpy(rng.standard_normal((n, d)))
        )
        for _ in range(200)
    ]
    expected = np.mean([each.value for each in found])
    inside = sum(low <= expected <= high for low, high in (each.interval for each in found))
    assert 180 <= inside <= 200  # of 190: four deviations less than it should be, and no bound above


def test_of_equal_distributions_the_error_is_too_large_by_the_root_of_two() -> None:
    rng = np.random.default_rng(0)
    found = [frechet_estimate(*torch.from_numpy(rng.standard_normal((2, 400, 12)))) for _ in range(300)]
    ratio = math.sqrt(np.mean([each.error**2 for each in found])) / np.std([each.value for each in found])
    assert ratio == pytest.approx(math.sqrt(2), rel=0.15)
    few = frechet_estimate(torch.zeros(2, 1), torch.tensor([[0.0], [1.0]]))
    assert few.value - 1.96 * few.error < 0 == few.interval[0]  # there are no distances below zero


def test_the_floor_of_equal_widths_is_the_closed_form_and_that_of_others_what_sets_are_apart() -> None:
    d, n, m = 10, 300, 500
    unit = _gaussian(np.zeros(d), 4 * np.eye(d))
    assert frechet_floor(unit, n, m) == pytest.approx((1 / n + 1 / m) * 4 * (d + d / 4 + d**2 / 4), rel=1e-12)
    assert frechet_floor(unit, n, math.inf) == pytest.approx(4 / n * (d + d / 4 + d**2 / 4), rel=1e-12)
    rng = np.random.default_rng(0)
    widths = np.exp(rng.uniform(-2, 0, d))
    found = [
        frechet_distance(*(Moments.of(torch.from_numpy(rng.standard_normal((size, d)) * widths)) for size in (n, m)))
        for _ in range(200)
    ]
    expected = frechet_floor(_gaussian(np.zeros(d), np.diag(widths**2)), n, m)
    assert expected == pytest.approx(np.mean(found), rel=0.05)
