"""Batches are a function of the step: whole epochs, exact values, fair flips."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.data import Batches, ImageSet
from clearwater.errors import InputError


def _numbered(n: int) -> ImageSet:
    """Images of 1 x 2 pixels that say their own number, and to their right its complement."""
    number = torch.arange(n, dtype=torch.uint8)
    return ImageSet(torch.stack([number, 255 - number], -1)[:, None, None])


def _batches(n: int, batch: int, *, seed: int = 0, flip: bool = False) -> Batches:
    return Batches(_numbered(n), batch, seed=seed, flip=flip, device="cpu")


def _pixels(x: torch.Tensor) -> torch.Tensor:
    return ((x.double() + 1) * 127.5).round().long()[:, 0, 0]


def _numbers(x: torch.Tensor) -> list[int]:
    """Which images these are, mirrored or not; for fewer than 128 images."""
    return _pixels(x).amin(-1).tolist()


@given(n=st.integers(1, 40), batch=st.integers(1, 100), seed=st.integers(0, 2**40), flip=st.booleans())
def test_every_epoch_visits_every_image_once_whatever_the_batch(n: int, batch: int, seed: int, flip: bool) -> None:
    batches = _batches(n, batch, seed=seed, flip=flip)
    epochs = 3
    visited: list[int] = []
    for step in range(math.ceil(epochs * n / batch)):
        x = batches(step)
        assert x.shape == (batch, 1, 1, 2)
        visited += _numbers(x)
    for epoch in range(epochs):
        assert sorted(visited[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(
    n=st.integers(1, 40),
    batch=st.integers(1, 60),
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    flip=st.booleans(),
)
def test_a_batch_does_not_depend_on_the_others_that_were_asked_for(
    n: int, batch: int, steps: list[int], flip: bool
) -> None:
    shared = _batches(n, batch, flip=flip)
    for step in steps:
        assert torch.equal(shared(step), _batches(n, batch, flip=flip)(step))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    # Two orders of 100 images are equal once in 100! times.
    first = _batches(100, 100)
    orders = [tuple(_numbers(first(0))), tuple(_numbers(first(1))), tuple(_numbers(_batches(100, 100, seed=1)(0)))]
    assert len(set(orders)) == 3
    assert tuple(range(100)) not in orders


def test_the_order_is_fair() -> None:
    # The image that comes first, over 2,000 epochs of 4 images: 500 each, within 5 standard deviations.
    batches = _batches(4, 4)
    first = torch.tensor([_numbers(batches(epoch))[0] for epoch in range(2000)])
    deviation = math.sqrt(2000 * 0.25 * 0.75)
    assert (torch.bincount(first, minlength=4) - 500).abs().max() < 5 * deviation


def test_values_are_2_p_over_255_minus_1() -> None:
    data = ImageSet(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16))
    x = Batches(data, 1, seed=0, flip=False, device="cpu")(0)
    assert x.dtype == torch.float32
    exact = 2 * torch.arange(256, dtype=torch.float64).reshape(16, 16) / 255 - 1
    assert (x[0, 0] - exact).abs().max() <= torch.finfo(torch.float32).eps
    assert float(x.min()) == -1
    assert float(x.max()) == 1


def test_half_of_the_images_are_mirrored_left_to_right_and_nothing_else_is_done_to_them() -> None:
    picture = torch.arange(12, dtype=torch.uint8).reshape(1, 1, 3, 4)
    batches = Batches(ImageSet(picture), 1000, seed=0, flip=True, device="cpu")
    mirrored = 0
    for step in range(4):
        seen = ((batches(step) + 1) * 127.5).round().to(torch.uint8)
        is_mirrored = (seen == picture.flip(-1)).flatten(1).all(1)
        assert ((seen == picture).flatten(1).all(1) ^ is_mirrored).all()
        mirrored += int(is_mirrored.sum())
    assert abs(mirrored - 2000) < 5 * math.sqrt(4000 / 4)


def test_every_step_flips_a_coin_of_its_own_for_every_image() -> None:
    # One picture, so that the order is no matter: two steps agree on about half of their 1,000 coins.
    picture = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
    batches = Batches(ImageSet(picture), 1000, seed=0, flip=True, device="cpu")
    coins = [batches(step)[:, 0, 0, 0] > 0 for step in range(6)]
    for first in range(6):
        for second in range(first):
            agreed = int((coins[first] == coins[second]).sum())
            assert abs(agreed - 500) < 5 * math.sqrt(1000 / 4)


def test_whether_an_image_is_mirrored_changes_from_epoch_to_epoch() -> None:
    batches = _batches(50, 50, flip=True)
    mirrored = torch.zeros(50, dtype=torch.int64)
    epochs = 40
    for epoch in range(epochs):
        pixels = _pixels(batches(epoch))
        mirrored[pixels.amin(-1)] += (pixels[:, 0] > pixels[:, 1]).long()
    # Each image is mirrored in about half of the epochs; never or always has probability 50 · 2⁻³⁹.
    assert int(mirrored.min()) > 0
    assert int(mirrored.max()) < epochs


def test_flips_do_not_change_the_order() -> None:
    plain, flipped = _batches(20, 8), _batches(20, 8, flip=True)
    assert [_numbers(plain(step)) for step in range(6)] == [_numbers(flipped(step)) for step in range(6)]


def test_without_flips_nothing_is_mirrored() -> None:
    pixels = _pixels(_batches(100, 1000)(0))
    assert (pixels[:, 0] < pixels[:, 1]).all()


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_without_images_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match=f"not {batch}"):
        _batches(4, batch)
