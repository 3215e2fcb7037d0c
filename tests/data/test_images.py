"""The built-in images, and what `load_images` refuses."""

from __future__ import annotations

from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater.data import BUILT_IN, ImageSet, load_images
from clearwater.errors import InputError


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_images(BUILT_IN)


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return load_images(BUILT_IN, split="held_out")


@pytest.mark.parametrize(("split", "per_class"), [("train", 900), ("held_out", 100)])
def test_each_part_has_as_many_images_of_each_class(split: Literal["train", "held_out"], per_class: int) -> None:
    part = load_images(BUILT_IN, split=split)
    assert part.labels is not None
    assert part.labels.dtype == torch.int64
    assert torch.bincount(part.labels).tolist() == [per_class] * 10
    assert part.images.dtype == torch.uint8
    assert part.images.shape == (10 * per_class, 1, 28, 28)
    assert part.shape == (1, 28, 28)
    assert part.skipped == ()


def test_the_parts_share_no_image(train: ImageSet, held_out: ImageSet) -> None:
    of_train = {image.tobytes() for image in train.images.numpy()}
    assert not of_train & {image.tobytes() for image in held_out.images.numpy()}


def test_the_labels_tell_the_images_apart(train: ImageSet, held_out: ImageSet) -> None:
    # The nearest class mean of the one part names most of the other; a shuffled label column names a tenth.
    assert train.labels is not None
    assert held_out.labels is not None
    flat, held = train.images.flatten(1).double(), held_out.images.flatten(1).double()
    means = torch.stack([flat[train.labels == label].mean(0) for label in range(10)])
    accuracy = (torch.cdist(held, means).argmin(1) == held_out.labels).double().mean()
    assert accuracy > 0.5


def test_three_channels_are_the_grey_three_times(train: ImageSet) -> None:
    colour = load_images(BUILT_IN, channels=3)
    assert colour.shape == (3, 28, 28)
    assert all(torch.equal(colour.images[:, [channel]], train.images) for channel in range(3))
    assert colour.labels is not None
    assert torch.equal(colour.labels, train.labels)


def test_another_square_size_is_pillows_antialiased_resize(held_out: ImageSet) -> None:
    resized = load_images(BUILT_IN, size=(14, 14), split="held_out")
    assert resized.shape == (1, 14, 14)
    for before, after in zip(held_out.images[:50, 0].numpy(), resized.images[:50, 0].numpy(), strict=True):
        np.testing.assert_array_equal(after, Image.fromarray(before).resize((14, 14), Image.Resampling.LANCZOS))


def test_a_narrower_size_is_the_middle_of_the_images(held_out: ImageSet) -> None:
    wide = load_images(BUILT_IN, size=(14, 28), split="held_out")
    tall = load_images(BUILT_IN, size=(28, 20), split="held_out")
    assert torch.equal(wide.images, held_out.images[:, :, 7:21])
    assert torch.equal(tall.images, held_out.images[:, :, :, 4:24])


def test_the_file_is_smaller_than_5_megabytes_and_its_licence_ships() -> None:
    folder = files("clearwater.data")
    assert len((folder / "fashion-mini.npz").read_bytes()) < 5_000_000
    licence = (folder / "fashion-mini.LICENSE").read_text()
    assert "MIT License" in licence
    assert "Zalando" in licence
    assert any("fashion-mini.LICENSE" in name for name in metadata("clearwater").get_all("License-File", []))


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(InputError, match=f"not {channels}"):
        load_images(BUILT_IN, channels=channels)


@pytest.mark.parametrize("size", [(0, 28), (28, 0), (-1, 28)])
def test_a_size_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"not {size[0]} × {size[1]}"):
        load_images(BUILT_IN, size=size)


def test_a_folder_has_no_held_out_part(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=BUILT_IN):
        load_images(str(tmp_path), split="held_out")


def test_a_path_that_does_not_exist_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none' does not exist"):
        load_images(str(tmp_path / "none"))


def test_a_file_is_refused_where_a_folder_is_meant(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png' is a file"):
        load_images(str(tmp_path / "a.png"))
