r"""The exact likelihood of the probability-flow ODE (Song et al. 2021, section 4.3), in nats and bits per dimension.

The reverse process without noise is an ODE (probability_flow.py) whose flow carries the prior into a density of
images; log p changes along it by its divergence (Chen et al. 2018, theorem 1). It is followed from level 1 of the
chain, below which the network knows nothing: the density is that of x_1 / alpha_1 where x_1 is what the flow makes
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from clearwater.decoders import HALF_BIN
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.likelihood import batched, chain_of, on_grid
from clearwater.probability_flow import flow_by_angle, norm_of, probability_flow
from clearwater.randomness import generator
from clearwater.world import World

__all__ = ["FlowLikelihood", "flow_likelihood", "flow_log_prob"]


@dataclass(frozen=True)
class FlowLikelihood:
    """What `flow_likelihood` found of 8-bit images.

    Attributes:
        per_image: minus the log-likelihood, in bits per dimension, shape (N,).
        evaluations: of the network, one for one image at one level.
    """

    per_image: Tensor
    evaluations: int

    @property
    def total(self) -> float:
        """The mean over the images."""
        return float(self.per_image.mean())

    @property
    def stderr_of_population(self) -> float:
        """Standard error of `total`, other images, other uniform noise and other probes of the trace all counted."""
        return float(self.per_image.std() / math.sqrt(len(self.per_image)))


def flow_likelihood(
    denoiser: Denoiser,
    x_0: Tensor,
    *,
    trace: Literal["exact", "hutchinson"] = "hutchinson",
    tolerance: float = 1e-5,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[[float], None] | None = None,
    world: World | None = None,
) -> FlowLikelihood:
    """The likelihood of 8-bit images under the flow, with uniform dequantisation.

    Uniform noise fills each pixel's bin, so that the density is of something continuous; the mean over that noise is
    an upper bound of minus the log-probability of the pixels (Theis et al. 2016).

    Args:
        denoiser: the model; its variance has no part in this.
        x_0: 8-bit data on the grid 2·pixel/255 - 1, shape (N, ...).
        trace: of the divergence: exact takes as many backward passes a step as the image has dimensions,
            hutchinson one, with random signs (Grathwohl et al. 2019).
        tolerance: relative and absolute, of the solver.
        seed: of the uniform noise and the signs; image i has its own.
        batch: images at a time, which share the solver's steps.
        progress: is told the fraction done.
        world: the processes that share the images, of which each has all; alone if None.

    Raises:
        InputError: the data is off the 8-bit grid, or torchdiffeq is not installed.
    """
    x_0 = on_grid(x_0)
    D = x_0[0].numel()
    world = World() if world is None else world
    found, evaluations = torch.zeros(len(x_0), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for rows, part in batched(x_0, batch, world):
        first = rows.start
        u = torch.stack(
            [
                torch.rand(part.shape[1:], generator=generator(seed, "dequantise", first + i), dtype=torch.float64)
                for i in range(len(part))
            ]
        )
        log_prob, steps = flow_log_prob(
            denoiser,
            part + (HALF_BIN * (2 * u - 1)).to(part.device),
            trace=trace,
            tolerance=tolerance,
            seed=seed,
            first=first,
            progress=partial(_report, progress, first / len(x_0), len(part) / len(x_0)),
        )
        found[rows.start : rows.stop] = -(log_prob.cpu() / D + math.log(2 * HALF_BIN)) / math.log(2)
        evaluations += steps * len(part)
    return FlowLikelihood(world.sum(found), int(world.sum(evaluations)))


def flow_log_prob(
    denoiser: Denoiser,
    x: Tensor,
    *,
    trace: Literal["exact", "hutchinson"] = "exact",
    tolerance: float = 1e-5,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, int]:
    """The log density of the flow at `x`, in nats, and how often the network was asked.

    Args:
        denoiser: the model.
        x: continuous data, shape (N, ...); taken in float64.
        trace: of the divergence, as in `flow_likelihood`.
        tolerance: relative and absolute, of the solver.
        seed: of the signs of hutchinson's trace.
        first: the number of the first image, for its signs.
        progress: is told the fraction done.

    Returns:
        log densities, shape (N,), and the number of times that the network was evaluated at the whole batch.
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise InputError(
            "The likelihood of the flow needs the package torchdiffeq: pip install 'clearwater[ode]'."
        ) from None
    chain = chain_of(denoiser)
    finite = chain.levels.alpha[1:] > 0  # a level without signal lies infinitely far along u
    log_snr = chain.levels.log_snr[1:][finite]
    if len(log_snr) < 2:
        raise InputError("The flow is followed between two levels with signal at least, and this chain has fewer.")
    x = x.to(torch.float64)
    D = x[0].numel()
    signs = None if trace == "exact" else _signs(x, seed, first)
    calls, furthest = 0, 0.0
    ends = -log_snr[[0, -1]].to(x.device) / 2

    def changes(flow: _Flow, u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            change = flow(denoiser, z, float(u))
            divergence = _exact_trace(change, z) if signs is None else _hutchinson(change, z, signs)
        return change.detach(), divergence

    def watched(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal furthest
        if progress is not None:
            # The solver looks beyond the end, and back where it takes a step anew.
            furthest = min(1.0, max(furthest, float((u - ends[0]) / (ends[1] - ends[0]))))
            progress(furthest)
        return changes(probability_flow, u, state)

    # The few log densities weigh as much as the many pixels.
    options: dict[str, object] = {"norm": lambda state: torch.maximum(_rms(state[0]), _rms(state[1] / D))}
    solve = partial(odeint, rtol=tolerance, atol=tolerance, method="dopri5")
    start = x * math.sqrt(float(torch.sigmoid(log_snr[0]))), x.new_zeros(len(x))
    z, change = (found[-1] for found in solve(watched, start, ends, options=options))
    if len(log_snr) < chain.T and chain.schedule is not None:
        angles = torch.stack([ends[1].exp().atan(), ends.new_tensor(math.pi / 2)])
        options["step_t"] = angles[1:]  # beyond pure noise there is nothing to look at
        z, change = (
            found[-1] for found in solve(partial(changes, flow_by_angle), (z, change), angles, options=options)
        )
    last = chain.levels[-1]  # which the prior is of, also where a table's flow ends one level before
    variance = chain.prior_variance / norm_of(last).square()
    prior = Gaussian(torch.zeros_like(x), variance.to(x)).log_prob(z).flatten(1).sum(1)
    # The Jacobian of z = x · alpha / √(alpha² + sigma²) at the start.
    return prior + change + 0.5 * D * float(torch.nn.functional.logsigmoid(log_snr[0])), calls


_Flow = Callable[[Denoiser, Tensor, float], Tensor]


def _report(progress: Callable[[float], None] | None, before: float, share: float, fraction: float) -> None:
    if progress is not None:
        progress(before + share * fraction)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _signs(x: Tensor, seed: int, first: int) -> Tensor:
    drawn = [
        torch.randint(0, 2, x.shape[1:], generator=generator(seed, "signs", first + i), dtype=torch.int8)
        for i in range(len(x))
    ]
    return (2 * torch.stack(drawn) - 1).to(x)


def _hutchinson(y: Tensor, x: Tensor, signs: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(y, x, signs)
    return (gradient * signs).flatten(1).sum(1)


def _exact_trace(y: Tensor, x: Tensor) -> Tensor:
    flat = y.flatten(1)
    total = x.new_zeros(len(x))
    for i in range(flat.shape[1]):
        (gradient,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=i + 1 < flat.shape[1])
        total += gradient.flatten(1)[:, i]
    return total
