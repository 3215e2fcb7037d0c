"""The sliced Wasserstein distance of images whose distance is known, and against quantiles made one by one."""

from __future__ import annotations

import math
import random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.evaluation.sliced import sliced_wasserstein

pixels = st.lists(st.integers(0, 255), min_size=2, max_size=12)
seeds = st.integers(0, 2**32 - 1)


def _images(seed: int, n: int, mean: float = 128, width: float = 30, side: int = 4) -> Tensor:
    drawn = np.random.default_rng(seed).standard_normal((n, 1, side, side)) * width + mean
    return torch.from_numpy(drawn.round().clip(0, 255).astype(np.uint8))


def _of_one_pixel(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None]


@given(pixels, pixels)
def test_of_one_pixel_it_is_the_distance_of_the_quantiles_exactly(a: list[int], b: list[int]) -> None:
    """With each value as often as there are values in the other set, sorted pairs are quantiles."""
    x, y = np.sort(np.repeat(a, len(b))), np.sort(np.repeat(b, len(a)))
    expected = math.sqrt(np.square(x - y).mean())
    assert sliced_wasserstein(_of_one_pixel(a), _of_one_pixel(b), directions=3).value == pytest.approx(
        expected, abs=1e-6
    )


def _by_definition(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], directions: int) -> tuple[float, float]:
    """SW₂² over random directions, made one by one, and its standard error."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(directions):
        theta = rng.standard_normal(x.shape[1])
        theta /= np.linalg.norm(theta)
        a, b = np.sort(np.repeat(x @ theta, len(y))), np.sort(np.repeat(y @ theta, len(x)))
        found.append(np.square(a - b).mean())
    return float(np.mean(found)), float(np.std(found) / math.sqrt(directions))


def test_of_more_pixels_it_is_the_mean_square_over_directions() -> None:
    a, b = _images(0, 20), _images(1, 33, mean=140, width=20)
    mean, error = _by_definition(a.flatten(1).double().numpy(), b.flatten(1).double().numpy(), 2000)
    assert sliced_wasserstein(a, b, directions=2000).value ** 2 == pytest.approx(mean, abs=5 * error)


@pytest.mark.parametrize("c", [1, 20, 100])
def test_a_shift_of_all_pixels_is_a_distance_of_as_many_grey_values(c: int) -> None:
    """E (θᵀδ)² = |δ|²/D, with a relative deviation of √2 for one direction."""
    images = _images(0, 50, mean=70, width=10).clamp(max=150)
    found = sliced_wasserstein(images + c, images, directions=4000)
    assert found.value**2 == pytest.approx(c**2, rel=4 * math.sqrt(2 / 4000))


def test_of_gaussians_it_is_the_distance_of_means_and_of_deviations() -> None:
    """Along each direction W₂² = (θᵀδ)² + (s - t)², so SW₂² = |δ|²/D + (s - t)²."""
    found = sliced_wasserstein(_images(0, 4000, 110, 30), _images(1, 3000, 128, 20), directions=500)
    assert found.value**2 == pytest.approx(18**2 + 10**2, rel=0.1)
    assert sliced_wasserstein(_images(0, 4000, 128, 30), _images(1, 4000, 128, 20)).value == pytest.approx(10, rel=0.1)


@given(seeds, st.integers(2, 15), st.integers(2, 15), st.integers(1, 20), st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_neither_blocks_nor_order_nor_copies_nor_which_is_which_matter(
    seed: int, n: int, m: int, block: int, chance: random.Random
) -> None:
    a, b = _images(seed, n), _images(seed + 1, m)
    order = list(range(n))
    chance.shuffle(order)
    expected = sliced_wasserstein(a, b, directions=20)
    for found in (
        sliced_wasserstein(a[order], b, directions=20, block=block),
        sliced_wasserstein(b, a, directions=20),
        sliced_wasserstein(ImageSet(a), ImageSet(b), directions=20, block=block),
    ):
        assert found.value == pytest.approx(expected.value, rel=1e-9)
        assert found.error == pytest.approx(expected.error, rel=1e-6, abs=1e-9)
    copied = sliced_wasserstein(a.repeat(3, 1, 1, 1), b.repeat(2, 1, 1, 1), directions=20)
    assert copied.value == pytest.approx(expected.value, rel=1e-9)
    assert sliced_wasserstein(a, a[order], directions=20).value == pytest.approx(0, abs=1e-6)


@given(seeds, st.integers(2, 12), st.integers(2, 12))
@settings(max_examples=20)
def test_negatives_are_as_far_apart_and_as_surely(seed: int, n: int, m: int) -> None:
    a, b = _images(seed, n), _images(seed + 1, m)
    found, of_negatives = sliced_wasserstein(a, b, directions=9), sliced_wasserstein(255 - a, 255 - b, directions=9)
    assert of_negatives.value == pytest.approx(found.value, rel=1e-9)
    assert of_negatives.error == pytest.approx(found.error, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "most"), [("_KEPT", 7 * 30), ("_DRAWN", 7 * 12), ("_READ", 7 * 12), ("_SORTED", 7 * 50)]
)
def test_more_than_is_kept_at_once_is_read_again(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _images(0, 30), _images(1, 20)
    expected = sliced_wasserstein(a, b, directions=50)
    monkeypatch.setattr(f"clearwater.evaluation.sliced.{name}", most)
    found = sliced_wasserstein(a, b, directions=50)
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.error == pytest.approx(expected.error, rel=1e-9)


def test_the_error_is_a_bootstraps() -> None:
    a, b = _images(0, 200, 120), _images(1, 150, 128, 20)
    rng = np.random.default_rng(0)
    drawn = [
        sliced_wasserstein(a[rng.integers(200, size=200)], b[rng.integers(150, size=150)], directions=50).value
        for _ in range(150)
    ]
    assert sliced_wasserstein(a, b, directions=50).error == pytest.approx(np.std(drawn), rel=0.25)


def test_the_error_is_that_of_the_derivative_by_the_weight_of_each_image() -> None:
    """In one dimension: images n of which each is there k times, one of them k + 1 times."""
    a, b = [10, 20, 25, 70, 200], [30, 90, 100, 101]

    def square(copies: list[int]) -> float:
        return sliced_wasserstein(_of_one_pixel(copies), _of_one_pixel(b), directions=1).value ** 2

    k = 400
    base = square(a * k)
    slopes = [(square(a * k + [extra]) - base) * (len(a) * k + 1) for extra in a]
    back = sliced_wasserstein(_of_one_pixel(b * k), _of_one_pixel(a), directions=1).value ** 2
    others = [
        (sliced_wasserstein(_of_one_pixel([*(b * k), extra]), _of_one_pixel(a), directions=1).value ** 2 - back)
        * (len(b) * k + 1)
        for extra in b
    ]
    expected = math.sqrt(np.var(slopes, ddof=1) / len(a) + np.var(others, ddof=1) / len(b))
    found = sliced_wasserstein(_of_one_pixel(a), _of_one_pixel(b), directions=1)
    assert 2 * found.value * found.error == pytest.approx(expected, rel=0.02)


def test_images_of_two_sizes_and_too_few_are_refused() -> None:
    with pytest.raises(InputError, match=r"samples are of 1 × 4 × 4 and the data of 1 × 5 × 5"):
        sliced_wasserstein(_images(0, 5), _images(0, 5, side=5))
    with pytest.raises(InputError, match="Sets of 1 and 5 images"):
        sliced_wasserstein(_images(0, 1), _images(0, 5))
    with pytest.raises(InputError, match="0 directions"):
        sliced_wasserstein(_images(0, 5), _images(0, 5), directions=0)
