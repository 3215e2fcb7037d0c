"""A figure of finitely many images with what it may be off by.

The errors here are those of the infinitesimal jackknife (Efron 1982): a figure is a function of the two distributions,
and its derivative by the weight of one image, its influence, says how far the figure moves with that image; the
variance of the influences over the images, divided by their number, is the variance of the figure. It is what a
bootstrap over images tends to, without the bootstrap's thousand repetitions and without its bias: a distance between
sets grows when images are drawn twice, so that the percentiles of a bootstrap lie above the figure that they are of.

Where the two distributions are equal the derivative of a distance between them is zero and the next order counts: the
error is then too large, by √2 where that order is a square. An interval is of the figure at this number of images: a
bias that the figure has at this number, as the Fréchet distance has, is not taken away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["QUANTILE", "Estimate"]

QUANTILE = 1.959963984540054
"""Of the normal distribution: 95% of it lie within that many standard deviations."""


@dataclass(frozen=True)
class Estimate:
    """A figure and how far chance may have moved it.

    Attributes:
        value: the figure.
        error: its standard error.
        interval: of 95%, from and to.
    """

    value: float
    error: float
    interval: tuple[float, float]

    @classmethod
    def normal(cls, value: float, error: float, *, least: float = -math.inf, most: float = math.inf) -> Estimate:
        """One whose error is normal, as of a sum over many images; it cannot be below `least` or above `most`."""
        low, high = value - QUANTILE * error, value + QUANTILE * error
        return cls(value, error, (max(least, low), min(most, high)))

    @classmethod
    def proportion(cls, value: float, n: float) -> Estimate:
        """A share of n independent images, with Wilson's interval (1927), which has a width at 0 and at 1 too."""
        middle = value + QUANTILE**2 / (2 * n)
        around = QUANTILE * math.sqrt(value * (1 - value) / n + QUANTILE**2 / (4 * n**2))
        scale = 1 + QUANTILE**2 / n
        # The share is in it, also at 0 and at 1, where it would be outside by rounding.
        interval = (min(value, max(0.0, (middle - around) / scale)), max(value, min(1.0, (middle + around) / scale)))
        return cls(value, math.sqrt(value * (1 - value) / n), interval)
