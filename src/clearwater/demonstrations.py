"""What the pictures of `clearwater show` measure: why the method is as it is, in figures that can be checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.analytic import GaussianMixture
from clearwater.denoisers import Denoiser, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.interpolation import spread_levels
from clearwater.levels import Level, Pair
from clearwater.likelihood import chain_of
from clearwater.objectives import Euclidean, Objective, SquaredError
from clearwater.randomness import generator
from clearwater.sampling import StepState, sampling_states
from clearwater.sampling.steps import Noise
from clearwater.variances import LevelVariance
from clearwater.weights import BoundWeight

__all__ = [
    "GradientVariance",
    "OneShot",
    "gradient_variance",
    "one_shot",
    "reverse_step_kl",
    "step_of_beta",
    "two_peaks",
]

_WIDTH = 9.0  # standard deviations to either side that integrals go over
_POINTS = 1601


def two_peaks() -> GaussianMixture:
    """Data on a line that no Gaussian resembles: two narrow peaks of unlike height, at -0.7 and 0.5."""
    return GaussianMixture(
        torch.tensor([0.35, 0.65], dtype=torch.float64),
        torch.tensor([[-0.7], [0.5]], dtype=torch.float64),
        torch.tensor([0.0025, 0.01], dtype=torch.float64),
    )


def step_of_beta(s: Level, beta: float) -> Pair:
    """The step from level `s`, shape (), to the variance-preserving level that has noise of variance `beta` more."""
    if not 0 < beta < 1:
        raise InputError(f"The beta of a step lies between 0 and 1, not {beta}.")
    alpha_t = s.alpha * math.sqrt(1 - beta)
    return Pair(s, Level(alpha_t, ((1 - beta) * s.sigma.square() + beta).sqrt(), s.time + (1 - s.time) * beta))


def reverse_step_kl(data: GaussianMixture, pair: Pair) -> float:
    """How far the true reverse step q(x_s | x_t) of data on a line is from Gaussian.

    Args:
        data: of one dimension, means of shape (K, 1).
        pair: the step, shape ().

    Returns:
        The KL from q(x_s | x_t) to the Gaussian with its mean and variance, in nats, the mean over x_t ~ q(x_t).
    """
    if data.means.shape[1:] != (1,):
        raise InputError(f"This is measured on a line, and the data has shape {tuple(data.means.shape[1:])}.")
    marginal = data.at(pair.t).moments()
    spread = float(marginal.variance.sqrt()) * torch.linspace(-_WIDTH, _WIDTH, _POINTS, dtype=torch.float64)
    x_t = marginal.mean + spread.unsqueeze(1)
    density = data.at(pair.t, len(x_t)).log_prob(x_t).exp()
    seen = density > 1e-16 * density.max()
    x_t, density = x_t[seen], density[seen]
    reverse = data.reverse(x_t, pair)
    best = reverse.moments()
    # Each component is integrated over its own width, so that two far and narrow peaks are both resolved.
    z = torch.linspace(-_WIDTH, _WIDTH, 201, dtype=torch.float64)
    normal = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi) * (z[1] - z[0])
    kl = torch.zeros_like(density)
    for component in range(reverse.means.shape[1]):
        share = reverse.log_weights[:, component].exp()
        for point, mass in zip(z, normal, strict=True):
            x_s = reverse.means[:, component] + point * reverse.variances[:, component : component + 1].sqrt()
            kl += share * mass * (reverse.log_prob(x_s) - best.log_prob(x_s).sum(1))
    return float((density * kl).sum() / density.sum())


@dataclass(frozen=True)
class OneShot:
    """One-shot predictions beside samples of the same noise; images of shape (B, C, H, W).

    Attributes:
        noise: x_T.
        predictions: x̂_0(x_T), what the network takes the image to be when it has seen noise alone.
        samples: what sampling from that noise gives.
    """

    noise: Tensor
    predictions: Tensor
    samples: Tensor

    @staticmethod
    def spread(images: Tensor) -> float:
        """How much images differ from one another: the root of the mean variance of a pixel over the images."""
        return float(images.double().var(0).mean().sqrt())

    @staticmethod
    def distance(images: Tensor, centre: Tensor) -> float:
        """The root mean square distance of a pixel from the image `centre`."""
        return float((images.double() - centre.double()).square().mean().sqrt())


def one_shot(denoiser: Denoiser, noise: Noise, progress: Callable[[float], None] | None = None) -> OneShot:
    """Samples, and what was predicted of them at once from level T.

    Args:
        denoiser: the model.
        noise: gives the noise of the whole batch at each call.
        progress: is told the fraction done.
    """
    T = denoiser.chain.T
    kept: dict[int, StepState] = {}
    for state in sampling_states(denoiser, noise):
        if state.k in (T, T - 1, 0):
            kept[state.k] = state
        if progress is not None:
            progress(1 - state.k / T)
    first = kept[T - 1].prediction
    assert first is not None  # every step's state has one
    return OneShot(kept[T].x.cpu(), first.x_0.cpu(), kept[0].x.cpu())


@dataclass(frozen=True)
class GradientVariance:
    """The variance of the gradient of one batch, summed over the parameters, at each of some levels.

    Attributes:
        levels: k, shape (M,).
        merged: of the squared error with the bound's weight, one noise a draw; shape (M,).
        euclidean: of the Euclidean objective, two noises; shape (M,).
        expected_ratio: 1 + beta-tilde / (c_0² · E(x_0 - x̂_0)²): what the ratio of the two would be if the errors of
            the pixels were as independent of one another as the noise is; shape (M,).
    """

    levels: Tensor
    merged: Tensor
    euclidean: Tensor
    expected_ratio: Tensor


def gradient_variance(
    denoiser: NetworkDenoiser,
    x_0: Tensor,
    variance: LevelVariance,
    *,
    levels: int = 10,
    draws: int = 32,
    batch: int = 16,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> GradientVariance:
    """Measures how much the gradients of the two forms of one objective differ from draw to draw.

    Args:
        denoiser: the network, whose parameters take gradients.
        x_0: data, shape (N, ...), from which every draw takes a batch.
        variance: sigma_q² of both objectives.
        levels: how many, evenly spread in log k.
        draws: of batch and noise, a level.
        batch: images a draw.
        seed: of the draws.
        progress: is told the fraction done.
    """
    chain = chain_of(denoiser)
    spots = spread_levels(1, chain.T, levels)
    objectives: tuple[Objective, Objective] = (SquaredError(BoundWeight(chain, variance)), Euclidean(variance))
    found = torch.zeros(2, len(spots), dtype=torch.float64)
    ratios = torch.zeros(len(spots), dtype=torch.float64)
    parameters = [value for value in denoiser.network.parameters() if value.requires_grad]
    for column, k in enumerate(spots):
        pair = chain.pair(k)
        at_k = torch.full((batch,), k)
        for row, objective in enumerate(objectives):
            sums = [torch.zeros_like(value, dtype=torch.float64) for value in parameters]
            squares = 0.0
            for draw in range(draws):
                rng = generator(seed, "gradient", k, draw)
                images = x_0[torch.randint(len(x_0), (batch,), generator=rng).to(x_0.device)]
                gradients = torch.autograd.grad(objective.at(denoiser, images, at_k, rng).mean(), parameters)
                for total, gradient in zip(sums, gradients, strict=True):
                    total += gradient
                    squares += float(gradient.double().square().sum())
            of_mean = sum(float(total.square().sum()) for total in sums) / draws
            found[row, column] = (squares - of_mean) / (draws - 1)
            if progress is not None:
                progress((2 * column + row + 1) / (2 * len(spots)))
        rng = generator(seed, "error", k, device=x_0.device)
        images = x_0[: 4 * batch]
        eps = torch.randn(images.shape, generator=rng, device=x_0.device, dtype=x_0.dtype)
        with torch.no_grad():
            error = denoiser(pair.t.noise(images, eps), pair.t).x_0 - images
        noise_of_x_0 = float(pair.c_0.square()) * float(error.double().square().mean())
        ratios[column] = 1 + float(pair.posterior_variance) / noise_of_x_0
    return GradientVariance(torch.tensor(spots), found[0], found[1], ratios)
