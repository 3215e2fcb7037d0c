"""What the figures of a set of images are made of, and parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.pixels import Pixels, size_of, taken
from clearwater.randomness import generator

__all__ = ["Material"]


@dataclass(frozen=True)
class Material:
    """What the figures of a set of images are made of.

    Attributes:
        features: of an extractor, shape (N, D); may be mapped from a file.
        probabilities: p(class | image) of the same extractor, shape (N, K), if it knows classes.
        images: the images themselves, by number, or uint8, shape (N, C, H, W).
        labels: the number of each image's class, int64, shape (N,); used only where there are no probabilities.
    """

    features: Tensor
    probabilities: Tensor | None = None
    images: Pixels | Tensor | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("probabilities", "images", "labels"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.features):
                raise InputError(
                    f"There are features of {len(self.features)} images, but {name} of {len(values)}: "
                    "give them of the same images."
                )

    def __len__(self) -> int:
        return len(self.features)

    def part(self, rows: Tensor) -> Material:
        """Some of the images."""

        def of(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[rows]

        images = None if self.images is None else _Part(self.images, rows)
        return Material(self.features[rows], of(self.probabilities), images, of(self.labels))

    def drawn(self, n: int, seed: int) -> Material:
        """That many random ones of the images, in their order; all of them if there are no more."""
        if n >= len(self):
            return self
        return self.part(torch.randperm(len(self), generator=generator(seed, "drawn"))[:n].sort().values)


@dataclass(frozen=True)
class _Part:
    """Some of a set of images."""

    images: Pixels | Tensor
    rows: Tensor

    @property
    def shape(self) -> Sequence[int]:
        return size_of(self.images)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        return taken(self.images, self.rows[index])
