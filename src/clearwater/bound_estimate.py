"""The bound from a budget of network evaluations: unbiased, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.decoders import Decoder, DiscretizedDecoder
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.interpolation import interpolated, spread_levels
from clearwater.likelihood import Bound, batched, bound, chain_of, evaluated_term, on_grid, prior_term
from clearwater.randomness import RowStreams, derived_seed, generator
from clearwater.world import World

__all__ = ["estimate_bound"]


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
    world: World | None = None,
) -> Bound:
    """An unbiased estimate of `bound` from about `budget` network evaluations.

    A tenth of the budget measures roughly how large the terms are; the levels of each image are then drawn
    where they are large, spread evenly (one random offset an image), and weighted so that the mean is that
    of the exact bound. Every image is estimated twice, independently: the difference of the two gives the
    standard error for these images. The decoder is evaluated in both.

    Args:
        denoiser: the model, with its reverse variance.
        x_0: 8-bit data on the grid 2·pixel/255 - 1, shape (N, ...).
        budget: network evaluations, one for one image at one level; from K·N on the bound is exact.
        chain: the levels, the denoiser's own if None.
        decoder: discretized if None.
        seed: of the levels and the noise.
        batch: images at a time.
        progress: is told the fraction done.
        world: the processes that share the images, of which each has all; alone if None.

    Raises:
        InputError: the data is off the 8-bit grid, or the budget is under 5 evaluations an image.
    """
    world = World() if world is None else world
    chain = chain_of(denoiser, chain)
    decoder = DiscretizedDecoder() if decoder is None else decoder
    x_0 = on_grid(x_0)
    K, N = chain.T, len(x_0)
    if budget >= K * N:  # enough for all of it
        return bound(
            denoiser, x_0, chain=chain, decoder=decoder, seed=seed, batch=batch, progress=progress, world=world
        )
    pilot = budget // 10 if K > 2 else 0
    m = (budget - pilot) // (2 * N) - 1  # levels above the first, an image and a half
    if m < 1:
        raise InputError(f"A budget of {budget} evaluations is too small for {N} images: give at least {5 * N}.")
    rng = generator(seed, "levels")
    proposal, pilot = _proposal(denoiser, x_0, chain, pilot, rng, batch)
    cumulative = proposal.cumsum(0)
    halves = torch.zeros(2, N, dtype=torch.float64)
    decoders = torch.zeros(2, N, dtype=torch.float64)
    kl = torch.zeros(K - 1, dtype=torch.float64)
    for half in range(2):
        u = (torch.rand(N, 1, generator=rng, dtype=torch.float64) + torch.arange(m)) / m
        drawn = torch.searchsorted(cumulative, u.clamp(max=float(cumulative[-1]) * (1 - 1e-12)))  # (N, m), from 0
        for j in range(m + 1):
            for rows, part in batched(x_0, batch, world):
                own = slice(rows.start, rows.stop)
                k = torch.ones(len(part), dtype=torch.long) if j == m else drawn[own, j] + 2
                eps = RowStreams(derived_seed(seed, "half", half, j), rows).normal(part)
                value = evaluated_term(denoiser, part, eps, chain.pair(k), decoder).cpu()
                if j == m:
                    decoders[half, own] = value
                else:
                    weighted = value / (m * proposal[k - 2])
                    halves[half, own] += weighted
                    kl.index_add_(0, k - 2, weighted / (2 * N))
            if progress is not None:
                progress((half * (m + 1) + j + 1) / (2 * (m + 1)))
    halves, decoders, kl = world.sum(halves), world.sum(decoders), world.sum(kl)
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
        evaluated={**denoiser.describe(), "decoder": type(decoder).__name__},
    )


def _proposal(
    denoiser: Denoiser, x_0: Tensor, chain: Chain, pilot: int, rng: torch.Generator, batch: int
) -> tuple[Tensor, int]:
    """Probabilities of the levels 2..K, about proportional to the size of their terms, and the evaluations spent.

    The probabilities have shape (K - 1,); about `pilot` evaluations are spent.
    """
    K = chain.T
    uniform = torch.full((K - 1,), 1 / (K - 1), dtype=torch.float64)
    if pilot < 1:
        return uniform, 0
    # Levels evenly spread in the logarithm, where the terms of every chain change evenly.
    spots = torch.tensor(spread_levels(2, K, min(pilot, 64)))
    each = max(1, pilot // len(spots))
    sizes = []
    for k in spots:
        images = x_0[torch.randint(len(x_0), (each,), generator=rng).to(x_0.device)]
        noise = int(torch.randint(2**62, (), generator=rng))
        values = [
            evaluated_term(
                denoiser, part, RowStreams(noise, rows).normal(part), chain.pair(int(k)), DiscretizedDecoder()
            ).cpu()
            for rows, part in batched(images, batch)
        ]
        sizes.append(float(torch.cat(values).square().mean().sqrt()))
    log_k = torch.arange(2, K + 1, dtype=torch.float64).log()
    log_sizes = torch.tensor(sizes, dtype=torch.float64).clamp(min=1e-300).log()
    shape = interpolated(log_k, spots.double().log(), log_sizes).exp()
    # A tenth stays uniform: where the pilot saw too little, no weight can become large.
    return 0.9 * shape / shape.sum() + 0.1 * uniform, each * len(spots)
