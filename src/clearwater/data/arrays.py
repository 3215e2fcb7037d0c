"""Images that are arrays already: IDX, .npy and .npz files."""

from __future__ import annotations

import warnings
import zipfile
from abc import abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from clearwater.data.idx import read_idx_images, read_idx_labels
from clearwater.data.labels import labels_of_numbers
from clearwater.data.sources import Labels, Numbers, RandomAccess, hash_of, stamp
from clearwater.errors import InputError

__all__ = ["ArraySource", "Bytes", "IdxSource", "NpySource", "NpzSource", "tensor_of"]

Bytes = npt.NDArray[np.uint8]

_IMAGES = ("images", "arr_0", "x", "data")
_LABELS = ("labels", "y", "arr_1")


def tensor_of(images: Bytes) -> Tensor:
    """The same memory as a tensor. If it cannot be written to, as a mapped file, neither can the tensor be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(images)


class ArraySource(RandomAccess):
    """The images in one file that holds a uint8 array, which is read when it is first needed."""

    def __init__(self, path: Path) -> None:
        self.title, self.place = str(path), str(path.resolve())
        self._path = path
        self._fingerprint = hash_of([stamp(path)])

    @cached_property
    def images(self) -> Bytes:
        """Shape (N, C, H, W); not always contiguous.

        Raises:
            InputError: the file cannot be read, or holds no images.
        """
        return self._read()

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return f"{self.title}, image {i}"

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        image = np.ascontiguousarray(self.images[i].transpose(1, 2, 0))
        return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of the file's name, size and time of change."""
        return self._fingerprint

    @abstractmethod
    def _read(self) -> Bytes: ...


class IdxSource(ArraySource):
    """An IDX file, as MNIST's; its labels lie beside it."""

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`: each number up to the largest is a class."""
        numbers = read_idx_labels(self._path, len(self)).astype(np.int64)
        return torch.from_numpy(numbers[kept]), tuple(str(i) for i in range(int(numbers.max()) + 1))

    def _read(self) -> Bytes:
        return read_idx_images(self._path).transpose(0, 3, 1, 2)


class NpySource(ArraySource):
    """A .npy file, mapped into memory rather than read; its labels are in a `labels.npy` beside it."""

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`: each number that occurs is a class."""
        path = self._path.with_name("labels.npy")
        if not path.is_file():
            raise InputError(
                f"There are no labels beside '{self.title}': put '{path}' there, or train without --labels."
            )
        return _labels_of(str(path), _load(path), len(self), kept)

    def _read(self) -> Bytes:
        return _as_images(self.title, _load(self._path))


class NpzSource(ArraySource):
    """An .npz file with the images, and perhaps the labels, as arrays of known names; it is read into memory."""

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`: each number that occurs is a class."""
        return _labels_of(self.title, self._member(_LABELS, "labels"), len(self), kept)

    def _read(self) -> Bytes:
        return _as_images(self.title, self._member(_IMAGES, "images"))

    def _member(self, names: tuple[str, ...], what: str) -> npt.NDArray[np.generic]:
        if not zipfile.is_zipfile(self._path):
            raise InputError(
                f"'{self.title}' cannot be read as .npz: it is no zip archive of arrays, which numpy.savez writes."
            )
        try:
            with np.load(self._path) as stored:
                found = next((name for name in names if name in stored), None)
                if found is not None:
                    return np.asarray(stored[found])
                held = ", ".join(stored.files)
        except Exception as error:  # zip, zlib and NumPy each raise their own on a damaged file
            raise InputError(f"'{self.title}' cannot be read as .npz: {error}.") from None
        raise InputError(
            f"'{self.title}' holds no {what} but only {held or 'nothing'}: name the array one of {', '.join(names)}."
        )


def _load(path: Path) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read as .npy: {error}.") from None


def _as_images(title: str, images: npt.NDArray[np.generic]) -> Bytes:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W)."""
    wrong = None
    shape = images.shape
    if images.dtype != np.uint8:
        wrong = f"values of type {images.dtype}"
    elif len(shape) not in (3, 4) or 0 in shape:
        wrong = f"an array of shape {shape}"
    elif len(shape) == 4 and not (shape[1] in (1, 3)) ^ (shape[3] in (1, 3)):
        several = shape[1] in (1, 3)
        wrong = f"an array of shape {shape}, whose channels may stand {'first or last' if several else 'nowhere'}"
    if wrong is not None:
        raise InputError(
            f"'{title}' holds {wrong}: give uint8 images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 "
            "or 3, and more than 3 pixels in height and width."
        )
    pixels = images.view(np.uint8)
    if len(shape) == 3:
        return pixels[:, np.newaxis]
    return pixels if shape[1] in (1, 3) else pixels.transpose(0, 3, 1, 2)


def _labels_of(title: str, labels: npt.NDArray[np.generic], n: int, kept: Numbers) -> Labels:
    if labels.shape == (n, 1):
        labels = labels[:, 0]
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"'{title}' holds labels of type {labels.dtype} and shape {labels.shape}, but there are {n:,} images: give "
            "each one whole number."
        )
    return labels_of_numbers(title, labels[kept].astype(np.int64), None)
