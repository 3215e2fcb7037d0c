"""Grids that are fitted to a model's own paths: their costs in closed form, and that no other grid costs less."""

import itertools

import pytest
import torch

from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.chains import Chain, linear
from clearwater.errors import InputError
from clearwater.randomness import ImageNoise
from clearwater.sampling import DDIM, fitted_to_path, path_costs, sampling_states
from clearwater.schedules import VE, RectifiedFlow
from clearwater.variances import FixedSmall

CHAINS = {
    "vp": linear(1000),
    "ve": Chain.from_schedule(VE(sigma_max=20.0), 1000),
    "flow": Chain.from_schedule(RectifiedFlow(), 1000),
}
VARIANCE = 0.25


class Drawn:
    """Given noise, the same at each call."""

    def __init__(self, z):
        self.z = z

    def __call__(self):
        return self.z


def model(chain, mean=0.0, variance=VARIANCE):
    return ExactDenoiser(gaussian_data(torch.full((1,), mean, dtype=torch.float64), variance), chain, FixedSmall())


def noises(n=4):
    return torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_the_cost_is_the_squared_error_of_one_first_order_step(chain):
    """On Gaussian data the path is x_t = r_t z with r_t² = alpha² v + sigma², and x̂_0 = alpha v / r_t² · x_t."""
    candidates = 100
    costs = path_costs(model(chain), Drawn(noises()), candidates)
    levels = chain.strided(candidates).levels
    alpha, sigma = levels.alpha, levels.sigma
    r = (alpha.square() * VARIANCE + sigma.square()).sqrt()
    # The path starts from the prior's noise, not from r_T z.
    size = float(chain.prior_variance) * noises().square().mean() / r[-1].square()
    for i, j in ((0, 10), (20, 40), (30, 90), (50, 100), (10, 100)):
        a = sigma[i] / sigma[j]
        made = r[j] * (a + (alpha[i] - a * alpha[j]) * alpha[j] * VARIANCE / r[j].square())
        expected = size * (made - r[i]).square() / alpha[i].square()
        torch.testing.assert_close(costs[i, j], expected, rtol=0.03, atol=1e-8)


def test_only_steps_down_have_a_cost():
    costs = path_costs(model(linear(40)), Drawn(noises()), 20)
    assert costs.shape == (21, 21)
    assert torch.equal(costs.isfinite(), torch.ones(21, 21).triu(1).bool())


def test_data_at_one_point_lies_on_a_straight_path_that_costs_nothing():
    costs = path_costs(model(linear(1000), mean=0.3, variance=1e-14), Drawn(noises()), 30)
    assert float(costs[costs.isfinite()].max()) < 1e-9


@pytest.mark.parametrize("K", [1, 2, 3, 4])
def test_no_other_grid_costs_less(K):
    chain = linear(1000)
    costs = path_costs(model(chain), Drawn(noises()), 12)
    allowed = chain.strided(12)
    found = fitted_to_path(costs)(chain, K)

    def cost(path):
        return sum(float(costs[i, j]) for i, j in itertools.pairwise(path))

    ways = [(0, *between, 12) for between in itertools.combinations(range(1, 12), K - 1)]
    numbers = torch.searchsorted(allowed.levels.time, found.levels.time).tolist()
    assert cost(numbers) == pytest.approx(min(map(cost, ways)), rel=1e-12)


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_few_steps_on_it_end_nearer_to_the_path_than_on_equal_strides(chain):
    denoiser = model(chain)
    costs = path_costs(denoiser, Drawn(noises()))

    def end(grid):
        *_, state = sampling_states(denoiser, Drawn(noises()), grid, DDIM())
        return state.x

    exact = end(chain)
    fitted, strided = (
        float((end(grid) - exact).norm()) for grid in (fitted_to_path(costs)(chain, 6), chain.strided(6))
    )
    assert fitted < 0.95 * strided


def test_it_starts_at_level_t_ends_at_data_and_has_no_more_steps_than_candidates():
    chain = linear(1000)
    costs = path_costs(model(chain), ImageNoise(0, range(2), (1,), "cpu"), 10)
    made = fitted_to_path(costs)(chain, 10)
    assert torch.equal(made.levels.time, chain.strided(10).levels.time)
    with pytest.raises(InputError, match="it has 1 to 10 steps, not 11: choose trailing"):
        fitted_to_path(costs)(chain, 11)
