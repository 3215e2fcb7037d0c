"""The optimal reverse variance, from a model's errors over data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clearwater.decoders import DiscretizedDecoder
from clearwater.denoisers import Denoiser
from clearwater.gaussians import Gaussian
from clearwater.interpolation import interpolated, spread_levels
from clearwater.likelihood import batched, chain_of
from clearwater.randomness import generator
from clearwater.variances import Optimal

__all__ = ["fit_optimal_variance"]

_FOR_DECODER = 64  # images a level, at most: the minimum is flat
_DECODER_LEVELS = 64
_LEAST_ERROR = 1e-12  # a variance is above zero also where a model makes no error at all


def fit_optimal_variance(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    images: int = 250,
    levels: int = 128,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Optimal:
    """Measures a model's error of x_0 at the levels of its chain, and so its optimal variance.

    The variance of a step to data is the one of highest probability under the discretized decoder.

    Args:
        denoiser: the model, clipped or not as it will be used: the variance is optimal for its mean.
        x_0: 8-bit data, shape (N, ...), from which the images are drawn anew for each level.
        images: how many, a level.
        levels: how many are measured, evenly spread in log k; between them the error, which is smooth, is interpolated.
        seed: of the images and the noise.
        batch: images at a time.
        progress: is told the fraction done.
    """
    chain = chain_of(denoiser)
    measured = spread_levels(1, chain.T, levels)
    of_decoder = set(measured[:: max(1, len(measured) // _DECODER_LEVELS)])
    error, ratio_at, ratio = [], [], []
    for i, k in enumerate(measured):
        rng = generator(seed, "images", k)
        picked = x_0[torch.randint(len(x_0), (images,), generator=rng).to(x_0.device)]
        on_device = generator(seed, "noise", k, device=x_0.device)
        total = 0.0
        few = picked[:0], picked[:0]
        for rows, part in batched(picked, batch):
            eps = torch.randn(part.shape, generator=on_device, device=part.device, dtype=part.dtype)
            t = chain.levels[k]
            with torch.inference_mode():
                x_t = t.noise(part, eps)
                predicted = denoiser(x_t, t).x_0
                total += float((predicted - part).cpu().double().square().sum())
            if rows.start == 0:
                few = part[:_FOR_DECODER], predicted[:_FOR_DECODER]
        error.append(max(total / picked.numel(), _LEAST_ERROR))
        if k in of_decoder:
            ratio_at.append(math.log(k))
            ratio.append(math.log(_best_for_decoder(*few, error[-1]) / error[-1]))
        if progress is not None:
            progress((i + 1) / len(measured))
    x, y = (torch.tensor(values, dtype=torch.float64) for values in (ratio_at, ratio))
    log_k = torch.tensor(measured, dtype=torch.float64).log()
    errors = torch.tensor(error, dtype=torch.float64)
    decoder = errors * interpolated(log_k, x, y).exp()
    return Optimal(chain.levels.time[torch.tensor(measured)], errors, decoder)


@torch.inference_mode()
def _best_for_decoder(x_0: Tensor, mean: Tensor, error: float) -> float:
    """The variance around `mean` under which the discretized decoder gives `x_0` the highest probability."""
    log_2 = torch.linspace(-10, 8, 37, dtype=torch.float64)
    variances = error * 2**log_2
    cost = torch.stack(
        [
            -DiscretizedDecoder()(x_0, Gaussian(mean, torch.full_like(mean[:1], float(v)))).double().mean()
            for v in variances
        ]
    )
    best = int(cost[1:-1].argmin()) + 1
    # The vertex of the parabola through the three lowest points.
    below, at, above = cost[best - 1 : best + 2].tolist()
    shift = 0.5 * (below - above) / max(below - 2 * at + above, 1e-300) if at <= min(below, above) else 0.0
    return float(error * 2 ** (log_2[best] + shift * (log_2[1] - log_2[0])))
