"""Diagonal Gaussians: what every conditional of the forward and the reverse process is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["Gaussian"]


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag(variance)).

    Attributes:
        mean: shape (B, ...).
        variance: positive (or zero: a point), broadcastable to `mean`.
    """

    mean: Tensor
    variance: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + √variance · eps: a draw, if `eps` is standard normal noise of `mean`'s shape."""
        return self.mean + self.variance.sqrt() * eps

    def log_prob(self, x: Tensor) -> Tensor:
        """log density at `x` in nats, per element, shape of `mean`."""
        self._refuse_points("a log density")
        return -0.5 * ((x - self.mean).square() / self.variance + self.variance.log() + math.log(2 * math.pi))

    def entropy(self) -> Tensor:
        """Differential entropy in nats, per element, shape of `variance`."""
        self._refuse_points("an entropy")
        return 0.5 * (self.variance.log() + math.log(2 * math.pi) + 1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self ‖ other) in nats, per element: ½[log(v_p/v_q) - 1 + v_q/v_p + (μ_q - μ_p)²/v_p]."""
        self._refuse_points("a KL divergence")
        other._refuse_points("a KL divergence")
        # r - 1 - log r loses every digit near r = 1 unless both come from the same small number; far from 1
        # it is the other way round, since r - 1 loses what is small in r.
        excess = (self.variance - other.variance) / other.variance
        near = excess.abs() < 0.5
        # Far from 1 the first branch is of 0, so that its gradient, which counts for nothing, is not NaN.
        log1p = torch.log1p(excess.where(near, torch.zeros_like(excess)))
        log_ratio = torch.where(near, log1p, self.variance.log() - other.variance.log())
        return 0.5 * (excess - log_ratio + (self.mean - other.mean).square() / other.variance)

    def _refuse_points(self, what: str) -> None:
        if not bool((self.variance > 0).all()):
            raise InputError(f"A Gaussian needs a variance above zero everywhere to have {what}.")
