"""An extractor whose features can be computed by hand, and images for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clearwater.data import ImageSet
from clearwater.evaluation import Seen

D, K = 3, 2


@dataclass
class Told:
    """An extractor that says an image's mean, its brightest and its first pixel, and how much of it is dark."""

    key: str = "told"
    name: str = "told"
    dimensions: int = D
    classes: int = K
    is_fid: bool = False
    batch: int = 4
    stops_at: int | None = None
    sizes: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Seen:
        if len(self.sizes) == self.stops_at:
            raise KeyboardInterrupt
        self.sizes.append(len(images))
        x = images.flatten(1).float()
        dark = (x < 128).float().mean(1)
        return Seen(torch.stack([x.mean(1), x.amax(1), x[:, 0]], 1), torch.stack([dark, 1 - dark], 1))


def some_images(n: int, seed: int = 0) -> ImageSet:
    """Random ones of 1 × 3 × 5."""
    drawn = np.random.default_rng(seed).integers(0, 256, (n, 1, 3, 5)).astype(np.uint8)
    return ImageSet(torch.from_numpy(drawn))


def told_of(images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """The features and the probabilities, by NumPy."""
    x = images.images.numpy().reshape(len(images), -1)
    dark = (x < 128).mean(1)
    return np.stack([x.mean(1), x.max(1), x[:, 0]], 1), np.stack([dark, 1 - dark], 1)


def check_told(seen: Seen, images: ImageSet) -> None:
    """Whether that is what `Told` says of these images."""
    features, p = told_of(images)
    assert seen.probabilities is not None
    np.testing.assert_allclose(seen.features, features, rtol=1e-6)
    np.testing.assert_allclose(seen.probabilities, p, rtol=1e-6)
    assert (seen.features.dtype, seen.probabilities.dtype) == (torch.float32, torch.float32)


def save_pictures(folder: Path, images: ImageSet) -> None:
    """As files of a folder, in the order of their names."""
    folder.mkdir()
    for i, image in enumerate(images.images.numpy()):
        Image.fromarray(image[0]).save(folder / f"{i:03d}.png")
