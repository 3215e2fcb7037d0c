"""A set of images as one uint8 tensor, from a name or a path."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clearwater.data.folder import fit, read_folder
from clearwater.data.labels import read_labels
from clearwater.errors import InputError

__all__ = ["BUILT_IN", "ImageSet", "Split", "load_images", "pixel_values"]

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
    """The images of `fashion-mini`, or of a folder and the folders in it.

    Args:
        source: the built-in name, or a path.
        size: (height, width). None keeps the images' own size if they share one of at most 64 pixels
            a side, and is 32 × 32 otherwise.
        channels: 1 (grey) or 3 (RGB); None for what the images have.
        split: "train", or "held_out": the built-in set has 9,000 and 1,000 images, as many of each
            class; a folder is all for training.
        labels: whether the images of a folder must have classes (labels.py); the built-in ones always do.

    Raises:
        InputError: there is nothing to read there, no held-out part, or no classes.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"Images are read with 1 channel (grey) or 3 (RGB), not {channels}.")
    if size is not None and min(size) < 1:
        raise InputError(f"An image size is two whole numbers above zero, not {size[0]} × {size[1]}.")
    if str(source) == BUILT_IN:
        return _built_in(size, channels, split)
    if split != "train":
        raise InputError(f"Only {BUILT_IN} has a held-out part: name a folder of other images instead.")
    path = Path(source)
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise InputError(f"'{source}' {what}: give a folder of images, or {BUILT_IN} for the built-in ones.")
    images, paths, skipped = read_folder(path, size, channels)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if not labels:
        return ImageSet(tensor, skipped=skipped)
    return ImageSet(tensor, *read_labels(path, paths), skipped=skipped)


def _built_in(size: tuple[int, int] | None, channels: int | None, split: Split) -> ImageSet:
    with as_file(files("clearwater.data") / "fashion-mini.npz") as path, np.load(path) as stored:
        images, labels = stored["images"], stored["labels"]
    part = slice(None, _TRAINING_IMAGES) if split == "train" else slice(_TRAINING_IMAGES, None)
    images, labels = images[part], labels[part]
    if size not in (None, (28, 28)):
        images = np.stack([np.asarray(fit(Image.fromarray(image), size)) for image in images])
    tensor = torch.from_numpy(images).unsqueeze(1).expand(-1, channels or 1, -1, -1).contiguous()
    return ImageSet(tensor, torch.from_numpy(labels.astype(np.int64)), _GARMENTS)
