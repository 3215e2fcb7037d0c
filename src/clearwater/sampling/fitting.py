"""Grids that are fitted to a model: of all ways from noise to data in K steps, the one that costs least.

Each step t → s has a cost of its own, so dynamic programming finds the best way (Watson et al. 2021). For few steps of
a deterministic sampler the cost is what a step departs from the model's own path; for the bound, the step's term.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.decoders import HALF_BIN
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Pair
from clearwater.sampling.dpm_solver import first_order
from clearwater.sampling.grids import Grid
from clearwater.sampling.loop import sampling_states
from clearwater.sampling.steps import Noise
from clearwater.sampling.unipc import UniPC
from clearwater.variances import Optimal

__all__ = ["fitted_to_bound", "fitted_to_path", "path_costs", "step_costs"]

_CANDIDATES = 50


def fitted_to_path(costs: Tensor) -> Grid:
    """The grid whose steps depart least from the paths that a model was measured to have: for few evaluations.

    Args:
        costs: as `path_costs` measures them, shape (C + 1, C + 1), on the chain strided to C steps.
    """

    def grid(chain: Chain, K: int) -> Chain:
        return _cheapest(chain.strided(len(costs) - 1), costs, K)

    return grid


def path_costs(denoiser: Denoiser, noise: Noise, candidates: int = _CANDIDATES) -> Tensor:
    """How far one first-order step from level j down to level i leads off the path of the ODE: entry (i, j), else +inf.

    The path is the sampler's own through all candidates (Chen et al. 2024, arXiv:2405.11326, section 4). The distance
    is the mean over images of the squared error of x / alpha, in which DDIM is Euler's method and an error is carried
    on as it is. Measured, this choice of distance is what makes the grid good (docs/mathematics/samplers.md).

    Args:
        denoiser: the model.
        noise: of some images, 16 or more.
        candidates: C, how many levels, evenly spread, a grid can be chosen from; all if the chain has fewer.

    Returns:
        float64, shape (C + 1, C + 1).
    """
    chain = denoiser.chain.strided(min(candidates, denoiser.chain.T))
    cost = torch.full((chain.T + 1, chain.T + 1), math.inf, dtype=torch.float64)
    states = list(sampling_states(denoiser, noise, chain, UniPC()))
    x = {state.k: state.x.cpu().double() for state in states}
    for before, after in pairwise(states):
        assert after.prediction is not None
        j, x_0 = before.k, after.prediction.x_0.cpu().double()
        for i in range(j):
            a, b = first_order(chain.levels[j], chain.levels[i])
            cost[i, j] = (a * x[j] + b * x_0 - x[i]).square().mean() / chain.levels.alpha[i].square()
    return cost


def fitted_to_bound(optimal: Optimal, candidates: int = 250) -> Grid:
    """The grid with the lowest bound for its K steps, given the error that a model was measured to have.

    With the optimal variance the expected term of a step t → s is ½ log(1 + c_0² · error_t / posterior variance), so
    the bound of every grid is known from the errors, and dynamic programming finds the best one (Watson et al. 2021).

    Args:
        optimal: the measured error of x_0, by level.
        candidates: how many levels, evenly spread, the grid is chosen from.
    """

    def grid(chain: Chain, K: int) -> Chain:
        allowed = chain.strided(min(candidates, chain.T))
        return _cheapest(allowed, step_costs(optimal, allowed), K)

    return grid


def step_costs(optimal: Optimal, chain: Chain) -> Tensor:
    """The expected term, nats per dimension, of each step from level j down to level i: entry (i, j), else +inf."""
    n = len(chain.levels)
    i, j = torch.triu_indices(n, n, offset=1)
    pair = Pair(chain.levels[i], chain.levels[j])
    variance = optimal(pair)
    to_data = i == 0
    # The decoder: the entropy of a Gaussian on the bins of 8-bit pixels, which is not below zero.
    decoder = (0.5 * (2 * math.pi * math.e * variance).log() - math.log(2 * HALF_BIN)).clamp(min=0)
    kl = 0.5 * (variance / pair.posterior_variance).log()
    cost = torch.full((n, n), math.inf, dtype=torch.float64)
    cost[i, j] = torch.where(to_data, decoder, kl)
    return cost


def _cheapest(allowed: Chain, cost: Tensor, K: int) -> Chain:
    if not 1 <= K <= allowed.T:
        raise InputError(
            f"The grid is chosen from {allowed.T} levels, so it has 1 to {allowed.T} steps, not {K}: choose "
            "trailing for more."
        )
    return allowed.with_levels(allowed.levels[_cheapest_path(cost, K)])


def _cheapest_path(cost: Tensor, K: int) -> Tensor:
    """The K + 1 levels of the cheapest way from level 0 to the last in exactly K steps."""
    best, came_from = cost[0], []
    for _ in range(K - 1):
        best, previous = (best[:, None] + cost).min(0)
        came_from.append(previous)
    level, path = len(cost) - 1, [len(cost) - 1]
    for previous in reversed(came_from):
        level = int(previous[level])
        path.append(level)
    return torch.tensor([0, *reversed(path)])
