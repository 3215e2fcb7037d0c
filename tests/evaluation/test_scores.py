"""The Inception score and the balance of classes, of probabilities whose figures are known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clearwater.errors import InputError
from clearwater.evaluation.scores import class_balance, inception_score, inception_score_of_splits

seeds = st.integers(0, 2**32 - 1)


def _probabilities(seed: int, n: int, classes: int = 6, sure: float = 2.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, classes)) * sure).softmax(1)


# --- the Inception score


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_of_sure_answers_of_all_classes_alike_it_is_their_number(classes: int) -> None:
    found = inception_score(torch.eye(classes).repeat(3, 1))
    assert found.value == pytest.approx(classes, rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-6)
    # Of shares q it is exp H(q).
    shares = torch.arange(1, classes + 1).double() / (classes * (classes + 1) / 2)
    rows = torch.eye(classes).repeat_interleave(torch.arange(1, classes + 1), 0)
    entropy = -float((shares * shares.log()).sum())
    assert inception_score(rows).value == pytest.approx(math.exp(entropy), rel=1e-9)


@given(seeds, st.integers(2, 20))
def test_of_the_same_answer_for_all_it_is_one_and_never_less_nor_more_than_the_classes(seed: int, n: int) -> None:
    p = _probabilities(seed, n)
    assert inception_score(p[:1].expand(n, -1)).value == pytest.approx(1, abs=1e-12)
    assert 1 - 1e-12 <= inception_score(p).value <= 6


@given(seeds, st.floats(0, 1))
def test_of_two_answers_it_is_the_closed_form(seed: int, sure: float) -> None:
    """Half the samples say (s, 1 - s) and half (1 - s, s): exp of log 2 less the entropy of either."""
    p = torch.tensor([[sure, 1 - sure], [1 - sure, sure]], dtype=torch.float64).repeat(5, 1)
    entropy = -sum(q * math.log(q) for q in (sure, 1 - sure) if q > 0)
    assert inception_score(p).value == pytest.approx(2 * math.exp(-entropy), rel=1e-9)


def test_it_is_that_of_torchmetrics() -> None:
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 20)) * 2)

    class Given(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all features in memory, and that one split has no deviation
        metric = inception.InceptionScore(feature=Given(), splits=1)
        metric.update(logits)
        expected = float(metric.compute()[0])
    assert inception_score(logits.softmax(1)).value == pytest.approx(expected, rel=1e-9)
    assert inception_score_of_splits(logits.softmax(1), splits=1).mean == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sure", [0.5, 3.0])
def test_the_error_of_the_score_is_a_bootstraps(sure: float) -> None:
    p = _probabilities(0, 500, sure=sure)
    rng = np.random.default_rng(0)
    drawn = [inception_score(p[rng.integers(500, size=500)]).value for _ in range(300)]
    assert inception_score(p).error == pytest.approx(np.std(drawn), rel=0.15)


def test_splits_are_shuffled_so_samples_in_the_order_of_their_classes_do_not_matter() -> None:
    sorted_ = torch.eye(10).repeat_interleave(100, 0)
    found = inception_score_of_splits(sorted_, splits=10)
    assert 9 < found.mean < 10  # each split alone in the order of the rows has a score of 1
    assert 0 < found.deviation < 0.5
    assert inception_score(sorted_).value == pytest.approx(10)
    whole = inception_score_of_splits(_probabilities(0, 50), splits=50)
    assert (whole.mean, whole.deviation) == pytest.approx((1, 0), abs=1e-12)  # one sample is like itself


def test_what_are_no_probabilities_is_refused() -> None:
    for rows in (torch.ones(5, 3), torch.tensor([[1.5, -0.5], [0.5, 0.5]])):
        with pytest.raises(InputError, match="below 0 or do not add up to 1"):
            inception_score(rows)
    with pytest.raises(InputError, match="5 samples cannot be split into 6"):
        inception_score_of_splits(_probabilities(0, 5), splits=6)
    with pytest.raises(InputError, match="at least 2 images of the samples"):
        inception_score(_probabilities(0, 1))


# --- the balance of classes


def test_it_is_the_share_that_would_have_to_change() -> None:
    samples, data = torch.tensor([0] * 6 + [1] * 2 + [3] * 2), torch.tensor([0, 1, 2, 3] * 5)
    found = class_balance(samples, data, 5)
    assert found.samples.tolist() == pytest.approx([0.6, 0.2, 0, 0.2, 0])
    assert found.data.tolist() == pytest.approx([0.25, 0.25, 0.25, 0.25, 0])
    assert found.apart.value == pytest.approx(0.35)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.lists(st.integers(0, 4), min_size=2, max_size=30))
@settings(max_examples=50)
def test_it_is_a_distance_between_0_and_1_that_copies_do_not_change(a: list[int], b: list[int]) -> None:
    x, y = torch.tensor(a), torch.tensor(b)
    there, back = class_balance(x, y, 5).apart.value, class_balance(y, x, 5).apart.value
    assert 0 <= there == pytest.approx(back, abs=1e-14)
    assert there <= 1 + 1e-14
    assert class_balance(x, x.flip(0), 5).apart.value == 0
    assert class_balance(x.repeat(3), y, 5).apart.value == pytest.approx(there, abs=1e-14)
    assert class_balance(x, y + 5, 10).apart.value == pytest.approx(1)


def test_of_equal_shares_it_is_above_zero_by_the_closed_form_and_its_error_covers_it() -> None:
    rng = np.random.default_rng(0)
    n, classes = 500, 10
    found = [class_balance(*torch.from_numpy(rng.integers(classes, size=(2, n))), classes).apart for _ in range(300)]
    values = np.array([each.value for each in found])
    assert values.mean() == pytest.approx(math.sqrt(classes / (math.pi * n)), rel=0.1)
    assert np.mean([each.error for each in found]) > values.std()


def test_the_error_of_the_balance_is_what_it_varies_by_where_shares_differ() -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.2, 0.1, 0.1, 0.1])
    found = [
        class_balance(
            torch.from_numpy(rng.choice(5, 400, p=shares)), torch.from_numpy(rng.integers(5, size=600)), 5
        ).apart
        for _ in range(300)
    ]
    spread = np.std([each.value for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.15)


def test_labels_beyond_the_classes_are_refused() -> None:
    with pytest.raises(InputError, match="A label of the samples is 3, but there are 3 classes"):
        class_balance(torch.tensor([0, 3]), torch.tensor([0, 1]), 3)
    with pytest.raises(InputError, match="A label of the data is -1"):
        class_balance(torch.tensor([0, 1]), torch.tensor([0, -1]), 3)
