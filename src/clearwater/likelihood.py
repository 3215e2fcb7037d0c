r"""The variational bound on the likelihood (Ho et al. 2020, eq. 5), term by term, in bits per dimension.

    -log p(x_0) ≤ L_T + Σ_{k=2..K} L_{k-1} + L_0,

L_T = KL(q(x_K | x_0) ‖ the prior) the prior term, L_{k-1} the KL of a reverse step, and L_0 the
decoder, which sees 8-bit images: values on the grid 2·pixel/255 - 1. All of it is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.decoders import Decoder, DiscretizedDecoder
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.levels import Pair
from clearwater.process import marginal, posterior
from clearwater.randomness import generator
from clearwater.variances import Optimal

__all__ = [
    "Bound",
    "bound",
    "estimate_bound",
    "fit_optimal_variance",
    "on_grid",
    "prior_term",
    "step_term",
]

_FOR_DECODER = 32  # images a level, for a minimum that is flat
_GRID_TOLERANCE = 1e-3  # of a grey value: float32 data is within 1e-5 of the grid


@dataclass(frozen=True)
class Bound:
    """The terms of the bound, in bits per dimension.

    Attributes:
        prior: of each image, shape (N,).
        kl: of each level k = 2..K, the mean over images, shape (K - 1,).
        rate: the sum of the KL terms, of each image, shape (N,).
        decoder: of each image, shape (N,).
        stderr: standard error of `total` as the bound of these images: what other noise and other
            levels would change. An exact bound gives an upper limit of it.
        evaluations: network evaluations spent, one for one image at one level.
        levels: K.
    """

    prior: Tensor
    kl: Tensor
    rate: Tensor
    decoder: Tensor
    stderr: float
    evaluations: int
    levels: int

    @property
    def per_image(self) -> Tensor:
        """The bound of each image, shape (N,)."""
        return self.prior + self.rate + self.decoder

    @property
    def total(self) -> float:
        """The mean over the images."""
        return float(self.per_image.mean())

    @property
    def stderr_of_population(self) -> float:
        """Standard error of `total` as the mean over all images that these were drawn from."""
        return float(self.per_image.std() / math.sqrt(len(self.per_image)))


def prior_term(x_0: Tensor, chain: Chain) -> Tensor:
    """L_T of each image, in nats, shape (B,): what is left of the data at the last level. Never assumed zero."""
    prior = Gaussian(torch.zeros_like(x_0), chain.prior_variance.to(x_0))
    return marginal(x_0, chain.levels[-1]).kl(prior).flatten(1).sum(1)


def step_term(x_0: Tensor, x_t: Tensor, reverse: Gaussian, pair: Pair, decoder: Decoder) -> Tensor:
    """The term of one reverse step p(x_s | x_t), in nats, shape (B,).

    The KL of q(x_s | x_t, x_0) to it where s is noisy; minus the decoder's log-probability where s is data.

    Args:
        x_0: the data, shape (B, ...).
        x_t: the same with noise.
        reverse: p(x_s | x_t).
        pair: the step, of shape (), or (B,) with a step for each image.
        decoder: of 8-bit data.
    """
    at_data = (pair.s.sigma == 0).expand(len(x_0)).to(x_0.device)
    if bool(at_data.all()):
        return -decoder(x_0, reverse).flatten(1).sum(1)
    if not bool(at_data.any()):
        return posterior(x_t, x_0, pair).kl(reverse).flatten(1).sum(1)
    # One after the other, as the KL to what is a point at data is none.
    parts = []
    for chosen in (at_data, ~at_data):
        own = Gaussian(reverse.mean[chosen], reverse.variance.expand(len(x_0), *reverse.variance.shape[1:])[chosen])
        parts.append(step_term(x_0[chosen], x_t[chosen], own, pair[chosen.cpu()], decoder))
    order = torch.cat([at_data.nonzero(), (~at_data).nonzero()]).squeeze(1)
    return torch.cat(parts)[order.argsort()]


def bound(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    chain: Chain | None = None,
    decoder: Decoder | None = None,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Bound:
    """The bound with every level evaluated once for every image.

    Args:
        denoiser: the model, with its reverse variance.
        x_0: 8-bit data on the grid 2·pixel/255 - 1, shape (N, ...).
        chain: the levels, the denoiser's own if None; `Chain.strided` for fewer.
        decoder: discretized if None.
        seed: of the noise.
        batch: images at a time.
        progress: is told the fraction done.

    Raises:
        InputError: the data is off the 8-bit grid.
    """
    chain = _levels(denoiser, chain)
    decoder = DiscretizedDecoder() if decoder is None else decoder
    x_0 = on_grid(x_0)
    K, N = chain.T, len(x_0)
    terms = torch.empty(K, N, dtype=torch.float64)
    for k in range(1, K + 1):
        pair = chain.pair(k)
        for first, part in _batches(x_0, batch):
            rng = generator(seed, "exact", k, first, device=x_0.device)
            terms[k - 1, first : first + len(part)] = _evaluate(denoiser, part, pair, decoder, rng).cpu()
        if progress is not None:
            progress(k / K)
    bits = 1 / (x_0[0].numel() * math.log(2))
    terms *= bits
    # Each level's noise is its own, and varies by no more than the term varies over the images.
    stderr = math.sqrt(float(terms.var(1).sum()) / N) if N > 1 else math.nan
    return Bound(
        prior=prior_term(x_0, chain).detach().cpu() * bits,
        kl=terms[1:].mean(1),
        rate=terms[1:].sum(0),
        decoder=terms[0],
        stderr=stderr,
        evaluations=K * N,
        levels=K,
    )


def estimate_bound(
    denoiser: Denoiser,
    x_0: Tensor,
    budget: int,
    *,
    chain: Chain | None = None,
    decoder: Decoder | None = None,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Bound:
    """An unbiased estimate of `bound` from about `budget` network evaluations.

    A tenth of the budget measures roughly how large the terms are; the levels of each image are then drawn
    where they are large, spread evenly (one random offset an image), and weighted so that the mean is that
    of the exact bound. Every image is estimated twice, independently: the difference of the two gives the
    standard error for these images. The decoder is evaluated in both.

    Args: as `bound`.

    Raises:
        InputError: the data is off the 8-bit grid, or the budget is under 5 evaluations an image.
    """
    chain = _levels(denoiser, chain)
    decoder = DiscretizedDecoder() if decoder is None else decoder
    x_0 = on_grid(x_0)
    K, N = chain.T, len(x_0)
    pilot = budget // 10 if K > 2 else 0
    m = (budget - pilot) // (2 * N) - 1  # levels above the first, an image and a half
    if m < 1:
        raise InputError(f"A budget of {budget} evaluations is too small for {N} images: give at least {5 * N}.")
    rng = generator(seed, "levels")
    proposal = _proposal(denoiser, x_0, chain, pilot, rng, batch)
    cumulative = proposal.cumsum(0)
    halves = torch.zeros(2, N, dtype=torch.float64)
    decoders = torch.zeros(2, N, dtype=torch.float64)
    kl = torch.zeros(K - 1, dtype=torch.float64)
    for half in range(2):
        u = (torch.rand(N, 1, generator=rng, dtype=torch.float64) + torch.arange(m)) / m
        drawn = torch.searchsorted(cumulative, u.clamp(max=float(cumulative[-1]) * (1 - 1e-12)))  # (N, m), from 0
        for j in range(m + 1):
            for first, part in _batches(x_0, batch):
                own = slice(first, first + len(part))
                k = torch.ones(len(part), dtype=torch.long) if j == m else drawn[own, j] + 2
                noise = generator(seed, "half", half, j, first, device=x_0.device)
                value = _evaluate(denoiser, part, chain.pair(k), decoder, noise).cpu()
                if j == m:
                    decoders[half, own] = value
                else:
                    weighted = value / (m * proposal[k - 2])
                    halves[half, own] += weighted
                    kl.index_add_(0, k - 2, weighted / (2 * N))
            if progress is not None:
                progress((half * (m + 1) + j + 1) / (2 * (m + 1)))
    bits = 1 / (x_0[0].numel() * math.log(2))
    difference = (halves + decoders)[0] - (halves + decoders)[1]
    return Bound(
        prior=prior_term(x_0, chain).detach().cpu() * bits,
        kl=kl * bits,
        rate=halves.mean(0) * bits,
        decoder=decoders.mean(0) * bits,
        stderr=float((difference / 2).square().sum().sqrt()) / N * bits,
        evaluations=pilot + 2 * (m + 1) * N,
        levels=K,
    )


def _proposal(denoiser: Denoiser, x_0: Tensor, chain: Chain, pilot: int, rng: torch.Generator, batch: int) -> Tensor:
    """Probabilities of the levels 2..K, about proportional to the size of their terms, shape (K - 1,)."""
    K = chain.T
    uniform = torch.full((K - 1,), 1 / (K - 1), dtype=torch.float64)
    if pilot < 1:
        return uniform
    # Levels evenly spread in the logarithm, where the terms of every chain change evenly.
    spread = torch.logspace(math.log10(2), math.log10(K), min(pilot, 64), dtype=torch.float64)
    spots = torch.tensor(sorted({round(k) for k in spread.tolist()}))
    each = max(1, pilot // len(spots))
    sizes = []
    for k in spots:
        images = x_0[torch.randint(len(x_0), (each,), generator=rng).to(x_0.device)]
        noise = torch.Generator(x_0.device).manual_seed(int(torch.randint(2**62, (), generator=rng)))
        values = [
            _evaluate(denoiser, part, chain.pair(int(k)), DiscretizedDecoder(), noise).cpu()
            for _, part in _batches(images, batch)
        ]
        sizes.append(float(torch.cat(values).square().mean().sqrt()))
    log_k = torch.arange(2, K + 1, dtype=torch.float64).log()
    log_sizes = torch.tensor(sizes, dtype=torch.float64).clamp(min=1e-300).log()
    shape = _interpolated(log_k, spots.double().log(), log_sizes).exp()
    # A tenth stays uniform: where the pilot saw too little, no weight can become large.
    return 0.9 * shape / shape.sum() + 0.1 * uniform


def _interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear interpolation, constant outside."""
    if len(knots) == 1:
        return values.expand(len(x))
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    fraction = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return values[right - 1] + fraction * (values[right] - values[right - 1])


