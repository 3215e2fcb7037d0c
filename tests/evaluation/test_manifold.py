"""Precision, recall, density and coverage against prdc, the definitions pair by pair, and closed forms."""

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

from clearwater.errors import InputError
from clearwater.evaluation.manifold import Manifold, manifold

seeds = st.integers(0, 2**32 - 1)
NAMES = ("precision", "recall", "density", "coverage")


def _rows(seed: int, n: int, d: int = 3, width: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)) * width)


def _values(of: Manifold) -> list[float]:
    return [getattr(of, name).value for name in NAMES]


def _by_definition(samples: npt.NDArray[np.float64], data: npt.NDArray[np.float64], k: int) -> list[float]:
    def distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
        return math.dist(a.tolist(), b.tolist())

    def balls(of: npt.NDArray[np.float64]) -> list[float]:
        return [sorted(distance(a, b) for j, b in enumerate(of) if j != i)[k - 1] for i, a in enumerate(of)]

    of_data, of_samples = balls(data), balls(samples)
    counts = [sum(distance(x, y) < r for y, r in zip(data, of_data, strict=True)) for x in samples]
    recalled = [any(distance(x, y) < r for x, r in zip(samples, of_samples, strict=True)) for y in data]
    covered = [any(distance(x, y) < r for x in samples) for y, r in zip(data, of_data, strict=True)]
    return [np.mean([c > 0 for c in counts]), np.mean(recalled), np.mean(counts) / k, np.mean(covered)]


@given(seeds, st.integers(3, 15), st.integers(3, 15), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=40)
def test_they_are_what_their_definitions_say(seed: int, n: int, m: int, k: int, block: int) -> None:
    k = min(k, n - 1, m - 1)
    samples, data = _rows(seed, n, 2, 0.7), _rows(seed + 1, m, 2)
    expected = _by_definition(samples.numpy(), data.numpy(), k)
    assert _values(manifold(samples, data, k=k, block=block)) == pytest.approx(expected, abs=1e-14)


def test_they_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc")
    for seed, (n, m, d, k, width) in enumerate([(200, 300, 5, 5, 0.8), (250, 150, 64, 3, 1.0), (100, 100, 2, 10, 1.3)]):
        samples, data = _rows(seed, n, d, width), _rows(seed + 10, m, d)
        expected = prdc.compute_prdc(data.numpy(), samples.numpy(), k)
        found = manifold(samples, data, k=k)
        for name in NAMES:
            assert getattr(found, name).value == pytest.approx(expected[name], abs=1e-14), name


@given(seeds, st.integers(8, 40), st.integers(1, 45), st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_neither_blocks_nor_the_order_matter_even_where_distances_are_equal(
    seed: int, n: int, block: int, chance: random.Random
) -> None:
    """Samples that are data are at the edges of balls, where rounding would decide."""
    data = _rows(seed, n) + 1e3
    samples = torch.cat([data[: n // 2], _rows(seed + 1, n) + 1e3, data[:3]])
    order = list(range(len(samples)))
    chance.shuffle(order)
    assert _values(manifold(samples[order], data, k=3, block=block)) == _values(manifold(samples, data, k=3))


@pytest.mark.parametrize("offset", [0.0, 3e7])
def test_what_is_at_the_edge_of_a_ball_is_outside(offset: float) -> None:
    data = torch.tensor([[0.0, 0], [3, 4]]).double() + offset  # each with a ball as wide as 5
    at_the_edge = torch.tensor([[-3.0, -4], [6, 8]]).double() + offset
    inside = at_the_edge + torch.tensor([[0.125, 0], [0, 0]]).double()
    assert _values(manifold(at_the_edge, data, k=1)) == [0, 1, 0, 0]
    assert _values(manifold(inside, data, k=1)) == [0.5, 1, 0.5, 0.5]


def test_far_apart_nothing_is_covered_and_of_the_same_set_all_is() -> None:
    data = _rows(0, 50)
    assert _values(manifold(data + 100, data)) == [0, 0, 0, 0]
    same = manifold(data.clone(), data)
    assert _values(same)[:2] == [1, 1]
    # In a ball of its own and in those of which it is one of the k - 1 nearest: k balls, on average.
    assert same.density.value == pytest.approx(1, abs=1e-12)
    assert same.coverage.value == 1


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 5), (30, 60, 3), (60, 25, 1)])
def test_of_one_distribution_density_is_one_and_coverage_the_closed_form(n: int, m: int, k: int) -> None:
    """As Naeem et al. derive: of m + n - 1 others each is as likely to be a nearest one, whatever set it is of."""
    rng = np.random.default_rng(n)
    found = [manifold(*(torch.from_numpy(rng.standard_normal((size, 4))) for size in (n, m)), k=k) for _ in range(80)]
    uncovered = math.prod((m - 1 - i) / (m + n - 1 - i) for i in range(k))
    for name, expected in (("density", 1.0), ("coverage", 1 - uncovered)):
        values = np.array([getattr(each, name).value for each in found])
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values)), name


@pytest.mark.parametrize(("width", "d"), [(1.0, 8), (0.7, 8), (1.0, 2)])
def test_intervals_have_in_them_what_the_figure_is_on_average(width: float, d: int) -> None:
    rng = np.random.default_rng(0)
    found = [
        manifold(
            torch.from_numpy(rng.standard_normal((150, d)) * width),
            torch.from_numpy(rng.standard_normal((200, d))),
            k=3,
        )
        for _ in range(40)
    ]
    for name in NAMES:
        of = [getattr(each, name) for each in found]
        expected = np.mean([each.value for each in of])
        inside = np.mean([each.interval[0] <= expected <= each.interval[1] for each in of])
        assert inside >= 0.8, name
        spread = np.std([each.value for each in of])
        assert 0.7 * spread < math.sqrt(np.mean([each.error**2 for each in of])), name


def test_the_error_of_density_is_the_jackknifes_over_the_data_and_that_of_a_mean_over_the_samples() -> None:
    samples, data, k = _rows(0, 25, 2, 0.8), _rows(1, 30, 2), 3

    def densities(of: Tensor) -> npt.NDArray[np.float64]:
        """Of each sample alone: with one more far away, as there have to be more than k."""
        return np.array(
            [manifold(torch.cat([one[None], samples + 1e3]), of, k=k).density.value * 26 for one in samples]
        )

    each = densities(data)
    whole = manifold(samples, data, k=k).density
    assert whole.value == pytest.approx(each.mean(), rel=1e-12)
    without = [manifold(samples, torch.cat([data[:i], data[i + 1 :]]), k=k).density.value for i in range(30)]
    assert whole.error == pytest.approx(math.sqrt(each.var(ddof=1) / 25 + np.var(without, ddof=1) * 30), rel=1e-9)


def test_an_interval_is_wide_where_all_samples_agree() -> None:
    data = _rows(0, 60)
    precision = manifold(data.clone(), data).precision
    assert precision.value == 1
    assert 0.8 < precision.interval[0] < 0.97
    assert precision.interval[1] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(5, 5), (9, 0), (4, 9)])
def test_a_neighbour_that_there_is_not_is_refused(n: int, k: int) -> None:
    with pytest.raises(InputError, match=rf"Of {n} images none has a neighbour number {k}: take one from 1 to {n - 1}"):
        manifold(_rows(0, n), _rows(1, 20), k=k)
