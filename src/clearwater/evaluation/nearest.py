"""The training image that is nearest to a sample: a model that has learned them by heart shows it there."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest"]

_AT_ONCE = 2**20  # values: more do not stay in a processor's cache
_FEWEST = 32  # images, of which fewer are compared one by one, slowly


def nearest(samples: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the nearest image of `data` for each sample, and how far that is.

    Args:
        samples: uint8, shape (B, C, H, W).
        data: uint8, shape (N, C, H, W); may be mapped from a file that is larger than the memory.

    Returns:
        int64, shape (B,), and the root of the mean squared difference of pixels, 0 to 255, float32, shape (B,).
    """
    wanted = samples.flatten(1).float()
    best = torch.full((len(samples),), torch.inf)
    at = torch.zeros(len(samples), dtype=torch.int64)
    at_once = max(_AT_ONCE // wanted.shape[1], _FEWEST)
    for first in range(0, len(data), at_once):
        part = data[first : first + at_once].flatten(1).float()
        distances, index = torch.cdist(wanted, part).min(1)
        nearer = distances < best
        best = torch.where(nearer, distances, best)
        at = torch.where(nearer, index + first, at)
    return at, best / wanted.shape[1] ** 0.5
