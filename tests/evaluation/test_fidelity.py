"""The Fréchet distance against closed forms and scipy's matrix root; its moments against numpy, however added up."""

from __future__ import annotations

import functools
import math
import operator
import random

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation import Moments, frechet_distance

Array = npt.NDArray[np.float64]

seeds = st.integers(0, 2**32 - 1)


def _gaussian(mean: Array, covariance: Array, n: int = 11) -> Moments:
    """Moments with exactly this mean and this covariance."""
    return Moments(n, torch.from_numpy(mean), torch.from_numpy(covariance) * (n - 1))


def _rotation(rng: np.random.Generator, d: int) -> Array:
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def _covariance(rng: np.random.Generator, d: int) -> Array:
    """Random, with eigenvalues from 0.1 to 10 in random directions."""
    basis = _rotation(rng, d)
    return (basis * np.exp(rng.uniform(math.log(0.1), math.log(10), d))) @ basis.T


def _features(seed: int, n: int, d: int = 4) -> Tensor:
    """Of a random Gaussian with deviations from 0.3 to 3."""
    rng = np.random.default_rng(seed)
    mixing = _rotation(rng, d) * np.exp(rng.uniform(math.log(0.3), math.log(3), d))
    return torch.from_numpy(rng.standard_normal((n, d)) @ mixing.T + rng.uniform(-5, 5, d))


# --- the distance


@given(st.floats(-5, 5), st.floats(1e-3, 10), st.floats(-5, 5), st.floats(1e-3, 10))
def test_in_one_dimension_it_is_the_distance_of_the_means_and_of_the_deviations(
    m_a: float, s_a: float, m_b: float, s_b: float
) -> None:
    a, b = (_gaussian(np.array([m]), np.array([[s**2]])) for m, s in ((m_a, s_a), (m_b, s_b)))
    expected = (m_a - m_b) ** 2 + (s_a - s_b) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-13 * (1 + s_a**2 + s_b**2))


@given(seeds, st.integers(1, 12))
def test_of_covariances_with_the_same_axes_it_is_the_distance_of_the_deviations_along_them(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    basis, (v_a, v_b), (m_a, m_b) = _rotation(rng, d), rng.uniform(0.1, 10, (2, d)), rng.standard_normal((2, d))
    a, b = (_gaussian(m, (basis * v) @ basis.T) for m, v in ((m_a, v_a), (m_b, v_b)))
    expected = np.square(m_a - m_b).sum() + np.square(np.sqrt(v_a) - np.sqrt(v_b)).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("d", [2, 3, 10, 64])
def test_of_any_covariances_it_is_what_scipys_matrix_root_gives(d: int) -> None:
    rng = np.random.default_rng(d)
    c_a, c_b = _covariance(rng, d), _covariance(rng, d)
    assert np.abs(c_a @ c_b - c_b @ c_a).max() > 0.01  # they do not commute
    m_a, m_b = rng.standard_normal((2, d))
    root = scipy.linalg.sqrtm(c_a @ c_b)
    expected = np.square(m_a - m_b).sum() + np.trace(c_a + c_b - 2 * root.real)
    assert frechet_distance(_gaussian(m_a, c_a), _gaussian(m_b, c_b)) == pytest.approx(expected, rel=1e-9)


def test_of_two_by_two_covariances_it_is_the_closed_form() -> None:
    """tr √M = √(tr M + 2 √det M) for a 2 × 2 matrix M with eigenvalues above zero."""
    c_a, c_b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])
    # C_a C_b = [[2, 3], [1, 6]]: its trace is 8, its determinant 9.
    expected = 4.0 + 4.0 - 2 * math.sqrt(8 + 2 * 3)
    zero = np.zeros(2)
    assert frechet_distance(_gaussian(zero, c_a), _gaussian(zero, c_b)) == pytest.approx(expected, rel=1e-12)


@given(seeds, st.integers(2, 40))
def test_of_a_set_to_itself_it_is_zero(seed: int, n: int) -> None:
    of = Moments.of(_features(seed, n))
    # The root of an eigenvalue that is zero up to 1e-16, as with few images, is zero up to 1e-8.
    digits = 1e-11 if n >= 20 else 1e-7
    assert 0 <= frechet_distance(of, of) <= digits * float(of.covariance.trace())


@given(seeds, seeds)
def test_it_is_symmetric_and_not_below_zero(seed_a: int, seed_b: int) -> None:
    a, b = Moments.of(_features(seed_a, 20)), Moments.of(_features(seed_b, 30))
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-9, abs=1e-11 * float(a.covariance.trace() + b.covariance.trace()))


