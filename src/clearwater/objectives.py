"""Training objectives: the loss of a level, averaged over levels that a `TimeSampler` draws.

They follow from one bound (Ho et al. 2020, eq. 5): with a fixed variance its terms are squared errors with a
weight a level (`SquaredError`, weights.py), in full they are `VLB`, and `Euclidean` is what they are before
one of two noises is integrated out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from clearwater.couplings import Coupling, Independent
from clearwater.decoders import DiscretizedDecoder
from clearwater.denoisers import Denoiser, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.levels import Level, Pair, scale
from clearwater.likelihood import prior_term, step_term
from clearwater.process import posterior, transition
from clearwater.randomness import Randomness, normal_like, uniform
from clearwater.schedules import StochasticInterpolant
from clearwater.targets import PathVelocity, Prediction
from clearwater.times import TimeSampler, Uniform
from clearwater.variances import LearnedNetwork, LevelVariance
from clearwater.weights import Unweighted, Weight

__all__ = ["VLB", "Euclidean", "Hybrid", "Objective", "SquaredError", "TwoNoises", "VarianceBound"]


class Objective(ABC):
    """E over levels of a loss.

    Attributes:
        times: how the levels of a batch are drawn.
    """

    times: TimeSampler

    def __call__(self, denoiser: NetworkDenoiser, x_0: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of each image, shape (B,), at one random level and noise each.

        Args:
            denoiser: the network in training, with its chain and target.
            x_0: data, shape (B, ...).
            generator: a CPU generator; the noise is seeded from it on the device of `x_0`.
        """
        k, weight = self.times(len(x_0), denoiser.chain.T, generator)
        loss = self.at(denoiser, x_0, k, generator)
        self.times.observe(k, loss)
        return scale(weight, loss)

    @abstractmethod
    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        """The loss of each image at level `k`, int64, shape (B,), before its weight; noise comes from `source`."""


@dataclass(frozen=True)
class SquaredError(Objective):
    """``weight(t) · ‖y - y_θ(x_t, t)‖² / D``, y the denoiser's target.

    With `BoundWeight` and the targets Mean, X0 and Eps these are the first three of the four approaches, with
    `Unweighted` and Eps the fourth, L_simple (Ho et al. 2020, eqs. 8, 12, 14). With a velocity it is conditional flow
    matching (Lipman et al. 2022, eq. 9).

    Attributes:
        coupling: which of the noises goes with which image, among those that are seen at once: a whole batch, or the
            part of it that a process or a microbatch has.
    """

    weight: Weight = field(default_factory=Unweighted)
    times: TimeSampler = field(default_factory=Uniform)
    coupling: Coupling = field(default_factory=Independent)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        t = denoiser.chain.levels[k]
        eps = self.coupling(x_0, normal_like(x_0, source), denoiser.labels, source)
        return self.of_output(denoiser, denoiser.output(t.noise(x_0, eps), t), x_0, eps, t)

    def of_output(self, denoiser: NetworkDenoiser, y: Tensor, x_0: Tensor, eps: Tensor, t: Level) -> Tensor:
        """The loss of each image for what the network said, `y`, whose channels beyond the image's have no part."""
        error = y[:, : x_0.shape[1]] - denoiser.target.value(x_0, eps, t)
        return scale(self.weight(denoiser.target, t), error.square().flatten(1).mean(1))


def _bits(nats: Tensor, x_0: Tensor) -> Tensor:
    """Nats an image as bits per dimension."""
    return nats / (x_0[0].numel() * math.log(2))


def _bound_term(
    denoiser: NetworkDenoiser, prediction: Prediction, x_0: Tensor, x_t: Tensor, pair: Pair, T: int
) -> Tensor:
    """T times the bound's term of `pair`, in bits per dimension, shape (B,): its mean over k is their sum."""
    reverse = denoiser.reverse_from(prediction, x_t, pair)
    return T * _bits(step_term(x_0, x_t, reverse, pair, DiscretizedDecoder()), x_0)


@dataclass(frozen=True)
class VLB(Objective):
    """L_vlb: the whole bound in bits per dimension, one random term of its sum, and the prior term.

    Trains whatever the bound depends on: the mean, a learned range, a learned chain. Of 8-bit data on the grid
    2·pixel/255 - 1.
    """

    times: TimeSampler = field(default_factory=Uniform)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        chain = denoiser.chain
        pair = chain.pair(k)
        x_t = pair.t.noise(x_0, normal_like(x_0, source))
        terms = _bound_term(denoiser, denoiser(x_t, pair.t), x_0, x_t, pair, chain.T)
        return terms + _bits(prior_term(x_0, chain), x_0)


