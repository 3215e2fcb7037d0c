"""IDX files, as MNIST has them: images, the labels beside them, the held-out part; and what is wrong with others."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clearwater import InputError, load_images
from clearwater.data import unseen_split

Bytes = npt.NDArray[np.uint8]


def idx(array: Bytes) -> bytes:
    """The array as the format's description says: two zeros, 8 for unsigned bytes, the number of axes, the axes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def pictures(*shape: int) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder that is laid out as MNIST is, one part of it compressed."""
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures(7, 5, 6))))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([3, 0, 1, 1, 2, 0, 3], np.uint8))))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(pictures(2, 5, 6) // 2))
    return tmp_path


def test_the_folder_gives_the_images_and_the_labels_that_were_written(mnist: Path) -> None:
    found = load_images(mnist, labels=True)
    np.testing.assert_array_equal(found.images[:, 0].numpy(), pictures(7, 5, 6))
    assert found.labels is not None
    assert found.labels.tolist() == [3, 0, 1, 1, 2, 0, 3]
    assert found.classes == ("0", "1", "2", "3")
    held_out = load_images(mnist, split="held_out")
    np.testing.assert_array_equal(held_out.images[:, 0].numpy(), pictures(2, 5, 6) // 2)
    assert held_out.labels is None


def test_a_file_alone_is_read_and_without_being_asked_no_labels_are(mnist: Path) -> None:
    found = load_images(mnist / "train-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(found.images[:, 0].numpy(), pictures(7, 5, 6))
    assert found.labels is None
    assert load_images(mnist / "train-images-idx3-ubyte.gz", labels=True).labels is not None


def test_a_model_is_measured_on_what_was_held_out(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert unseen_split(mnist) == unseen_split("fashion-mini") == "held_out"
    assert unseen_split(tmp_path_factory.mktemp("other")) == "train"
    assert unseen_split(mnist / "t10k-images-idx3-ubyte") == "train"


def test_colours_are_kept_made_and_taken_away(tmp_path: Path) -> None:
    coloured = pictures(3, 5, 6, 3)
    (tmp_path / "images-idx4-ubyte").write_bytes(idx(coloured))
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(coloured[..., 0]))
    found = load_images(tmp_path / "images-idx4-ubyte")
    np.testing.assert_array_equal(found.images.permute(0, 2, 3, 1).numpy(), coloured)
    grey = load_images(tmp_path / "images-idx4-ubyte", channels=1).images[:, 0].double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)  # ITU-R 601, as Pillow's
    assert (grey - torch.from_numpy(coloured).double() @ weights).abs().max() <= 1
    in_three = load_images(tmp_path / "images-idx3-ubyte", channels=3).images
    np.testing.assert_array_equal(in_three.numpy(), np.repeat(coloured[:, None, ..., 0], 3, 1))


def test_other_sizes_are_scaled_and_large_images_have_the_default_size(tmp_path: Path) -> None:
    flat = np.repeat(np.array([10, 200], np.uint8), 80 * 100).reshape(2, 80, 100)
    (tmp_path / "a-idx3-ubyte").write_bytes(idx(flat))
    for size, expected in ((None, (32, 32)), ((16, 20), (16, 20)), ((80, 100), (80, 100))):
        found = load_images(tmp_path / "a-idx3-ubyte", size=size).images
        assert found.shape == (2, 1, *expected)
        assert found.flatten(1).unique(dim=1).tolist() == [[10], [200]]  # even images stay even


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx(pictures(7, 5, 6))[:-1], "has 209 bytes of values where 210 are announced"),
        (idx(pictures(7, 5, 6)) + b"x", "has 211 bytes"),
        (b"\x00\x00\x0d\x03" + bytes(12), "does not begin as an IDX file"),
        (b"\x00\x00", "cannot be read as IDX"),
        (b"", "cannot be read as IDX"),
        (idx(pictures(7)), "holds no images"),
        (idx(pictures(7, 5, 6, 2)), "holds no images"),
        (idx(pictures(0, 5, 6)), "holds no images"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_images(tmp_path / "bad-idx3-ubyte")


def test_a_torn_compressed_file_is_named(mnist: Path) -> None:
    path = mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz' cannot be read as IDX"):
        load_images(mnist)


def test_missing_labels_and_too_few_are_said(mnist: Path) -> None:
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([3, 0], np.uint8))))
    with pytest.raises(InputError, match=r"holds labels of shape \(2,\), but there are 7 images"):
        load_images(mnist, labels=True)
    (mnist / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"no labels beside .* put 'train-labels-idx1-ubyte\.gz' there"):
        load_images(mnist, labels=True)


def test_a_file_that_is_none_of_these_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(InputError, match="is a file of no kind that can be read: give a folder"):
        load_images(tmp_path / "notes.txt")
