r"""The variational bound on the likelihood (Ho et al. 2020, eq. 5), term by term, in bits per dimension.

    -log p(x_0) ≤ L_T + Σ_{k=2..K} L_{k-1} + L_0,

L_T = KL(q(x_K | x_0) ‖ the prior) the prior term, L_{k-1} the KL of a reverse step, and L_0 the
decoder, which sees 8-bit images: values on the grid 2·pixel/255 - 1. All of it is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
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
from clearwater.randomness import RowStreams, derived_seed
from clearwater.world import World

__all__ = [
    "Bound",
    "batched",
    "bound",
    "chain_of",
    "evaluated_term",
    "on_grid",
    "prior_term",
    "step_term",
]

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
        evaluated: what was evaluated: weights, variance, clipped (`Denoiser.describe`), decoder.
    """

    prior: Tensor
    kl: Tensor
    rate: Tensor
    decoder: Tensor
    stderr: float
    evaluations: int
    levels: int
    evaluated: Mapping[str, object]

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
        """Standard error of `total` as the mean over all images that these were drawn from; NaN for one image."""
        if len(self.per_image) < 2:
            return math.nan
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
    world: World | None = None,
) -> Bound:
    """The bound with every level evaluated once for every image.

    Args:
        denoiser: the model, with its reverse variance.
        x_0: 8-bit data on the grid 2·pixel/255 - 1, shape (N, ...).
        chain: the levels, the denoiser's own if None; `Chain.strided` for fewer.
        decoder: discretized if None.
        seed: of the noise; image i has the same whatever the batch.
        batch: images at a time.
        progress: is told the fraction done.
        world: the processes that share the images, of which each has all; alone if None.

    Raises:
        InputError: the data is off the 8-bit grid.
    """
    world = World() if world is None else world
    chain = chain_of(denoiser, chain)
    decoder = DiscretizedDecoder() if decoder is None else decoder
    x_0 = on_grid(x_0)
    K, N = chain.T, len(x_0)
    terms = torch.zeros(K, N, dtype=torch.float64)
    for k in range(1, K + 1):
        pair = chain.pair(k)
        for rows, part in batched(x_0, batch, world):
            eps = RowStreams(derived_seed(seed, "exact", k), rows).normal(part)
            terms[k - 1, rows.start : rows.stop] = evaluated_term(denoiser, part, eps, pair, decoder).cpu()
        if progress is not None:
            progress(k / K)
    bits = 1 / (x_0[0].numel() * math.log(2))
    terms = bits * world.sum(terms)
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
        evaluated={**denoiser.describe(), "decoder": type(decoder).__name__},
    )


@torch.inference_mode()
def evaluated_term(denoiser: Denoiser, x_0: Tensor, eps: Tensor, pair: Pair, decoder: Decoder) -> Tensor:
    """The term of the step `pair` of each image, in nats, with this noise."""
    x_t = pair.t.noise(x_0, eps)
    return step_term(x_0, x_t, denoiser.reverse(x_t, pair), pair, decoder)


def chain_of(denoiser: Denoiser, chain: Chain | None = None) -> Chain:
    """The chain that is asked for, or the denoiser's own; an `InputError` if there is none of two steps at least."""
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


def batched(x: Tensor, batch: int, world: World | None = None) -> Iterator[tuple[range, Tensor]]:
    """Which rows, and these: all of them, or those that this one of many processes takes."""
    rank, size = (0, 1) if world is None else (world.rank, world.size)
    first, last = (len(x) * part // size for part in (rank, rank + 1))
    for start in range(first, last, batch):
        rows = range(start, min(start + batch, last))
        yield rows, x[rows.start : rows.stop]


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