@dataclass(frozen=True)
class Hybrid(Objective):
    """L_simple + share · L_vlb, for a learned variance (Nichol & Dhariwal 2021, eq. 16).

    The mean is detached in L_vlb, so that the first term alone trains it, and the second the variance.
    L_vlb is in bits per dimension.

    Attributes:
        weight: of the first term, a squared error.
        share: of the second; 0.001 in the paper.
    """

    weight: Weight = field(default_factory=Unweighted)
    share: float = 0.001
    times: TimeSampler = field(default_factory=Uniform)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        chain, pair, eps = denoiser.chain, denoiser.chain.pair(k), normal_like(x_0, source)
        x_t = pair.t.noise(x_0, eps)
        y = denoiser.output(x_t, pair.t)
        prediction = denoiser.target.solve(x_t, y, pair.t)
        detached = replace(prediction, x_0=prediction.x_0.detach(), eps=prediction.eps.detach())
        simple = SquaredError(self.weight).of_output(denoiser, y, x_0, eps, pair.t)
        return simple + self.share * _bound_term(denoiser, detached, x_0, x_t, pair, chain.T)


@dataclass(frozen=True)
class Euclidean(Objective):
    """``‖x_s - μ_θ(x_t)‖² / (2 σ_q² D)`` with x_s itself, which is drawn first: two independent noises.

    Its minimiser is that of the KL form, in which the noise of x_s given x_t and x_0 is integrated out; its
    gradient varies more.

    Attributes:
        variance: the fixed reverse variance σ_q².
    """

    variance: LevelVariance
    times: TimeSampler = field(default_factory=Uniform)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        pair = denoiser.chain.pair(k)
        x_s = pair.s.noise(x_0, normal_like(x_0, source))
        x_t = transition(x_s, pair).sample(normal_like(x_0, source))
        error = x_s - denoiser.reverse(x_t, pair).mean
        return scale(1 / (2 * self.variance(pair)), error.square().flatten(1).mean(1))


@dataclass(frozen=True)
class TwoNoises(Objective):
    """``‖z - x_0 + gamma' z' - y_θ(x_t, t)‖² / D``: a `StochasticInterpolant`'s velocity with its two noises apart.

    Given x_t and x_0 the mean of that velocity is the `PathVelocity` of the one noise that they make, so the minimiser
    is that of `SquaredError`; the gradient varies more, by (gamma - t gamma')² / sigma² in each pixel of y (Albergo,
    Boffi & Vanden-Eijnden 2023). Where gamma is 0, as at t = 1, x_t has but one noise, and y is that of `SquaredError`.
    """

    times: TimeSampler = field(default_factory=Uniform)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        path = denoiser.target.schedule if isinstance(denoiser.target, PathVelocity) else None
        if not isinstance(path, StochasticInterpolant):
            raise InputError(
                "Two noises are those of a stochastic interpolant: give the denoiser the target "
                "PathVelocity(StochasticInterpolant()), or take SquaredError."
            )
        t, z, between = denoiser.chain.levels[k], normal_like(x_0, source), normal_like(x_0, source)
        gamma, slope = path.gamma(t.time)
        x_t = scale(t.alpha, x_0) + scale(t.time, z) + scale(gamma, between)
        y = z - x_0 + scale(slope.where(gamma > 0, 0.0), between)
        merged = (gamma == 0).to(x_0.device).reshape(-1, *[1] * (x_0.ndim - 1))
        error = torch.where(merged, denoiser.target.value(x_0, z, t), y) - denoiser.output(x_t, t)[:, : x_0.shape[1]]
        return error.square().flatten(1).mean(1)


@dataclass(frozen=True)
class VarianceBound(Objective):
    """The bound's terms in bits per dimension as a function of a `LearnedNetwork` alone, beside a mean that is kept.

    The network has to know the error of that mean at every level, whatever the stride of the chain it will be
    used on, so the steps are of random length: from k to k - d, with log d uniform, or to data.

    Attributes:
        mean: the denoiser whose error is learned, on whose chain the steps are.
    """

    mean: Denoiser
    times: TimeSampler = field(default_factory=Uniform)

    def at(self, denoiser: NetworkDenoiser, x_0: Tensor, k: Tensor, source: Randomness) -> Tensor:
        levels, T = self.mean.chain.levels, self.mean.chain.T
        x_t = levels[k].noise(x_0, normal_like(x_0, source))
        length = (T ** uniform(len(k), source)).long()
        pair = Pair(levels[(k - length).clamp(min=0)], levels[k])
        with torch.no_grad():
            prediction = self.mean(x_t, pair.t)
            mean = posterior(x_t, prediction.x_0, pair).mean
        variance = LearnedNetwork(denoiser.output).of(pair, x_t, prediction)
        return _bits(step_term(x_0, x_t, Gaussian(mean, variance), pair, DiscretizedDecoder()), x_0)
