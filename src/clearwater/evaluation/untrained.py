"""Extractors that were not trained, and so need no weights: the pixels themselves, and filters drawn once for all.

Filters of random weights see textures, edges and colours where they are, and little of what a picture shows. Random
networks have long been known to separate images well (Jarrett et al. 2009), and for images unlike those that a trained
network saw, distances in them tell samples from data where those of the trained one do not (Naeem et al. 2020, who
measure in a random VGG). Three layers are taken and not more: deeper ones of random weights tell sets of images apart
less well and cost more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clearwater.data import pixel_values
from clearwater.errors import InputError
from clearwater.evaluation.extractors import Seen, as_colour, check_images, exactly, key_of, text_of

__all__ = ["Pixels", "RandomFilters"]

Shape = tuple[int, int, int]

_MOST_PIXELS = 4096
_LAYERS = ((16, 2), (16, 1), (32, 2))  # channels and stride
_GRID = 2  # means over quarters of the image: over the whole, the top of one on the bottom of another goes unseen
_SMALL = 64  # the side up to which filters of three pixels reach far enough
_REDUCED = 32  # the side to which larger images are scaled, to be seen once more


@dataclass(frozen=True)
class Pixels:
    """The pixels as they are, in [-1, 1]: C·H·W of them, at most 4,096.

    Distances between single images mean little here, those between the moments of sets tell of colours and of blur.
    """

    shape: Shape
    classes: int = 0
    is_fid: bool = False
    batch: int = 2048

    def __post_init__(self) -> None:
        if self.dimensions > _MOST_PIXELS:
            raise InputError(
                f"The extractor pixels takes images of up to {_MOST_PIXELS:,} values, and {text_of(self.shape)} are "
                f"{self.dimensions:,}: choose random, or a network, inception:WEIGHTS, timm:MODEL:WEIGHTS or hf:FOLDER."
            )

    @property
    def name(self) -> str:
        """Such as pixels-3072."""
        return f"pixels-{self.dimensions}"

    @property
    def key(self) -> str:
        """A hash of its rules."""
        return key_of(("pixels", 1, self.shape))

    @property
    def dimensions(self) -> int:
        """C·H·W."""
        return math.prod(self.shape)

    def __call__(self, images: Tensor) -> Seen:
        """The pixels of images of this shape, channel by channel and row by row."""
        _check(images, self.shape, self.name)
        return Seen(pixel_values(images.cpu().flatten(1)))


@dataclass(frozen=True)
class RandomFilters:
    """Three convolutions of 3 × 3 with weights drawn once for all, rectified; means over each quarter of the image.

    Of every layer: 4 · (16 + 16 + 32) = 256 features; of images with a side of more than 64 twice that, as they are
    seen once more scaled to 32 × 32. Grey images are seen as RGB with equal channels. The weights are the same
    everywhere and for ever, so its figures can be compared, with each other alone.
    """

    shape: Shape
    weights: tuple[Tensor, ...]
    classes: int = 0
    is_fid: bool = False

    @classmethod
    def on(cls, device: torch.device, shape: Shape) -> RandomFilters:
        """Those for images of this shape, (C, H, W), on a device."""
        weights, channels = [], 3
        for layer, (width, _) in enumerate(_LAYERS):
            weights.append(_drawn(layer, (width, channels, 3, 3)).to(device))
            channels = width
        return cls(shape, tuple(weights))

    @property
    def name(self) -> str:
        """Such as random-256 (untrained)."""
        return f"random-{self.dimensions} (untrained)"

    @property
    def key(self) -> str:
        """A hash of the weights and of its rules."""
        return key_of(("random", 1, self.shape), {str(i): weight for i, weight in enumerate(self.weights)})

    @property
    def dimensions(self) -> int:
        """256 or, of large images, 512."""
        return len(self._scales()) * _GRID**2 * sum(width for width, _ in _LAYERS)

    @property
    def batch(self) -> int:
        """Of about a million pixels."""
        return min(512, -(-(2**20) // math.prod(self.shape[1:])))

    def __call__(self, images: Tensor) -> Seen:
        """What the filters see in images of this shape."""
        _check(images, self.shape, self.name)
        with exactly():
            x = as_colour(pixel_values(images.to(self.weights[0].device)))
            parts = [self._of(x if size is None else F.adaptive_avg_pool2d(x, size)) for size in self._scales()]
        return Seen(torch.cat(parts, 1).cpu())

    def _scales(self) -> tuple[int | None, ...]:
        return (None,) if max(self.shape[1:]) <= _SMALL else (None, _REDUCED)

    def _of(self, x: Tensor) -> Tensor:
        parts = []
        for weight, (_, stride) in zip(self.weights, _LAYERS, strict=True):
            # Zeros around the image would be an edge that is not in it.
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, stride=stride).relu()
            parts.append(F.adaptive_avg_pool2d(x, _GRID).flatten(1))
        return torch.cat(parts, 1)


def _check(images: Tensor, shape: Shape, name: str) -> None:
    check_images(images, name)
    if tuple(images.shape[1:]) != shape:
        raise InputError(
            f"This extractor, {name}, was made for images of {text_of(shape)} and cannot see "
            f"{text_of(tuple(images.shape[1:]))}: scale both sets alike."
        )


def _drawn(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform weights with He's variance, 2 / fan-in, from the bits of Philox, which no version of NumPy changes."""
    bits = np.random.Philox(key=seed).random_raw(math.prod(shape))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
    return torch.from_numpy(uniform.reshape(shape) * math.sqrt(6 / math.prod(shape[1:]))).float()
