"""A set of images as one uint8 tensor, from a name or a path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from clearwater.data.folder import common_size, fit, read_folder
from clearwater.data.idx import idx_part, is_idx, read_idx_images, read_idx_labels
from clearwater.data.labels import read_labels
from clearwater.errors import InputError

__all__ = ["BUILT_IN", "ImageSet", "Split", "load_images", "pixel_values", "unseen_split"]

BUILT_IN = "fashion-mini"
_TRAINING_IMAGES = 9_000  # of the 10,000 built-in images, in the file's order

_GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        images: uint8, shape (N, C, H, W).
        labels: the number of each image's class, int64, shape (N,), or None.
        classes: the names of the classes, in the order of their numbers; empty without labels.
        skipped: a sentence for each file that could not be read.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, C, H, W = self.images.shape
        return C, H, W

    def digest(self, *, labels: bool = False) -> str:
        """A hash of the images and their order, and of their classes if asked, by which a run knows its data again."""
        content = hashlib.blake2b(repr(tuple(self.images.shape)).encode(), digest_size=16)
        for first in range(0, len(self.images), 4096):
            content.update(self.images[first : first + 4096].contiguous().numpy().data)
        if labels and self.labels is not None:
            content.update(repr((self.classes, self.labels.tolist())).encode())
        return content.hexdigest()


def pixel_values(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels as values in [-1, 1], 2·pixel/255 - 1."""
    return images.to(dtype) / 127.5 - 1


def load_images(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Split = "train",
    labels: bool = False,
) -> ImageSet:
    """The images of `fashion-mini`, of a folder and the folders in it, or of an IDX file.

    Args:
        source: the built-in name, or a path: of a folder of images, of an IDX file of images (its labels beside it,
            as MNIST has them), or of a folder with MNIST's train-images-idx3-ubyte.
        size: (height, width). None keeps the images' own size if they share one of at most 64 pixels
            a side, and is 32 × 32 otherwise.
        channels: 1 (grey) or 3 (RGB); None for what the images have.
        split: "train", or "held_out": the built-in set has 9,000 and 1,000 images, as many of each
            class; in MNIST's folder t10k-images-idx3-ubyte is held out; any other is all for training.
        labels: whether the images must have classes (labels.py, idx.py); the built-in ones always do.

    Raises:
        InputError: there is nothing to read there, no held-out part, or no classes.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"Images are read with 1 channel (grey) or 3 (RGB), not {channels}.")
    if size is not None and min(size) < 1:
        raise InputError(f"An image size is two whole numbers above zero, not {size[0]} × {size[1]}.")
    if str(source) == BUILT_IN:
        return _built_in(size, channels, split)
    path = Path(source)
    idx = idx_part(path, split) if path.is_dir() else path if path.is_file() and is_idx(path) else None
    if idx is not None and (split == "train" or path.is_dir()):
        return _of_idx(idx, size, channels, labels=labels)
    if split != "train":
        raise InputError(
            f"Only {BUILT_IN}, and a folder with t10k-images-idx3-ubyte, has a held-out part: name a folder of other "
            "images instead."
        )
    if not path.is_dir():
        what = "is a file, and not one of images in IDX" if path.exists() else "does not exist"
        raise InputError(
            f"'{source}' {what}: give a folder of images, an IDX file, or {BUILT_IN} for the built-in ones."
        )
    images, paths, skipped = read_folder(path, size, channels)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if not labels:
        return ImageSet(tensor, skipped=skipped)
    return ImageSet(tensor, *read_labels(path, paths), skipped=skipped)


def unseen_split(source: str | Path) -> Split:
    """The part that a model is measured on: what was held out, or, where nothing is, all there is."""
    held_out = str(source) == BUILT_IN or (Path(source).is_dir() and idx_part(Path(source), "held_out") is not None)
    return "held_out" if held_out else "train"


def _built_in(size: tuple[int, int] | None, channels: int | None, split: Split) -> ImageSet:
    with as_file(files("clearwater.data") / "fashion-mini.npz") as path, np.load(path) as stored:
        images, labels = stored["images"], stored["labels"]
    part = slice(None, _TRAINING_IMAGES) if split == "train" else slice(_TRAINING_IMAGES, None)
    tensor = _as_asked(images[part, ..., np.newaxis], size, channels)
    return ImageSet(tensor, torch.from_numpy(labels[part].astype(np.int64)), _GARMENTS)


def _of_idx(path: Path, size: tuple[int, int] | None, channels: int | None, *, labels: bool) -> ImageSet:
    images = read_idx_images(path)
    _, height, width, _ = images.shape
    tensor = _as_asked(images, size or common_size([(height, width)]), channels)
    if not labels:
        return ImageSet(tensor)
    numbers = torch.from_numpy(read_idx_labels(path, len(images)).astype(np.int64))
    return ImageSet(tensor, numbers, tuple(str(i) for i in range(int(numbers.max()) + 1)))


def _as_asked(images: npt.NDArray[np.uint8], size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """Images of shape (N, H, W, C), which have one size, as a tensor of shape (N, C, H, W)."""
    own = images.shape[3]
    if (size or images.shape[1:3]) != images.shape[1:3] or (channels or own) != own:
        mode = "L" if (channels or own) == 1 else "RGB"
        seen = [Image.fromarray(image[..., 0] if own == 1 else image).convert(mode) for image in images]
        images = np.stack([np.asarray(fit(image, size) if size else image) for image in seen])
        images = images.reshape(*images.shape[:3], channels or own)
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()
