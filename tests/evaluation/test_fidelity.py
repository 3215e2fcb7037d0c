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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.fidelity import (
    Moments,
    frechet_distance,
    frechet_estimate,
    images_needed,
)

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


# --- few images, and blocks of many


@given(seeds, st.integers(2, 12), st.integers(2, 12))
@settings(max_examples=30)
def test_of_fewer_images_than_features_it_is_that_of_their_products(seed: int, n: int, m: int) -> None:
    """tr (C_a C_b)^½ = ‖X Yᵀ‖_* / √((n - 1)(m - 1)), X and Y the features less their means: no covariance is made."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 20)), rng.standard_normal((m, 20)) * 2 + 1
    x_0, y_0 = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.svd(x_0 @ y_0.T, compute_uv=False).sum() / math.sqrt((n - 1) * (m - 1))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum() - 2 * cross
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_estimate(a, b).value == pytest.approx(expected, rel=1e-6)


def test_of_sets_without_any_width_it_is_the_distance_of_the_means() -> None:
    a, b = torch.zeros(5, 3), torch.ones(6, 3)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == 3
    assert frechet_estimate(a, b) == Estimate(3.0, 0.0, (3.0, 3.0))
    # And from a set that has a width, the width is added: tr C.
    wide = _features(0, 50, 3)
    expected = float(wide.mean(0).square().sum() + wide.var(0).sum())
    assert frechet_distance(Moments.of(wide), Moments.of(a)) == pytest.approx(expected, rel=1e-12)


def test_the_images_needed_are_the_fewest_that_give_a_covariance_its_full_rank() -> None:
    for d in (1, 3, 10):
        ranks = [
            int(torch.linalg.matrix_rank(Moments.of(_features(d, n, d)).covariance)) for n in (2, d, d + 1) if n > 1
        ]
        assert ranks[-1] == d
        assert images_needed(d) == d + 1
        assert d == 1 or ranks[-2] == d - 1


@given(seeds, st.integers(2, 40), st.integers(1, 45), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_neither_blocks_nor_the_order_matter(seed: int, n: int, block: int, chance: random.Random) -> None:
    a, b = _features(seed, n), _features(seed + 1, 30)
    order = list(range(n))
    chance.shuffle(order)
    whole, parts = frechet_estimate(a, b), frechet_estimate(a[order], b, block=block)
    assert parts.value == pytest.approx(whole.value, rel=1e-7, abs=1e-7)
    assert parts.error == pytest.approx(whole.error, rel=1e-5, abs=1e-7)


def test_the_distance_is_that_of_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    for seed, (n, m, d) in enumerate([(500, 400, 3), (100, 2000, 32), (300, 300, 128)]):
        a, b = _features(seed, n, d), _features(seed + 10, m, d)
        covariances = [np.cov(of.numpy(), rowvar=False) for of in (a, b)]
        expected = float(
            fid._compute_fid(a.mean(0), torch.from_numpy(covariances[0]), b.mean(0), torch.from_numpy(covariances[1]))
        )
        assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)
        assert frechet_estimate(a, b).value == pytest.approx(expected, rel=1e-6)


def test_features_of_two_extractors_and_broken_ones_are_refused() -> None:
    a, b = _features(0, 9, 4), _features(0, 9, 5)
    with pytest.raises(InputError, match="not 4 of one set and 5"):
        frechet_distance(Moments.of(a), Moments.of(b))
    for of in (b, Moments.of(b)):
        with pytest.raises(InputError, match=r"4 .*5"):
            frechet_estimate(a, of)
    a[3, 2] = math.nan
    with pytest.raises(InputError, match="not finite"):
        frechet_distance(Moments.of(a), Moments.of(a))
    with pytest.raises(InputError, match="Image 3 of the data"):
        frechet_estimate(_features(0, 9, 4), a)