@torch.inference_mode()
def _evaluate(denoiser: Denoiser, x_0: Tensor, pair: Pair, decoder: Decoder, rng: torch.Generator) -> Tensor:
    """The term of the step `pair` of each image, in nats, at one draw of the noise."""
    eps = torch.randn(x_0.shape, generator=rng, device=x_0.device, dtype=x_0.dtype)
    x_t = pair.t.noise(x_0, eps)
    return step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, decoder)


def _levels(denoiser: Denoiser, chain: Chain | None) -> Chain:
    if chain is None:
        try:
            chain = denoiser.chain
        except AttributeError:
            raise InputError(
                "The bound is a sum over the levels of a chain, and this denoiser has none: give chain=…, such as "
                "Chain.from_schedule(schedule, 1000)."
            ) from None
    if chain.T < 2:
        raise InputError("The bound needs a chain of at least 2 steps: its decoder's variance is that of the second.")
    return chain


def _batches(x: Tensor, batch: int) -> Iterator[tuple[int, Tensor]]:
    return ((first, x[first : first + batch]) for first in range(0, len(x), batch))


def on_grid(x_0: Tensor) -> Tensor:
    """The data in float64, exactly on the 8-bit grid; an `InputError` if it is not of 8 bits."""
    pixels = (x_0.to(torch.float64) + 1) * 127.5
    exact = pixels.round()
    off = float((pixels - exact).abs().max())
    if off > _GRID_TOLERANCE or float(exact.min()) < 0 or float(exact.max()) > 255:
        raise InputError(
            "The bound in bits per dimension is of 8-bit images: values 2·pixel/255 - 1 for pixels 0 to 255. These are "
            f"up to {off:.2g} of a grey value off that grid, or outside [-1, 1]: give the images as they were stored."
        )
    return exact / 127.5 - 1


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
    decoder = torch.empty(chain.T, dtype=torch.float64)
    for k in range(1, chain.T + 1):
        rng = generator(seed, "images", k)
        picked = x_0[torch.randint(len(x_0), (images,), generator=rng).to(x_0.device)]
        on_device = generator(seed, "noise", k, device=x_0.device)
        total = 0.0
        for first, part in _batches(picked, batch):
            eps = torch.randn(part.shape, generator=on_device, device=part.device, dtype=part.dtype)
            t = chain.levels[k]
            with torch.inference_mode():
                x_t = t.noise(part, eps)
                predicted = denoiser(x_t, t).x_0
                total += float((predicted - part).double().square().sum())
            if first == 0:
                few = part[:_FOR_DECODER], predicted[:_FOR_DECODER]
        error[k - 1] = total / picked.numel()
        decoder[k - 1] = _best_for_decoder(*few, float(error[k - 1]))
        if progress is not None:
            progress(k / chain.T)
    return Optimal(chain.levels.time[1:], error, decoder)


@torch.inference_mode()
def _best_for_decoder(x_0: Tensor, mean: Tensor, error: float) -> float:
    """The variance around `mean` under which the discretized decoder gives `x_0` the highest probability."""
    log_2 = torch.linspace(-10, 3, 27, dtype=torch.float64)
    variances = max(error, 1e-12) * 2**log_2
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
    return float(max(error, 1e-12) * 2 ** (log_2[best] + shift * (log_2[1] - log_2[0])))
