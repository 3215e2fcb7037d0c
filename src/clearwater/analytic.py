"""Data whose diffusion is known in closed form: test beds for samplers, bounds and variances.

Under a mixture of isotropic Gaussians every quantity that a network has to learn is a formula: at each
level the marginal is again a mixture, the optimal x_0 is a mean weighted by responsibilities, and the
true reverse conditional q(x_s | x_t) is a mixture, whose distance to a Gaussian can be looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.decoders import HALF_BIN
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.levels import Level, Pair, scale
from clearwater.targets import Prediction, prediction_from_x_0
from clearwater.variances import LevelVariance, Variance

__all__ = ["ExactDenoiser", "GaussianBound", "GaussianMixture", "Mixture", "gaussian_bound", "gaussian_data"]


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture for each image of a batch.

    Attributes:
        log_weights: shape (B, K), summing to 1 over K after `exp`.
        means: shape (B, K, *shape).
        variances: shape (B, K), of every element.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """log density at `x`, shape (B, *shape), in nats: shape (B,)."""
        D = x[0].numel()
        squared = (x.unsqueeze(1) - self.means).square().flatten(2).sum(2)
        log_normal = -0.5 * (squared / self.variances + D * (2 * math.pi * self.variances).log())
        return torch.logsumexp(self.log_weights + log_normal, 1)

    def moments(self) -> Gaussian:
        """The Gaussian with this mean and this variance of each element, both of shape (B, *shape)."""
        weights = self.log_weights.exp().reshape(*self.log_weights.shape, *[1] * (self.means.ndim - 2))
        variances = self.variances.reshape(weights.shape)
        mean = (weights * self.means).sum(1)
        return Gaussian(mean, (weights * (variances + (self.means - mean.unsqueeze(1)).square())).sum(1))


@dataclass(frozen=True)
class GaussianMixture:
    """Data x_0 from Σ_k w_k N(m_k, v_k I).

    Attributes:
        weights: positive, summing to 1; float64, shape (K,).
        means: float64, shape (K, *shape), `shape` that of one image.
        variances: of every element of a component, zero for a point; float64, shape (K,).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __post_init__(self) -> None:
        for name in ("weights", "means", "variances"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        K = len(self.weights)
        if self.weights.shape != (K,) or len(self.means) != K or self.variances.shape != (K,):
            raise InputError(
                f"A mixture of {K} Gaussians needs as many means and variances, not {len(self.means)} and "
                f"{tuple(self.variances.shape)}."
            )
        if not bool((self.weights > 0).all()) or abs(float(self.weights.sum()) - 1) > 1e-6:
            raise InputError(f"The weights of a mixture are above zero and sum to 1, not {self.weights.tolist()}.")
        if not bool((self.variances >= 0).all()):
            raise InputError(f"The variances of a mixture are not below zero: {self.variances.tolist()}.")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())  # given in float32, say

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` data, float64, shape (n, *shape)."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        eps = torch.randn(n, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means[component] + scale(self.variances[component].sqrt(), eps)

    def at(self, t: Level, n: int = 1) -> Mixture:
        """q(x_t), the same for each of `n` images; `t` has shape () or (n,)."""
        alpha, sigma = t.alpha.expand(n)[:, None], t.sigma.expand(n)[:, None]
        means = scale(t.alpha.expand(n), self.means.unsqueeze(0).expand(n, *self.means.shape))
        return Mixture(
            self.weights.log().expand(n, -1), means, alpha.square() * self.variances + sigma.square().expand(n, 1)
        )

    def data_given(self, x_t: Tensor, t: Level) -> Mixture:
        """q(x_0 | x_t) for each image of `x_t`, shape (B, *shape)."""
        x = x_t.to(torch.float64)
        marginal = self.at(t, len(x))
        gain = t.alpha.expand(len(x))[:, None] * self.variances / marginal.variances  # (B, K)
        offset = x.unsqueeze(1) - marginal.means
        D = x[0].numel()
        log_normal = -0.5 * (offset.square().flatten(2).sum(2) / marginal.variances + D * marginal.variances.log())
        log_weights = torch.log_softmax(marginal.log_weights + log_normal, 1)
        means = self.means + gain.reshape(*gain.shape, *[1] * (x.ndim - 1)) * offset
        variances = self.variances * t.sigma.expand(len(x))[:, None].square() / marginal.variances
        return Mixture(log_weights, means, variances)

    def reverse(self, x_t: Tensor, pair: Pair) -> Mixture:
        """The true q(x_s | x_t) for each image of `x_t`."""
        data = self.data_given(x_t, pair.t)
        x = x_t.to(torch.float64).unsqueeze(1)
        c_0, c_t = pair.c_0.expand(len(x_t)), pair.c_t.expand(len(x_t))
        variances = pair.posterior_variance.expand(len(x_t))[:, None] + c_0[:, None].square() * data.variances
        return Mixture(data.log_weights, scale(c_0, data.means) + scale(c_t, x), variances)


def gaussian_data(mean: Tensor, variance: float) -> GaussianMixture:
    """Data from N(mean, variance · I): a mixture of one. `mean` has the shape of one image."""
    return GaussianMixture(torch.ones(1), mean.unsqueeze(0), torch.tensor([variance], dtype=torch.float64))


class ExactDenoiser(Denoiser):
    """The optimal denoiser of known data: x̂_0 = E[x_0 | x_t], in float64 inside.

    Args:
        data: the data.
        chain: the levels of the reverse process.
        variance: the reverse variance.
    """

    def __init__(self, data: GaussianMixture, chain: Chain, variance: Variance) -> None:
        self.data, self.chain, self.variance = data, chain, variance

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        x_0 = self.data.data_given(x_t, t).moments().mean.to(x_t.dtype)
        return prediction_from_x_0(x_0, x_t, t)


@dataclass(frozen=True)
class GaussianBound:
    """The terms of the bound of Gaussian data under its exact denoiser: their expectations, nats per dimension.

    Attributes:
        prior: shape ().
        kl: of the levels k = 2..K, shape (K - 1,).
        decoder: of the density decoder, shape ().
    """

    prior: Tensor
    kl: Tensor
    decoder: Tensor

    @property
    def total(self) -> float:
        """In bits per dimension."""
        return float(self.prior + self.kl.sum() + self.decoder) / math.log(2)


def gaussian_bound(data: GaussianMixture, chain: Chain, variance: LevelVariance) -> GaussianBound:
    """The bound of data from one Gaussian in closed form, with the exact mean and any fixed reverse variance.

    The exact denoiser's squared error is the variance of x_0 given x_t, v sigma² / (alpha² v + sigma²), and the mean
    of every term follows from it.

    Args:
        data: a mixture of one, as `gaussian_data` makes it.
        chain: the levels.
        variance: the reverse variance.
    """
    if len(data.weights) != 1:
        raise InputError(f"The bound has a closed form for one Gaussian, and this is a mixture of {len(data.weights)}.")
    v = data.variances[0]
    pairs, last = chain.pairs, chain.levels[-1]
    t = pairs.t
    error = v * t.sigma.square() / (t.alpha.square() * v + t.sigma.square())
    v_p, v_q, of_mean = variance(pairs), pairs.posterior_variance, pairs.c_0.square() * error
    kl = 0.5 * ((v_p / v_q).log() - 1 + (v_q + of_mean) / v_p)
    square = data.means[0].square().mean() + v
    of_prior = last.sigma.square() / chain.prior_variance
    return GaussianBound(
        prior=0.5 * (last.alpha.square() * square / chain.prior_variance + of_prior - 1 - of_prior.log()),
        kl=kl[1:],
        decoder=0.5 * ((2 * math.pi * v_p[0]).log() + error[0] / v_p[0]) - math.log(2 * HALF_BIN),
    )