@given(seeds, st.floats(0.1, 10))
def test_it_does_not_know_the_axes_or_the_origin_and_grows_as_the_square_of_the_unit(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    basis, origin = torch.from_numpy(_rotation(rng, 4)), torch.from_numpy(rng.standard_normal(4))
    a, b = _features(seed, 20), _features(seed + 1, 30)
    expected = unit**2 * frechet_distance(Moments.of(a), Moments.of(b))
    a, b = (unit * (of @ basis + origin) for of in (a, b))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


@given(seeds)
def test_its_root_keeps_the_triangle_inequality(seed: int) -> None:
    a, b, c = (Moments.of(_features(seed + i, 20)) for i in range(3))
    across, first, second = (math.sqrt(frechet_distance(*pair)) for pair in ((a, c), (a, b), (b, c)))
    assert across <= (first + second) * (1 + 1e-9)


@given(seeds, st.integers(2, 12))
def test_of_covariances_of_rank_one_it_is_the_closed_form(seed: int, d: int) -> None:
    """(u uᵀ v vᵀ)^½ has the one eigenvalue |uᵀv| that is not zero."""
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((2, d))
    a, b = (_gaussian(np.zeros(d), np.outer(w, w)) for w in (u, v))
    expected = u @ u + v @ v - 2 * abs(u @ v)
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-7 * d * (u @ u + v @ v))


def test_fewer_images_than_features_give_the_distance_in_the_space_that_they_span() -> None:
    """Both sets lie in three of sixteen dimensions: the distance is that of their three coordinates."""
    rng = np.random.default_rng(0)
    axes = torch.from_numpy(_rotation(rng, 16)[:3])
    a, b = (torch.from_numpy(rng.standard_normal((n, 3)) * scale) for n, scale in ((9, 1.0), (7, 2.0)))
    expected = frechet_distance(Moments.of(a), Moments.of(b))
    assert frechet_distance(Moments.of(a @ axes), Moments.of(b @ axes)) == pytest.approx(expected, abs=1e-6)


# --- the moments


@pytest.mark.parametrize("offset", [0.0, 1e6])  # far from zero E[f²] - E[f]² would lose every digit
@pytest.mark.parametrize("n", [2, 3, 500])
def test_mean_and_covariance_are_numpys(n: int, offset: float) -> None:
    features = _features(n, n) + offset
    of = Moments.of(features)
    assert of.n == n
    np.testing.assert_allclose(of.mean, features.numpy().mean(0), rtol=1e-13)
    expected = np.cov(features.numpy(), rowvar=False)
    np.testing.assert_allclose(of.covariance, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_features_of_single_precision_are_added_up_in_double() -> None:
    features = (_features(0, 5000) + 1000).float()
    expected = np.cov(features.numpy().astype(np.float64), rowvar=False)
    np.testing.assert_allclose(Moments.of(features).covariance, expected, rtol=1e-10)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), seeds, st.randoms(use_true_random=False))
def test_parts_in_any_split_and_order_add_up_to_the_whole(sizes: list[int], seed: int, chance: random.Random) -> None:
    features = _features(seed, sum(sizes))
    parts = [Moments.of(part) for part in features[torch.randperm(len(features))].split(sizes)]
    chance.shuffle(parts)
    left = functools.reduce(operator.add, parts)
    right = functools.reduce(lambda sum_, part: part + sum_, parts)
    middle = chance.randrange(1, len(parts))
    halves = functools.reduce(operator.add, parts[:middle]) + functools.reduce(operator.add, parts[middle:])
    whole = Moments.of(features)
    for added in (left, right, halves):
        assert added.n == whole.n
        torch.testing.assert_close(added.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(added.scatter, whole.scatter, rtol=1e-11, atol=1e-11 * float(whole.scatter.trace()))


def test_a_part_without_images_adds_nothing() -> None:
    whole = Moments.of(_features(0, 7))
    none = Moments.of(torch.zeros(0, 4))
    for added in (whole + none, none + whole):
        assert added.n == 7
        torch.testing.assert_close(added.mean, whole.mean, rtol=0, atol=0)
        torch.testing.assert_close(added.scatter, whole.scatter, rtol=0, atol=0)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_are_refused(n: int) -> None:
    few, enough = Moments.of(_features(0, n)), Moments.of(_features(0, 5))
    for ask in (
        lambda: few.covariance,
        lambda: frechet_distance(few, enough),
        lambda: frechet_distance(enough, few),
    ):
        with pytest.raises(InputError, match=f"at least two images, not {n}"):
            ask()
