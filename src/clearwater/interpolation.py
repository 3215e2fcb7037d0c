"""Numbers between numbers that were measured at some levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["interpolated", "spread_levels"]


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear interpolation, constant outside the knots.

    Args:
        x: where, any shape.
        knots: rising, shape (M,).
        values: at the knots, shape (M,).
    """
    last = len(knots) - 1
    right = torch.searchsorted(knots, x.contiguous()).clamp(min(1, last), last)
    left = (right - 1).clamp(min=0)
    gap = (knots[right] - knots[left]).clamp(min=1e-300)
    fraction = ((x - knots[left]) / gap).clamp(0, 1)
    between: Tensor = values[left] + fraction * (values[right] - values[left])
    return between


def spread_levels(first: int, last: int, n: int) -> list[int]:
    """At most n levels from `first` to `last`, evenly spread in the logarithm, as the bound's terms change evenly."""
    spread = torch.logspace(math.log10(first), math.log10(last), n, dtype=torch.float64)
    return sorted({round(k) for k in spread.tolist()})
