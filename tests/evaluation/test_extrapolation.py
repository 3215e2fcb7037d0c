"""The Fréchet distance at infinitely many images, of Gaussians whose distance is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.extrapolation import Extrapolation, frechet_at_infinity
from clearwater.evaluation.fidelity import Moments, frechet_distance, frechet_estimate

Array = npt.NDArray[np.float64]


class Pair:
    """Two Gaussians, and sets drawn from them."""

    def __init__(self, d: int, apart: float) -> None:
        rng = np.random.default_rng(d)
        widths = np.logspace(0, -1, d)
        turned = np.linalg.qr(rng.standard_normal((d, d)))[0] * widths
        self._mixing = (1 - apart) * np.diag(widths) + apart * turned, np.diag(widths)
        self._mean = apart * rng.standard_normal(d)
        self._rng = rng
        self.data = _exact(np.zeros(d), self._mixing[1])
        self.distance = frechet_distance(_exact(self._mean, self._mixing[0]), self.data)

    def sets(self, n: int, m: int) -> tuple[Tensor, Tensor]:
        a, b = (
            torch.from_numpy(self._rng.standard_normal((size, len(self._mean))) @ mixing.T)
            for size, mixing in zip((n, m), self._mixing, strict=True)
        )
        return a + torch.from_numpy(self._mean), b


def _exact(mean: Array, mixing: Array) -> Moments:
    many = 10**9
    return Moments(many, torch.from_numpy(mean), torch.from_numpy(mixing @ mixing.T) * (many - 1))


def _check(found: list[Extrapolation], truth: float) -> None:
    values, raw = (
        np.array([of.value for of in each]) for each in zip(*((f.estimate, f.raw) for f in found), strict=True)
    )
    # Without bias beyond what chance leaves of it, where the raw one's is many times that.
    chance = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - truth) < 4 * chance
    assert raw.mean() - truth > 8 * chance
    assert (np.abs(values - truth) < np.abs(raw - truth)).mean() > 0.9
    inside = [f.estimate.interval[0] <= truth <= f.estimate.interval[1] for f in found]
    assert np.mean(inside) >= 0.88


@pytest.mark.parametrize("apart", [0.0, 0.03])
@pytest.mark.parametrize("n", [500, 1000])
def test_it_is_nearer_to_the_truth_than_the_raw_one_and_not_biased(n: int, apart: float) -> None:
    pair = Pair(24, apart)
    _check([frechet_at_infinity(pair.sets(n, 2)[0], pair.data, seed=i) for i in range(50)], pair.distance)


@pytest.mark.parametrize("apart", [0.0, 0.03])
def test_with_the_data_extrapolated_too_it_is_the_distance_of_the_distributions(apart: float) -> None:
    pair = Pair(24, apart)
    _check([frechet_at_infinity(*pair.sets(500, 900), seed=i) for i in range(50)], pair.distance)


def test_of_distant_sets_its_interval_has_the_truth_in_it_too() -> None:
    pair = Pair(8, 0.5)
    found = [frechet_at_infinity(*pair.sets(200, 300), seed=i).estimate.interval for i in range(100)]
    assert 88 <= sum(low <= pair.distance <= high for low, high in found) <= 100


def test_two_numbers_of_parts_give_twice_the_whole_less_the_halves() -> None:
    a, b = Pair(6, 0.2).sets(101, 80)
    found = frechet_at_infinity(a, b)
    (n, whole), (half, halves) = found.points
    assert (n, half) == (101, 50.5)
    assert whole == found.raw.value == pytest.approx(frechet_distance(Moments.of(a), Moments.of(b)), rel=1e-9)
    assert found.raw == frechet_estimate(a, b)
    assert found.estimate.value == pytest.approx(2 * whole - halves, rel=1e-12)
    assert found.n == 101


def test_more_numbers_of_parts_give_the_line_of_least_squares() -> None:
    a, b = Pair(6, 0.2).sets(120, 80)
    found = frechet_at_infinity(a, Moments.of(b), parts=(1, 2, 3, 5), partitions=2)
    images, distances = np.array(found.points).T
    np.testing.assert_allclose(images, [120, 60, 40, 24])
    assert found.estimate.value == pytest.approx(np.polyfit(1 / images, distances, 1)[1], rel=1e-9)


def test_the_halves_are_a_random_partition_which_a_block_does_not_change() -> None:
    """Rows in order of their size would have halves that are far apart, were they not drawn at random."""
    a, b = Pair(4, 0.2).sets(600, 500)
    ordered = a[a.norm(dim=1).argsort()]
    shuffled, sorted_ = (frechet_at_infinity(rows, b, partitions=20).estimate for rows in (a, ordered))
    assert sorted_.value == pytest.approx(shuffled.value, abs=3 * shuffled.error)
    assert frechet_at_infinity(a, b, block=37).estimate.value == pytest.approx(
        frechet_at_infinity(a, b).estimate.value, rel=1e-9
    )
    assert frechet_at_infinity(a, b, seed=1).estimate.value != frechet_at_infinity(a, b).estimate.value


def test_parts_without_more_images_than_features_are_refused_and_the_number_needed_is_named() -> None:
    a, b = Pair(6, 0.2).sets(14, 13)
    frechet_at_infinity(a, Moments.of(b))
    for of in ((a[:13], Moments.of(b)), (a, b)):
        with pytest.raises(InputError, match=r"at least 14 images.* not 13"):
            frechet_at_infinity(*of)
    with pytest.raises(InputError, match=r"not \(2, 3\)"):
        frechet_at_infinity(a, b, parts=(2, 3))
