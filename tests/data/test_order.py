"""An order that is computed: a permutation for every number and seed, and as mixed as one drawn at random."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.data import Batches, ImageSet, batches
from clearwater.data.order import permuted
from clearwater.errors import InputError


@given(st.integers(1, 3000), st.integers(0, 2**60))
@settings(max_examples=60)
def test_it_is_a_permutation(n: int, seed: int) -> None:
    assert sorted(permuted(torch.arange(n), n, seed).tolist()) == list(range(n))


@given(st.integers(10**6, 2**62), st.integers(0, 2**60))
@settings(max_examples=60)
def test_of_many_numbers_a_part_alone_is_in_its_range_and_without_repeats(n: int, seed: int) -> None:
    index = torch.arange(n - 1000, n)
    found = permuted(index, n, seed)
    assert int(found.min()) >= 0
    assert int(found.max()) < n
    assert len(found.unique()) == 1000
    assert torch.equal(permuted(index[10:20], n, seed), found[10:20])


def test_places_are_uniform_and_neighbours_have_nothing_to_do_with_each_other() -> None:
    n = 100_003
    found = permuted(torch.arange(n), n, 5).double() / n
    counts, _ = np.histogram(found[: n // 3].numpy(), 50, (0, 1))
    expected = n // 3 / 50
    assert float(((counts - expected) ** 2 / expected).sum()) < 95  # chi-squared of 49, one in ten thousand
    for step in (1, 2, 17, 256):
        correlation = float(torch.corrcoef(torch.stack([found[:-step], found[step:]]))[0, 1])
        assert abs(correlation) < 5 / math.sqrt(n)


def test_other_seeds_are_other_orders() -> None:
    n = 5000
    a, b = (permuted(torch.arange(n), n, seed) for seed in (1, 2))
    assert int((a == b).sum()) < 10  # one in the mean


@pytest.mark.parametrize("n", [0, -1, 2**62 + 1])
def test_what_is_no_number_of_images_is_refused(n: int) -> None:
    with pytest.raises(InputError, match="1 to 2\\^62"):
        permuted(torch.arange(1), n, 0)


def test_epochs_of_many_images_have_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_LISTED", 4)
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    made = Batches(ImageSet(images), 4, seed=0, flip=False, device="cpu")
    seen = torch.cat([((made(step) + 1) * 127.5).round().flatten() for step in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
