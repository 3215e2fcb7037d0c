""".npy and .npz files: which axis is which, what is mapped and what is read, and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis.extra import numpy as arrays

from clearwater.data import default_cache, load_images, stream_images
from clearwater.data.arrays import _as_images
from clearwater.errors import InputError

Bytes = npt.NDArray[np.uint8]


def pictures(*shape: int) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("shape", "to_first"),
    [
        ((5, 6, 7), None),
        ((5, 6, 7, 1), (0, 3, 1, 2)),
        ((5, 6, 7, 3), (0, 3, 1, 2)),
        ((5, 1, 6, 7), (0, 1, 2, 3)),
        ((5, 3, 6, 7), (0, 1, 2, 3)),
        ((3, 3, 1, 2), (0, 1, 2, 3)),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_the_channels_are_found_where_they_stand(
    tmp_path: Path, shape: tuple[int, ...], to_first: tuple[int, ...] | None, ending: str
) -> None:
    stored = pictures(*shape)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", stored)
    found = load_images(tmp_path / f"a.{ending}")
    expected = stored[:, None] if to_first is None else stored.transpose(to_first)
    np.testing.assert_array_equal(found.images.numpy(), expected)
    index = torch.tensor([len(stored) - 1, 0, 0])
    np.testing.assert_array_equal(found.take(index).numpy(), expected[[-1, 0, 0]])
    assert found.take(index).is_contiguous()
    assert len(found) == len(stored)


@given(arrays.array_shapes(min_dims=1, max_dims=5, max_side=6, min_side=0))
def test_any_shape_is_either_images_or_refused(shape: tuple[int, ...]) -> None:
    first, last = (len(shape) == 4 and shape[axis] in (1, 3) for axis in (1, 3))
    possible = 0 not in shape and (len(shape) == 3 or first != last)
    if possible:
        N, C, H, W = _as_images("a", np.zeros(shape, np.uint8)).shape
        assert C in (1, 3)
        assert (shape[0], int(np.prod(shape[1:]))) == (N, H * W * C)
    else:
        with pytest.raises(InputError, match=r"give uint8 images of shape \(N, H, W\)"):
            _as_images("a", np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (pictures(5, 3, 6, 3), r"an array of shape \(5, 3, 6, 3\), whose channels may stand first or last"),
        (pictures(5, 6, 7, 4), "whose channels may stand nowhere"),
        (pictures(5, 6), r"an array of shape \(5, 6\)"),
        (pictures(0, 6, 7), r"an array of shape \(0, 6, 7\)"),
        (pictures(5, 6, 7) / 255, "values of type float64"),
        (pictures(5, 6, 7).astype(np.int64), "values of type int64"),
        (np.array([None] * 5), "Object arrays|Python objects"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_other_arrays_are_refused(tmp_path: Path, stored: npt.NDArray[np.generic], said: str, ending: str) -> None:
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", images=stored)
    with pytest.raises(InputError, match=said) as refused:
        load_images(tmp_path / f"a.{ending}")
    assert f"'{tmp_path / f'a.{ending}'}'" in str(refused.value)


@pytest.mark.parametrize("cut", [7, 60, 200])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    np.save(tmp_path / "a.npy", pictures(5, 6, 7))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"a\.npy' cannot be read as \.npy: "):
        load_images(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(50, 3, 6, 7), (50, 6, 7, 3), (50, 6, 7)])
def test_a_npy_file_is_mapped_and_not_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", pictures(*shape))
    found = load_images(tmp_path / "a.npy", cache=default_cache())
    changed = np.load(tmp_path / "a.npy", mmap_mode="r+")
    changed[:] = 7
    assert found.images.unique().tolist() == [7]
    assert not list(default_cache().iterdir())


def test_other_sizes_and_channels_are_made_in_memory_or_in_the_cache(tmp_path: Path) -> None:
    stored = pictures(5, 64, 48, 3)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", data=stored)
    of_npy, of_npz = (load_images(tmp_path / f"a.{ending}", size=(16, 12), channels=1) for ending in ("npy", "npz"))
    assert of_npy.shape == (1, 16, 12)
    assert of_npy.digest() == of_npz.digest()
    cached = [load_images(tmp_path / "a.npy", size=(16, 12), channels=1, cache=default_cache()) for _ in range(2)]
    assert torch.equal(cached[0].images, of_npy.images)
    assert {one.digest() for one in cached} == {of_npy.digest()}
    assert stream_images(tmp_path / "a.npy", size=(16, 12), channels=1).digest() == of_npy.digest()
    large = pictures(2, 65, 20)
    np.save(tmp_path / "large.npy", large)
    assert load_images(tmp_path / "large.npy").shape == (1, 32, 32)


# --- labels


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("x", "y"), ("arr_0", "arr_1"), ("data", "y")])
@pytest.mark.parametrize("column", [False, True])
def test_the_labels_of_an_npz_are_beside_its_images(tmp_path: Path, images: str, labels: str, column: bool) -> None:
    numbers = np.array([10, 9, 10, 200, 9], np.uint8)
    stored = {images: pictures(5, 6, 7), labels: numbers[:, None] if column else numbers}
    np.savez_compressed(tmp_path / "a.npz", **stored)
    found = load_images(tmp_path / "a.npz", labels=True)
    assert found.classes == ("9", "10", "200")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1, 2, 0]
    assert load_images(tmp_path / "a.npz").labels is None


def test_the_labels_of_a_npy_are_a_file_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pictures(3, 6, 7))
    with pytest.raises(InputError, match=r"no labels beside '.*a\.npy': put '.*labels\.npy' there"):
        load_images(tmp_path / "a.npy", labels=True)
    np.save(tmp_path / "labels.npy", np.array([2, 0, 2]))
    found = load_images(tmp_path / "a.npy", labels=True)
    assert found.classes == ("0", "2")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(4, np.int64), r"labels of type int64 and shape \(4,\), but there are 3 images"),
        (np.zeros(3), "labels of type float64"),
        (np.array(["a", "b", "c"]), "labels of type <U1"),
        (np.array([0, -1, 2]), "images without a class, such as number 1"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, labels: npt.NDArray[np.generic], said: str) -> None:
    np.savez(tmp_path / "a.npz", x=pictures(3, 6, 7), y=labels)
    with pytest.raises(InputError, match=said):
        load_images(tmp_path / "a.npz", labels=True)


def test_an_npz_without_known_names_is_refused_and_its_names_are_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pixels=pictures(3, 6, 7), names=np.zeros(3))
    with pytest.raises(InputError, match="holds no images but only pixels, names: name the array one of images, arr_0"):
        load_images(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=pictures(3, 6, 7))
    with pytest.raises(InputError, match="holds no labels but only images: name the array one of labels, y, arr_1"):
        load_images(tmp_path / "b.npz", labels=True)
