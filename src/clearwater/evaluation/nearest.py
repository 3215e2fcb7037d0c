"""The training image that is nearest to a sample: a model that has learned them by heart shows it there."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nearest"]

_AT_ONCE = 4096


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
    for first in range(0, len(data), _AT_ONCE):
        part = data[first : first + _AT_ONCE].flatten(1).float()
        distances, index = torch.cdist(wanted, part).min(1)
        nearer = distances < best
        best = torch.where(nearer, distances, best)
        at = torch.where(nearer, index + first, at)
    return at, best / wanted.shape[1] ** 0.5
