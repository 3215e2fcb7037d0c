"""Pillow images, and pairs of one and a number, as torchvision's datasets are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater.data import default_cache, load_images, stream_images
from clearwater.errors import InputError


def _pictures(n: int = 4, *, seed: int = 0) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 6, 5, 3), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def test_a_list_of_images_is_read_and_left_as_it_was() -> None:
    pictures = _pictures()
    for cache in (None, default_cache(), default_cache()):
        found = load_images(pictures, cache=cache)
        np.testing.assert_array_equal(found.images.permute(0, 2, 3, 1), [np.asarray(one) for one in pictures])
        assert found.labels is None


@pytest.mark.parametrize("number", [int, np.int64, torch.tensor], ids=["int", "numpy", "torch"])
def test_numbers_without_names_are_classes_where_they_occur(number: Any) -> None:
    pairs = [(picture, number(i)) for picture, i in zip(_pictures(), (10, 9, 9, 10), strict=True)]
    found = load_images(pairs, labels=True)
    assert found.classes == ("9", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 0, 1]


def test_the_cache_knows_other_pixels_by_them() -> None:
    first, second = (
        load_images(_pictures(), cache=default_cache()),
        load_images(_pictures(seed=1), cache=default_cache()),
    )
    again = load_images(_pictures(), cache=default_cache())
    assert first.digest() == again.digest() != second.digest()
    palette, other = (Image.new("P", (4, 4)) for _ in range(2))
    palette.putpalette([1, 2, 3])
    other.putpalette([3, 2, 1])
    colours = [load_images([one], cache=default_cache()).images[0, :, 0, 0].tolist() for one in (palette, other)]
    assert colours == [[1, 2, 3], [3, 2, 1]]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "There is no image in an empty list"),
        ([np.zeros((4, 4))], "Item 0 holds a ndarray, and only Pillow images"),
        ([(_pictures()[0], 1), (torch.zeros(3, 4, 4), 1)], r"Item 1 holds a Tensor.*leave transform=ToTensor\(\) out"),
        ([{"image": 1}], "Item 0 holds a dict"),
        ([(_pictures()[0], "cat")], "The class of item 0 is a str"),
    ],
)
@pytest.mark.parametrize("given", [None, (4, 4)])
def test_other_items_are_refused(items: list[Any], said: str, given: tuple[int, int] | None) -> None:
    with pytest.raises(InputError, match=said):
        load_images(items, size=given, channels=given and 3)
    with pytest.raises(InputError, match=said):
        load_images(items, cache=default_cache())


def test_images_without_numbers_have_no_classes_and_numbers_need_names() -> None:
    with pytest.raises(InputError, match=r"Image 1 of a list of 2 has no class"):
        load_images([(_pictures()[0], 1), _pictures()[1]], labels=True)

    class Named(list[tuple[Image.Image, int]]):
        classes = ("a", "b")

    with pytest.raises(InputError, match="has images of class 2, and names for 2 classes"):
        load_images(Named([(_pictures()[0], 2)]), labels=True)
    assert load_images(Named([(_pictures()[0], 1)]), labels=True).classes == ("a", "b")


def test_it_can_be_streamed() -> None:
    pictures = _pictures()
    streamed = stream_images(pictures)
    assert torch.equal(streamed.take(torch.tensor([3, 1])), load_images(pictures).images[[3, 1]])
