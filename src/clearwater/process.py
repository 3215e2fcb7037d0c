"""The forward process: q(x_t | x_0), q(x_t | x_s), and its posterior q(x_s | x_t, x_0)."""

from __future__ import annotations

from torch import Tensor

from clearwater.gaussians import Gaussian
from clearwater.levels import Level, Pair, scale

__all__ = ["marginal", "posterior", "transition"]


def marginal(x_0: Tensor, t: Level) -> Gaussian:
    """q(x_t | x_0) (Ho et al. 2020, eq. 4). `x_0` has shape (B, ...), `t` shape () or (B,)."""
    return Gaussian(scale(t.alpha, x_0), _like(t.sigma.square(), x_0))


def transition(x_s: Tensor, pair: Pair) -> Gaussian:
    """q(x_t | x_s), for adjacent levels Ho et al. 2020, eq. 2."""
    return Gaussian(scale(pair.transition_coefficient, x_s), _like(pair.transition_variance, x_s))


def posterior(x_t: Tensor, x_0: Tensor, pair: Pair) -> Gaussian:
    """q(x_s | x_t, x_0), for adjacent levels Ho et al. 2020, eqs. 6 and 7. At s = data it is the point x_0."""
    return Gaussian(scale(pair.c_0, x_0) + scale(pair.c_t, x_t), _like(pair.posterior_variance, x_t))


def _like(variance: Tensor, x: Tensor) -> Tensor:
    """A variance per image as a tensor that broadcasts against `x`."""
    return scale(variance, x.new_ones([1] * x.ndim))
