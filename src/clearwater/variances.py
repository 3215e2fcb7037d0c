"""Reverse variances: what p(x_s | x_t) is given, for any two levels s < t."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from clearwater.levels import Pair

__all__ = ["FixedLarge", "FixedSmall", "Variance", "VarianceName", "variance"]

VarianceName = Literal["fixed_small", "fixed_large"]


class Variance(Protocol):
    """A rule that gives the reverse variance of a pair of levels: float64, of the pair's shape."""

    def __call__(self, pair: Pair, /) -> Tensor: ...


def _at_data(pair: Pair, variance: Tensor) -> Tensor:
    """The paper's rule where s is data: the posterior variance of the step above, for both fixed variances."""
    if pair.decoder_variance is None:
        return variance
    return variance.where(pair.s.sigma > 0, pair.decoder_variance)


class FixedLarge:
    """beta, the variance of q(x_t | x_s): optimal if x_0 ~ N(0, I) (Ho et al. 2020, section 3.2)."""

    def __call__(self, pair: Pair) -> Tensor:
        return _at_data(pair, pair.transition_variance)


class FixedSmall:
    """beta-tilde, the variance of q(x_s | x_t, x_0): optimal if x_0 is one point (Ho et al. 2020, section 3.2)."""

    def __call__(self, pair: Pair) -> Tensor:
        return _at_data(pair, pair.posterior_variance)


def variance(name: VarianceName) -> Variance:
    """The variance of this name."""
    return FixedLarge() if name == "fixed_large" else FixedSmall()
