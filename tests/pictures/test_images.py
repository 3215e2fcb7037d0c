"""Tensors as images: exact values, exact places."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clearwater.pictures import enlarged, grid, to_uint8
from clearwater.pictures.images import to_image


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_uint8_is_the_inverse_of_2_p_over_255_minus_1_for_every_value(dtype: torch.dtype) -> None:
    pixels = torch.arange(256)
    x = (2 * pixels.double() / 255 - 1).to(dtype)
    assert to_uint8(x).tolist() == pixels.tolist()
    assert to_uint8(x).dtype == torch.uint8


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_to_uint8_rounds_to_the_nearest_value(pixel: int, off: float) -> None:
    x = torch.tensor(2 * (pixel + off) / 255 - 1, dtype=torch.float64)
    assert int(to_uint8(x)) == pixel


def test_to_uint8_clips_what_lies_outside() -> None:
    x = torch.tensor([-math.inf, -1e9, -1.1, -1.0, 1.0, 1.1, 1e9, math.inf])
    assert to_uint8(x).tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


def test_to_uint8_takes_what_is_being_trained() -> None:
    x = torch.zeros(2, requires_grad=True)
    assert to_uint8(x * 2).tolist() == [128, 128]  # 127.5 to even


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_has_the_tensors_pixels(channels: int) -> None:
    x = _random(channels, 5, 7)
    image = to_image(x)
    assert (image.mode, image.size) == ("L" if channels == 1 else "RGB", (7, 5))
    for row in range(5):
        for column in range(7):
            value = x[:, row, column].tolist()
            assert image.getpixel((column, row)) == (value[0] if channels == 1 else tuple(value))


@given(
    n=st.integers(1, 12),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    columns=st.one_of(st.none(), st.integers(1, 14)),
    gap=st.integers(0, 3),
)
def test_a_grid_places_every_image_and_the_rest_is_white(
    n: int, channels: int, height: int, width: int, columns: int | None, gap: int
) -> None:
    images = _random(n, channels, height, width)
    across = columns or math.ceil(math.sqrt(n))
    down = math.ceil(n / across)
    expected = np.full((down * height + (down + 1) * gap, across * width + (across + 1) * gap, channels), 255, np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = gap + (i // across) * (height + gap), gap + (i % across) * (width + gap)
        expected[top : top + height, left : left + width] = image
    sheet = np.asarray(grid(images, columns, gap))
    np.testing.assert_array_equal(sheet.reshape(expected.shape), expected)


def test_a_grid_leaves_its_images_as_they_are() -> None:
    images = _random(4, 3, 2, 2)
    before = images.clone()
    grid(images)
    assert torch.equal(images, before)


@given(width=st.integers(1, 50), height=st.integers(1, 50), longest=st.integers(1, 120))
def test_enlarged_repeats_each_pixel_a_whole_number_of_times(width: int, height: int, longest: int) -> None:
    pixels = _random(height, width).numpy()
    factor = max(1, longest // max(width, height))
    seen = np.asarray(enlarged(Image.fromarray(pixels), longest))
    np.testing.assert_array_equal(seen, np.kron(pixels, np.ones((factor, factor), np.uint8)))


def test_enlarged_keeps_colours() -> None:
    pixels = _random(4, 6, 3).numpy()
    seen = np.asarray(enlarged(Image.fromarray(pixels), 18))
    np.testing.assert_array_equal(seen, pixels.repeat(3, 0).repeat(3, 1))
