"""Images as rows of numbers, wherever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from clearwater.data import ImageSet
from clearwater.evaluation.memorisation import nearest_training
from clearwater.evaluation.pixels import PixelRows, size_of, taken


def _images(n: int, channels: int = 1, side: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(n).integers(256, size=(n, channels, side, side)).astype(np.uint8))


@pytest.mark.parametrize("index", [slice(2, 5), slice(3, 99), torch.tensor([4, 0, 4])], ids=["few", "end", "numbers"])
def test_images_are_taken_from_a_tensor_and_by_number_alike(index: slice | Tensor) -> None:
    images = _images(6, 3)
    assert size_of(images) == size_of(ImageSet(images)) == (3, 4, 4)
    for of in (images, ImageSet(images)):
        assert torch.equal(taken(of, index), images[index])
        assert torch.equal(PixelRows(of)[index], images[index].flatten(1).float())


def test_of_large_images_the_rows_are_means_of_areas() -> None:
    images = _images(5, 3, 8)
    rows = PixelRows(images, side=4)
    assert rows.shape == (5, 3 * 4 * 4)
    expected = images.double().reshape(5, 3, 4, 2, 4, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(rows[:].double(), expected, rtol=0, atol=1e-4)
    wide = PixelRows(images[:, :, :2], side=4)  # each side by itself
    assert wide.shape == (5, 3 * 2 * 4)
    torch.testing.assert_close(wide[:].double(), images[:, :, :2].double().reshape(5, 3, 2, 4, 2).mean(4).flatten(1))


@pytest.mark.parametrize("index", [slice(1, 5), torch.tensor([4, 0, 4])], ids=["in order", "numbers"])
def test_large_images_are_read_a_few_at_a_time(index: slice | Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    images, expected = _images(6, 3, 8), PixelRows(_images(6, 3, 8), side=4)[index]
    read: list[int] = []

    class Counted(ImageSet):
        def take(self, index: Tensor) -> Tensor:
            read.append(len(index))
            return super().take(index)

    monkeypatch.setattr("clearwater.evaluation.pixels._AT_ONCE", 2 * 3 * 8 * 8)
    assert torch.equal(PixelRows(Counted(images), side=4)[index], expected)
    assert max(read) == 2
    assert sum(read) == len(expected)


def test_the_nearest_in_pixels_is_that_of_flat_images_whatever_the_block() -> None:
    samples, training = _images(7), _images(30)
    expected = nearest_training(samples.flatten(1), training.flatten(1))
    found = nearest_training(PixelRows(ImageSet(samples)), PixelRows(training), block=4)
    assert torch.equal(found.distance, expected.distance)
    assert torch.equal(found.index, expected.index)
