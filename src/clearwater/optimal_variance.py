"""The optimal reverse variance, from a model's errors over data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clearwater.decoders import DiscretizedDecoder
from clearwater.denoisers import Denoiser
from clearwater.gaussians import Gaussian
from clearwater.interpolation import interpolated, spread_levels
from clearwater.likelihood import batched
from clearwater.randomness import generator
from clearwater.variances import Optimal

__all__ = ["fit_optimal_variance"]

_FOR_DECODER = 128  # images a level, at most: the minimum is flat
_DECODER_LEVELS = 64
_LEAST_ERROR = 1e-12  # a variance is above zero also where a model makes no error at all


def fit_optimal_variance(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    images: int = 100,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Optimal:
    """Measures a model's error of x_0 at every level of its chain, and so its optimal variance.

    The variance of a step to data is the one of highest probability under the discretized decoder.

    Args:
        denoiser: the model, clipped or not as it will be used: the variance is optimal for its mean.
        x_0: 8-bit data, shape (N, ...), from which the images are drawn anew for each level.
        images: how many, a level.
        seed: of the images and the noise.
        batch: images at a time.
        progress: is told the fraction done.
    """
    chain = denoiser.chain
    error = torch.empty(chain.T, dtype=torch.float64)
    spots = spread_levels(1, chain.T, _DECODER_LEVELS)
    ratio = torch.empty(len(spots), dtype=torch.float64)  # of the decoder's best variance to the error
    for k in range(1, chain.T + 1):
        rng = generator(seed, "images", k)
        picked = x_0[torch.randint(len(x_0), (images,), generator=rng).to(x_0.device)]
        on_device = generator(seed, "noise", k, device=x_0.device)
        total = 0.0
        for first, part in batched(picked, batch):
            eps = torch.randn(part.shape, generator=on_device, device=part.device, dtype=part.dtype)
            t = chain.levels[k]
            with torch.inference_mode():
                x_t = t.noise(part, eps)
                predicted = denoiser(x_t, t).x_0
                total += float((predicted - part).double().square().sum())
            if first == 0:
                few = part[:_FOR_DECODER], predicted[:_FOR_DECODER]
        error[k - 1] = max(total / picked.numel(), _LEAST_ERROR)
        if k in spots:
            ratio[spots.index(k)] = _best_for_decoder(*few, float(error[k - 1])) / error[k - 1]
        if progress is not None:
            progress(k / chain.T)
    log_k = torch.arange(1, chain.T + 1, dtype=torch.float64).log()
    decoder = error * interpolated(log_k, log_k[torch.tensor(spots) - 1], ratio.log()).exp()
    return Optimal(chain.levels.time[1:], error, decoder)


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
