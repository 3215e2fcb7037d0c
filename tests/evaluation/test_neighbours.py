"""Nearest neighbours over blocks against all pairs one by one; and what of rows is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.neighbours import neighbours, squared_distances
from clearwater.evaluation.rows import blocks, check_alike, check_rows

seeds = st.integers(0, 2**32 - 1)


def _rows(seed: int, n: int, d: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)))


@given(seeds, st.integers(1, 20), st.integers(1, 30), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=40)
def test_the_nearest_are_those_of_all_pairs_whatever_the_block(seed: int, n: int, m: int, k: int, block: int) -> None:
    queries, points = _rows(seed, n), _rows(seed + 1, m)
    k = min(k, m)
    squared, index = neighbours(queries, points, k, block=block)
    pairs = np.square(queries.numpy()[:, None] - points.numpy()).sum(2)
    np.testing.assert_array_equal(index, np.argsort(pairs, 1)[:, :k])
    np.testing.assert_allclose(squared, np.sort(pairs, 1)[:, :k], rtol=1e-14)


@given(seeds, st.integers(2, 30), st.integers(1, 7))
@settings(max_examples=20)
def test_no_row_is_a_neighbour_of_its_own(seed: int, n: int, block: int) -> None:
    rows = _rows(seed, n)
    k = min(4, n - 1)
    pairs = np.square(rows.numpy()[:, None] - rows.numpy()).sum(2) + np.diag(np.full(n, np.inf))
    squared, index = neighbours(rows, rows, k, same=True, block=block)
    np.testing.assert_array_equal(index, np.argsort(pairs, 1)[:, :k])
    np.testing.assert_allclose(squared, np.sort(pairs, 1)[:, :k], rtol=1e-14)


def test_far_from_zero_where_a_product_has_no_digits_left_distances_are_exact() -> None:
    points = _rows(0, 50) + 1e8
    shifts = torch.tensor([[2.0**-10, 0, 0]], dtype=torch.float64)  # of which the sum is exact
    squared, index = neighbours(points + shifts, points)
    assert torch.equal(index[:, 0], torch.arange(50))
    assert torch.equal(squared[:, 0], torch.full((50,), 2.0**-20, dtype=torch.float64))
    of_itself, _ = neighbours(points, points)
    assert torch.equal(of_itself, torch.zeros(50, 1, dtype=torch.float64))


def test_the_nearest_of_a_few_is_found_where_a_product_cannot_tell_them() -> None:
    few = _rows(0, 4) * 1e-3
    points = torch.cat([few, _rows(1, 20) * 1e8])
    _, index = neighbours(few + 1e-6, points)
    assert torch.equal(index[:, 0], torch.arange(4))


@given(seeds, st.floats(-6, 6))
@settings(max_examples=20)
def test_a_product_is_off_by_less_than_its_bound(seed: int, power: float) -> None:
    x, y = _rows(seed, 8, 20) + 10**power, _rows(seed + 1, 9, 20) + 10**power
    found, bound = squared_distances(x, y)
    assert float((found - (x[:, None] - y).square().sum(2)).abs().max()) <= bound
    assert bound < 1e-9 * 10 ** max(0, power)  # no larger than the digits of the rows allow


def test_a_mapped_file_of_single_precision_is_read_in_blocks_of_double(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(10, 3))
    mapped[:] = _rows(0, 10).numpy()
    rows = torch.from_numpy(mapped)
    read = list(blocks(rows, 4))
    assert [(at.start, at.stop) for at, _ in read] == [(0, 4), (4, 8), (8, 10)]
    assert torch.equal(torch.cat([part for _, part in read]), rows.double())
    queries = _rows(1, 5)
    for found, expected in zip(
        neighbours(queries, rows, 3, block=4), neighbours(queries, rows.double(), 3), strict=True
    ):
        assert torch.equal(found, expected)


def test_an_image_with_features_that_are_not_finite_is_named() -> None:
    for value in (np.nan, np.inf, -np.inf):
        rows = torch.zeros(5000, 2)
        rows[4321, 1] = value
        with pytest.raises(InputError, match="Image 4321 of the samples"):
            check_rows(rows, "the samples")


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match=r"4 features of the samples and 5 of the data"):
        check_alike(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(InputError, match="at least 2 images of the data, not 1"):
        check_alike(torch.zeros(3, 4), torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"\(3, 4, 5\), not \(images, features\)"):
        check_rows(torch.zeros(3, 4, 5), "the data")
