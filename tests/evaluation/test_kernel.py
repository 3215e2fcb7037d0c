"""The kernel distance against its definition pair by pair, moments in closed form, torchmetrics, and its own spread."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.kernel import kernel_distance, kernel_distance_of_subsets
from clearwater.randomness import generator

seeds = st.integers(0, 2**32 - 1)


def _rows(seed: int, n: int, d: int = 3, mean: float = 0.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)) + mean)


def _by_definition(x: Tensor, y: Tensor) -> float:
    def mean(pairs: list[tuple[Tensor, Tensor]]) -> float:
        return sum((float(a @ b) / x.shape[1] + 1) ** 3 for a, b in pairs) / len(pairs)

    own = (mean(list(itertools.permutations(of, 2))) for of in (x, y))
    return sum(own) - 2 * mean(list(itertools.product(x, y)))


@given(seeds, st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(1, 10))
@settings(max_examples=30)
def test_it_is_the_mean_over_pairs_of_different_images(seed: int, n: int, m: int, d: int, block: int) -> None:
    x, y = _rows(seed, n, d), _rows(seed + 1, m, d, 0.5)
    assert kernel_distance(x, y, block=block).value == pytest.approx(_by_definition(x, y), rel=1e-9, abs=1e-11)


@given(seeds, st.integers(2, 40), st.integers(1, 45), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_neither_blocks_nor_order_nor_which_is_which_matter(
    seed: int, n: int, block: int, chance: random.Random
) -> None:
    x, y = _rows(seed, n), _rows(seed + 1, 30, mean=0.5)
    order = list(range(n))
    chance.shuffle(order)
    whole, parts, back = kernel_distance(x, y), kernel_distance(x[order], y, block=block), kernel_distance(y, x)
    for other in (parts, back):
        assert other.value == pytest.approx(whole.value, rel=1e-9, abs=1e-11)
        assert other.error == pytest.approx(whole.error, rel=1e-6)


def test_it_is_that_of_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    for seed, (n, d) in enumerate([(300, 64), (50, 2048)]):
        x, y = _rows(seed, n, d), _rows(seed + 10, n, d, 0.1)
        assert kernel_distance(x, y).value == pytest.approx(float(kid.poly_mmd(x, y)), rel=1e-9)
        # And over subsets, of the same images.
        size, drawn = 20, []
        for i in range(5):
            chosen = (
                of[torch.randperm(n, generator=generator(3, name, i))[:size]]
                for of, name in ((x, "samples"), (y, "data"))
            )
            drawn.append(float(kid.poly_mmd(*chosen)))
        found = kernel_distance_of_subsets(x, y, subsets=5, size=size, seed=3)
        assert found.mean == pytest.approx(np.mean(drawn), rel=1e-9)
        assert found.deviation == pytest.approx(np.std(drawn), rel=1e-9)


@pytest.mark.parametrize(("mean", "width"), [(0.0, 1.0), (0.5, 1.0), (0.0, 1.5), (0.3, 0.8)])
def test_its_mean_is_what_three_moments_say_at_any_number_of_images_and_its_error_how_far_it_is_from_that(
    mean: float, width: float
) -> None:
    """For one feature MMD² = 3 (Δ E x)² + 3 (Δ E x²)² + (Δ E x³)²: (1 + xy)³ is a product of (√3 x, √3 x², x³, 1)."""
    moments = (mean, mean**2 + width**2, mean**3 + 3 * mean * width**2)
    expected = sum(c * (a - b) ** 2 for c, a, b in zip((3, 3, 1), moments, (0, 1, 0), strict=True))
    rng = np.random.default_rng(0)
    found = [
        kernel_distance(
            torch.from_numpy(rng.standard_normal((40, 1)) * width + mean),
            torch.from_numpy(rng.standard_normal((60, 1))),
        )
        for _ in range(500)
    ]
    values = np.array([each.value for each in found])
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("apart", [0.0, 0.1, 0.5], ids=["equal", "near", "far"])
def test_its_error_is_what_it_varies_by(apart: float) -> None:
    rng = np.random.default_rng(1)
    found = [
        kernel_distance(
            torch.from_numpy(rng.standard_normal((80, 20)) + apart), torch.from_numpy(rng.standard_normal((120, 20)))
        )
        for _ in range(300)
    ]
    errors, values = (np.array(each) for each in zip(*((f.error, f.value) for f in found), strict=True))
    assert (
        0.9 < math.sqrt(np.mean(errors**2)) / values.std() < 1.3
    )  # above, where an error less than chance's is barred


def test_subsets_of_all_images_are_the_whole() -> None:
    x, y = _rows(0, 30), _rows(1, 30, mean=0.5)
    found = kernel_distance_of_subsets(x, y, subsets=4, size=30)
    assert found.mean == pytest.approx(kernel_distance(x, y).value, rel=1e-12)
    assert found.deviation == pytest.approx(0, abs=1e-12)


def test_subsets_say_the_same_as_all_pairs_within_their_error() -> None:
    x, y = _rows(0, 400), _rows(1, 500, mean=0.3)
    found = kernel_distance_of_subsets(x, y, subsets=200, size=50)
    assert found.mean == pytest.approx(kernel_distance(x, y).value, abs=4 * found.deviation / math.sqrt(200))


@pytest.mark.parametrize(("subsets", "size"), [(0, 10), (5, 31), (5, 1)])
def test_subsets_that_there_are_not_are_refused(subsets: int, size: int) -> None:
    with pytest.raises(InputError, match=rf"no {subsets} subsets of {size} images in 30 samples and 40 .* 2 to 30"):
        kernel_distance_of_subsets(_rows(0, 30), _rows(1, 40), subsets=subsets, size=size)
