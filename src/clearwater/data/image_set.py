"""A set of images as one uint8 tensor, in memory or mapped from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["ImageSet", "digest_of", "digest_of_part", "digest_with_labels", "pixel_values", "renumbered"]

_AT_ONCE = 4096  # images


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
        stored: uint8, shape (N, C, H, W), or of more images of which these are a part; where they lie in a cache or a
            .npy file, writing to them ends the process.
        labels: the number of each image's class, int64, shape (N,), or None.
        classes: the names of the classes, in the order of their numbers; empty without labels.
        skipped: a sentence for each file that could not be read.
        known_digest: of what is stored, where that is known without reading it.
        rows: which of those stored these are, int64, shape (N,); None for all.
        held_out: how many of their source are held out, in this part or in the other one; None of a source that has a
            part for that by itself.
    """

    stored: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    known_digest: str | None = field(default=None, repr=False)
    rows: Tensor | None = field(default=None, repr=False)
    held_out: int | None = 0

    @property
    def images(self) -> Tensor:
        """All of them, uint8, shape (N, C, H, W): of a part a copy in memory; `take` gives some."""
        return self.stored if self.rows is None else self.stored[self.rows]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, C, H, W = self.stored.shape
        return C, H, W

    def __len__(self) -> int:
        return len(self.stored if self.rows is None else self.rows)

    def part(self, rows: Tensor) -> ImageSet:
        """Some of them, without a copy: int64, shape (M,)."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, labels=labels, rows=rows if self.rows is None else self.rows[rows])

    def with_classes(self, classes: tuple[str, ...]) -> ImageSet:
        """The same with their classes numbered in this order, if all of them are in it."""
        labels, found = renumbered(self.labels, self.classes, classes)
        return replace(self, labels=labels, classes=found)

    def take(self, index: Tensor) -> Tensor:
        """The images of these numbers, int64 of shape (B,): uint8, shape (B, C, H, W), contiguous, on the CPU."""
        # Ten times as fast as images[index], and contiguous even where the images are not.
        index = index.cpu()
        return self.stored.index_select(0, index if self.rows is None else self.rows[index]).contiguous()

    def digest(self, *, labels: bool = False) -> str:
        """A hash of the images and their order, and of their classes if asked, by which a run knows its data again."""
        of_images = self.known_digest or digest_of(tuple(self.stored.shape), self._parts())
        if self.rows is not None:
            of_images = digest_of_part(of_images, self.rows)
        return digest_with_labels(of_images, self.labels, self.classes) if labels else of_images

    def _parts(self) -> Iterator[bytes | memoryview]:
        for first in range(0, len(self.stored), _AT_ONCE):
            yield self.stored[first : first + _AT_ONCE].contiguous().numpy().data


def digest_of(shape: tuple[int, ...], parts: Iterator[bytes | memoryview]) -> str:
    """A hash of images and their order: of shape (N, C, H, W), in consecutive parts."""
    content = hashlib.blake2b(repr(shape).encode(), digest_size=16)
    for part in parts:
        content.update(part)
    return content.hexdigest()


def digest_of_part(of_all: str, rows: Tensor) -> str:
    """A hash of some images, by that of all and by which they are."""
    content = hashlib.blake2b(of_all.encode(), digest_size=16)
    content.update(rows.numpy().tobytes())
    return content.hexdigest()


def digest_with_labels(of_images: str, labels: Tensor | None, classes: tuple[str, ...]) -> str:
    """A hash of images, by their own, and of their classes and these classes' names; theirs alone without any."""
    if labels is None:
        return of_images
    content = hashlib.blake2b(of_images.encode(), digest_size=16)
    content.update(repr((classes, labels.tolist())).encode())
    return content.hexdigest()


def renumbered(
    labels: Tensor | None, classes: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Numbers of classes, and the names in their order, as `wanted` has these names; as they are if it lacks one."""
    if labels is None or not set(classes) <= set(wanted):
        return labels, classes
    return torch.tensor([wanted.index(name) for name in classes], dtype=torch.int64)[labels], wanted


def pixel_values(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 pixels as values in [-1, 1], 2·pixel/255 - 1."""
    return images.to(dtype) / 127.5 - 1
