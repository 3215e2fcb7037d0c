r"""Reverse variances: what p(x_s | x_t) is given, for any two levels s < t.

Some are a number a level (`LevelVariance`): the two fixed ones, and the optimal one, which is measured.
The learned ones are of each pixel of x_t: by extra channels of the denoiser's network, between the fixed
ones on the scale of the logarithm (`LearnedRange`), or by a network of its own, beside a mean that is trained
already (`LearnedNetwork`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.interpolation import interpolated
from clearwater.levels import Level, Pair, scale
from clearwater.targets import Prediction

__all__ = [
    "FixedLarge",
    "FixedSmall",
    "LearnedNetwork",
    "LearnedRange",
    "LevelVariance",
    "Optimal",
    "Variance",
    "VarianceName",
    "variance",
]

VarianceName = Literal["fixed_small", "fixed_large", "learned_range"]


class Variance(ABC):
    """A rule that gives the reverse variance of a step."""

    @abstractmethod
    def of(self, pair: Pair, x_t: Tensor, prediction: Prediction) -> Tensor:
        """The variance of p(x_s | x_t), in the dtype of `x_t` and broadcastable to it, shape (B, ...).

        Args:
            pair: the step, of shape () or (B,).
            x_t: shape (B, ...).
            prediction: what the denoiser said of it.
        """


class LevelVariance(Variance):
    """A variance that depends on the levels alone."""

    @abstractmethod
    def __call__(self, pair: Pair) -> Tensor:
        """float64, of the pair's shape."""

    def of(self, pair: Pair, x_t: Tensor, prediction: Prediction) -> Tensor:
        return scale(self(pair), x_t.new_ones([1] * x_t.ndim))


def _at_data(pair: Pair, variance: Tensor) -> Tensor:
    """The paper's rule where s is data: the posterior variance of the step above, for both fixed variances."""
    if pair.decoder_variance is None:
        return variance
    return variance.where(pair.s.sigma > 0, pair.decoder_variance)


class FixedLarge(LevelVariance):
    """beta, the variance of q(x_t | x_s): optimal if x_0 ~ N(0, I) (Ho et al. 2020, section 3.2)."""

    def __call__(self, pair: Pair) -> Tensor:
        return _at_data(pair, pair.transition_variance)


class FixedSmall(LevelVariance):
    """beta-tilde, the variance of q(x_s | x_t, x_0): optimal if x_0 is one point (Ho et al. 2020, section 3.2)."""

    def __call__(self, pair: Pair) -> Tensor:
        return _at_data(pair, pair.posterior_variance)


@dataclass(frozen=True)
class Optimal(LevelVariance):
    """beta-tilde + c_0² · E(x_0 - x̂_0)²: the best number a level for the mean that the model really has.

    The error of x_0, per dimension, is measured over data; (alpha / sigma)² times it is that of eps. With an
    optimal mean it is Analytic-DPM's variance (Bao et al. 2022, theorem 1), which is only then right. Where s is
    data, the discretized decoder is best served by another number than that error, since its two end bins are open:
    it is measured as well. Between the times of the measurements both are interpolated.

    Attributes:
        time: of the levels at which it was measured, rising, float64, shape (M,).
        error: of x_0 at those levels, float64, shape (M,).
        decoder: the best variance where s is data, by level of x_t, float64, shape (M,); None for `error`, which is
            right for the density decoder.
    """

    time: Tensor
    error: Tensor
    decoder: Tensor | None = None

    def __call__(self, pair: Pair) -> Tensor:
        inside = pair.posterior_variance + pair.c_0.square() * interpolated(pair.t.time, self.time, self.error)
        if self.decoder is None:
            return inside
        return inside.where(pair.s.sigma > 0, interpolated(pair.t.time, self.time, self.decoder))


class LearnedRange(Variance):
    """Between the fixed variances, by extra channels of the denoiser's network (Nichol & Dhariwal 2021, eq. 15).

    exp(v · log beta + (1 - v) · log beta_tilde), with the paper's rule at data for beta-tilde. v is from the
    channels, which say 2 v - 1: 0 lies in the middle, -1 is beta-tilde and 1 is beta; it may go beyond.
    """

    def of(self, pair: Pair, x_t: Tensor, prediction: Prediction) -> Tensor:
        if prediction.extra is None:
            raise InputError(
                "A learned range needs a network with twice the channels of the image, and this one has no extra: "
                "use another variance, such as fixed_small."
            )
        v = (prediction.extra + 1) / 2
        small, large = FixedSmall()(pair), pair.transition_variance
        ones = torch.ones_like(v)
        # The difference in float64: the two are nearly equal where there is much noise.
        return torch.exp(scale(small.log(), ones) + v * scale(large.log() - small.log(), ones))


class LearnedNetwork(Variance):
    """beta-tilde + c_0² · E[(x_0 - x̂_0)² | x_t], by a network of its own that leaves the mean as it is.

    What `Optimal` measures a level is learned here of each pixel, as the error of noise in Bao et al. 2022b. It
    is a matter of x_t alone, so one network serves steps of every length. It says the logarithm of the error,
    over what the error would be for x_0 ~ N(0, I).

    Args:
        output: ``(x_t, t) → log ratio``, of the shape of x_t, such as `NetworkDenoiser.output`.
    """

    def __init__(self, output: Callable[[Tensor, Level], Tensor]) -> None:
        self.output = output

    def of(self, pair: Pair, x_t: Tensor, prediction: Prediction) -> Tensor:
        t = pair.t
        prior_error = t.sigma.square() / (t.alpha.square() + t.sigma.square())
        learned = scale(pair.c_0.square() * prior_error, self.output(x_t, t).exp())
        return learned + scale(pair.posterior_variance, x_t.new_ones([1] * x_t.ndim))


def variance(name: VarianceName) -> Variance:
    """The variance of this name."""
    match name:
        case "fixed_large":
            return FixedLarge()
        case "fixed_small":
            return FixedSmall()
        case "learned_range":
            return LearnedRange()
