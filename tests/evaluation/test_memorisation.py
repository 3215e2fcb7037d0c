"""Memorisation: models that copy and models that do not are told apart, by statistics that scipy knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.cells import cells_of
from clearwater.evaluation.memorisation import Nearest, closer_than_held_out, copies, copying_score, nearest_training

seeds = st.integers(0, 2**32 - 1)


def _rows(rng: np.random.Generator, n: int, d: int = 8, width: float = 1.0) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)) * width)


def _of(distances: list[float]) -> Nearest:
    return Nearest(torch.tensor(distances, dtype=torch.float64), torch.zeros(len(distances), dtype=torch.int64))


# --- the nearest training image


@given(seeds, st.integers(1, 10), st.integers(3, 20), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=30)
def test_the_nearest_is_that_of_all_pairs(seed: int, n: int, m: int, relative_to: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    images, training = _rows(rng, n, 2), _rows(rng, m, 2)
    found = nearest_training(images, training, relative_to=relative_to, block=block)
    for i, image in enumerate(images):
        distances = [math.dist(image.tolist(), other.tolist()) for other in training]
        farther = sorted(distances)[relative_to - 1] if relative_to > 1 else 1
        assert float(found.distance[i]) == pytest.approx(min(distances) / farther, rel=1e-12)
        assert int(found.index[i]) == int(np.argmin(distances))


def test_pixels_may_be_given_as_they_are_and_a_copy_is_at_no_distance_whatever_else_is() -> None:
    training = torch.tensor([[0, 10], [3, 14], [3, 14], [255, 0]], dtype=torch.uint8)
    images = torch.tensor([[3, 14], [0, 10], [6, 18]], dtype=torch.uint8)
    assert nearest_training(images, training).distance.tolist() == [0, 0, 5]
    # Of two equal training images the copy still is one.
    assert nearest_training(images, training, relative_to=2).distance.tolist() == [0, 0, 1]


# --- the statistics


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.lists(st.integers(0, 9), min_size=2, max_size=30))
@settings(max_examples=60)
def test_the_score_is_scipys_rank_sum_with_its_ties(ours: list[int], theirs: list[int]) -> None:
    samples, held_out = _of([float(d) for d in ours]), _of([float(d) for d in theirs])
    if len({*ours, *theirs}) == 1:
        assert copying_score(samples, held_out).value == 0
        return
    u = stats.mannwhitneyu(ours, theirs, alternative="less", method="asymptotic", use_continuity=False)
    assert copying_score(samples, held_out).value == pytest.approx(stats.norm.ppf(u.pvalue), rel=1e-6, abs=1e-9)
    assert closer_than_held_out(samples, held_out).value == pytest.approx(1 - u.statistic / (len(ours) * len(theirs)))


@pytest.mark.parametrize("width", [0.7, 1.0, 1.4])
def test_errors_are_what_new_samples_and_new_held_out_images_change(width: float) -> None:
    rng = np.random.default_rng(0)
    training = _rows(rng, 300)
    found = []
    for _ in range(150):
        samples, held_out = (nearest_training(_rows(rng, n, width=w), training) for n, w in ((200, width), (150, 1)))
        found.append((closer_than_held_out(samples, held_out), copying_score(samples, held_out)))
    for of in zip(*found, strict=True):
        spread = np.std([each.value for each in of])
        assert math.sqrt(np.mean([each.error**2 for each in of])) == pytest.approx(spread, rel=0.2)
        inside = [each.interval[0] <= np.mean([e.value for e in of]) <= each.interval[1] for each in of]
        assert np.mean(inside) > 0.88


def test_the_share_of_copies_is_counted_below_the_nearest_held_out_images() -> None:
    held_out = _of([float(d) for d in range(1, 101)])
    samples = _of([0.5] * 30 + [1.5] * 20 + [50.0] * 50)
    assert copies(samples, held_out, quantile=0.005).value == 0.3  # nearer than all
    assert copies(samples, held_out, quantile=0.015).value == 0.5
    found = copies(samples, held_out)
    assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_the_error_of_the_share_has_that_of_the_limit_in_it(width: float) -> None:
    rng = np.random.default_rng(0)
    training = _rows(rng, 400, 4)
    found = [
        copies(*(nearest_training(_rows(rng, n, 4, w), training) for n, w in ((300, width), (199, 1))), quantile=0.05)
        for _ in range(150)
    ]
    values, errors = (np.array(each) for each in zip(*((of.value, of.error) for of in found), strict=True))
    assert math.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.25)


# --- models


@pytest.mark.parametrize("d", [2, 8, 64])
def test_new_samples_are_not_taken_for_copies_more_often_than_chance_says(d: int) -> None:
    rng = np.random.default_rng(d)
    scores, shares, inside = [], [], []
    for _ in range(100):
        training = _rows(rng, 150, d)
        for relative_to in (1, 2):
            samples, held_out = (
                nearest_training(_rows(rng, n, d), training, relative_to=relative_to) for n in (100, 200)
            )
            scores.append(copying_score(samples, held_out).value)
            share = copies(samples, held_out, quantile=0.05)
            shares.append(share.value)
            inside.append(share.interval[0] <= 0.05 <= share.interval[1])
    # 200 standard normal numbers: their mean, their deviation, and how many are beyond the usual limits.
    assert abs(np.mean(scores)) < 4 / math.sqrt(200)
    assert 0.8 < np.std(scores) < 1.2
    assert np.mean(np.array(scores) < -1.645) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    assert min(scores) > -4.5
    assert np.mean(shares) == pytest.approx(0.05, abs=4 * np.std(shares) / math.sqrt(200))
    assert np.mean(inside) > 0.88


@pytest.mark.parametrize("relative_to", [1, 2])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.2])
def test_training_images_with_a_little_noise_are_caught(noise: float, relative_to: int) -> None:
    rng = np.random.default_rng(0)
    training = _rows(rng, 300)
    drawn = training[torch.from_numpy(rng.integers(300, size=200))] + noise * _rows(rng, 200)
    samples, held_out = (nearest_training(of, training, relative_to=relative_to) for of in (drawn, _rows(rng, 100)))
    score = copying_score(samples, held_out)
    assert score.value < -10
    assert score.interval[1] < -8
    assert closer_than_held_out(samples, held_out).interval[0] > 0.9
    assert copies(samples, held_out).value > 0.8


def test_a_few_copies_among_new_samples_are_caught_by_their_share() -> None:
    rng = np.random.default_rng(0)
    training = _rows(rng, 500)
    drawn = torch.cat([_rows(rng, 1900), training[:100] + 0.01 * _rows(rng, 100)])
    samples, held_out = (nearest_training(of, training, relative_to=2) for of in (drawn, _rows(rng, 1000)))
    found = copies(samples, held_out)
    assert 0.05 <= found.value < 0.08
    assert found.interval[0] > 0.01
    assert closer_than_held_out(samples, held_out).value < 0.56  # too few to move it


def test_samples_far_from_all_training_images_have_a_score_far_above_zero() -> None:
    rng = np.random.default_rng(0)
    training = _rows(rng, 300)
    samples, held_out = (nearest_training(of, training) for of in (_rows(rng, 200, width=1.5), _rows(rng, 200)))
    assert copying_score(samples, held_out).value > 8
    assert closer_than_held_out(samples, held_out).value < 0.3
    assert copies(samples, held_out).value < 0.01


def test_samples_that_are_too_much_alike_are_told_from_copies_by_relative_distances() -> None:
    rng = np.random.default_rng(0)
    training, drawn, real = _rows(rng, 2000, 32), _rows(rng, 1000, 32, width=0.8), _rows(rng, 1000, 32)
    absolute = [nearest_training(of, training) for of in (drawn, real)]
    relative = [nearest_training(of, training, relative_to=2) for of in (drawn, real)]
    assert copying_score(*absolute).value < -20
    assert abs(copying_score(*relative).value) < 4
    assert copies(*absolute).interval[0] > 0.03
    assert copies(*relative).interval[0] < 0.01


# --- cells


def _two_kinds(rng: np.random.Generator, dense: int, wide: int) -> Tensor:
    """Of a kind whose images lie close together, and of one whose images do not."""
    return torch.cat([_rows(rng, dense, 3, 0.1), _rows(rng, wide, 3) + 20])


def test_more_samples_of_a_dense_kind_are_no_copies_in_its_cell() -> None:
    rng = np.random.default_rng(0)
    training = _two_kinds(rng, 400, 400)
    samples, held_out = (nearest_training(_two_kinds(rng, *sizes), training) for sizes in ((450, 50), (150, 150)))
    assert copying_score(samples, held_out).value < -8
    classes = torch.arange(2).repeat_interleave(400)
    in_cells = copying_score(samples, held_out, cells=classes)
    assert abs(in_cells.value) < 3
    # Which is the mean of the scores of each kind, weighted with its share of the held-out images.
    of_kinds = [
        copying_score(*(of[(of.index >= 400) == bool(kind)] for of in (samples, held_out))).value for kind in (0, 1)
    ]
    assert in_cells.value == pytest.approx(np.mean(of_kinds), rel=1e-9)
    found = cells_of(training, 2)
    assert copying_score(samples, held_out, cells=found).value == pytest.approx(in_cells.value, rel=1e-9)


def test_a_cell_of_few_samples_is_left_out_and_if_there_is_no_other_the_score_is_refused() -> None:
    rng = np.random.default_rng(0)
    training = _two_kinds(rng, 100, 100)
    classes = torch.arange(2).repeat_interleave(100)
    samples, held_out = (nearest_training(_two_kinds(rng, *sizes), training) for sizes in ((30, 19), (20, 20)))
    of_dense = copying_score(*(of[of.index < 100] for of in (samples, held_out)))
    assert copying_score(samples, held_out, cells=classes).value == pytest.approx(of_dense.value)
    with pytest.raises(InputError, match="No cell has 20 samples and 2 held-out images, of 19 and 20"):
        copying_score(samples[samples.index >= 100], held_out[held_out.index >= 100], cells=classes)


@given(seeds, st.integers(1, 6), st.integers(1, 30))
@settings(max_examples=20)
def test_cells_are_the_clusters_where_there_are_such(seed: int, clusters: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    of = torch.from_numpy(rng.permutation(np.arange(clusters).repeat(8)))
    training = _rows(rng, len(of), 2, 0.01) + 10 * of[:, None]
    cells = cells_of(training, clusters, seed=seed % 100, block=block)
    pairs = set(zip(of.tolist(), cells.tolist(), strict=True))
    assert len(pairs) == len({cell for _, cell in pairs}) == clusters


def test_each_image_ends_in_the_cell_whose_mean_is_nearest() -> None:
    training = _rows(np.random.default_rng(0), 300, 2)
    cells = cells_of(training, 7, rounds=1000)
    means = torch.stack([training[cells == i].mean(0) for i in range(7)])
    assert torch.equal(torch.cdist(training, means).argmin(1), cells)


# --- refusals


def test_what_cannot_be_told_is_refused() -> None:
    rng = np.random.default_rng(0)
    rows = _rows(rng, 5)
    for call in (copying_score, closer_than_held_out, copies):
        with pytest.raises(InputError, match="at least two of them and two held-out images, not 1 and 2"):
            call(_of([1.0]), _of([1.0, 2.0]))
    with pytest.raises(InputError, match="no nearest image number 6 of 5"):
        nearest_training(rows, rows, relative_to=6)
    with pytest.raises(InputError, match="take both from one extractor"):
        nearest_training(rows, _rows(rng, 5, 3))
    with pytest.raises(InputError, match="share of 0 of the held-out"):
        copies(_of([1.0, 2.0]), _of([1.0, 2.0]), quantile=0)
    with pytest.raises(InputError, match="5 training images cannot be divided into 6"):
        cells_of(rows, 6)
