"""Images by number, wherever they are, and as rows of numbers that can be compared like features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PixelRows", "Pixels", "size_of", "taken"]


class Pixels(Protocol):
    """Images by number, such as `clearwater.data.ImageSet`."""

    @property
    def shape(self) -> Sequence[int]:
        """(C, H, W) of one image."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, index: Tensor) -> Tensor:
        """The images of these numbers: uint8, shape (B, C, H, W)."""


def size_of(images: Pixels | Tensor) -> tuple[int, ...]:
    """(C, H, W) of one image."""
    return tuple(images.shape[1:] if isinstance(images, Tensor) else images.shape)


def taken(images: Pixels | Tensor, index: slice | Tensor) -> Tensor:
    """Some of the images, on the CPU."""
    if isinstance(images, Tensor):
        return images[index].cpu()
    if isinstance(index, slice):
        index = torch.arange(*index.indices(len(images)))
    return images.take(index)


_AT_ONCE = 2**22  # values of images that are made smaller at once, 16 MiB


class PixelRows:
    """The grey values of images, a row an image, float32; they are read as rows are asked for.

    Args:
        images: by number, or uint8, shape (N, C, H, W).
        side: of larger ones, the means of areas are taken, so many along each side: whether two images are the same
            shows in these, and of millions of pixels most of the time would go.
    """

    def __init__(self, images: Pixels | Tensor, side: int = 32) -> None:
        self._images = images
        channels, height, width = size_of(images)
        self._size = min(height, side), min(width, side)
        self._exact = self._size == (height, width)
        self._at_once = max(1, _AT_ONCE // (channels * height * width))
        self._features = channels * math.prod(self._size)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, numbers an image)."""
        return len(self._images), self._features

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """Those rows."""
        if self._exact:
            return taken(self._images, index).float().flatten(1)
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        parts = (taken(self._images, part).float() for part in torch.split(index, self._at_once))
        return torch.cat([F.adaptive_avg_pool2d(part, self._size) for part in parts]).flatten(1)
