"""Time grids: what all of them keep, and each against its formula."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import clearwater as cw
from clearwater.analytic import GaussianMixture, gaussian_bound, gaussian_data
from clearwater.chains import Chain, cosine, linear
from clearwater.errors import InputError
from clearwater.sampling import (
    GRIDS,
    all_levels,
    fitted_to_bound,
    karras,
    leading,
    log_snr,
    quadratic,
    shifted,
    trailing,
)
from clearwater.sampling.fitting import step_costs
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow
from clearwater.variances import Optimal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

CHAINS = {
    "linear": linear(1000),
    "cosine": cosine(200),
    "ve": Chain.from_schedule(VE(), 64),
    "flow": Chain.from_schedule(RectifiedFlow(), 60),
    "zero snr": Chain.from_schedule(CosineSchedule(), 7),
}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def exact_error(chain, v=0.25):
    """The squared error of E[x_0 | x_t] for data N(m, v)."""
    t = chain.levels[1:]
    return v * t.sigma.square() / (t.alpha.square() * v + t.sigma.square())


def optimal(chain, v=0.25):
    return Optimal(chain.levels.time[1:], exact_error(chain, v))


def counts(T):
    return sorted({1, 2, 3, T // 3, T - 1, T} - {0})


@of_chain
@pytest.mark.parametrize("name", [*(name for name in GRIDS if name != "all"), "bound"])
def test_a_grid_has_its_steps_from_level_t_to_data(chain, name):
    """The chain itself refuses levels whose noise or time does not rise. The leading grid alone begins below."""
    grid = fitted_to_bound(optimal(chain), candidates=40) if name == "bound" else GRIDS[name]
    for K in counts(min(chain.T, 40)):
        levels = grid(chain, K).levels
        assert len(levels) == K + 1
        assert (float(levels.alpha[0]), float(levels.sigma[0]), float(levels.time[0])) == (1, 0, 0)
        if name == "leading" and K < chain.T:
            assert float(levels.time[-1]) < 1
        else:
            for attribute in ("alpha", "sigma", "time"):
                last = getattr(chain.levels, attribute)[-1]
                torch.testing.assert_close(getattr(levels, attribute)[-1], last, rtol=1e-12, atol=1e-12)


@of_chain
@given(data=st.data())
def test_grids_of_any_size_are_chains_that_a_network_of_the_whole_chain_knows(chain, data):
    """Those of whole levels visit the chain's own; the others levels whose log-SNR and time agree with it."""
    K = data.draw(st.integers(1, chain.T))
    for grid in (trailing, leading, shifted, quadratic):
        levels = grid(chain, K).levels
        assert len(levels) == K + 1
        own = torch.isin(levels.sigma, chain.levels.sigma) & torch.isin(levels.time, chain.levels.time)
        assert bool(own.all())
    for grid in (log_snr, karras):
        levels = grid(chain, K).levels[1:]
        levels = levels[levels.alpha > 0]
        again = chain.at_log_snr(levels.log_snr)
        torch.testing.assert_close(levels.time, again.time, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(levels.alpha, again.alpha, rtol=1e-9, atol=1e-9)


@of_chain
def test_the_grid_of_all_levels_is_the_chain_and_refuses_any_other_number(chain):
    assert all_levels(chain, chain.T) is chain
    for K in (1, chain.T - 1, chain.T + 1):
        with pytest.raises(InputError, match=rf"has {chain.T} steps here, not {K}: choose another grid\."):
            all_levels(chain, K)


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("K", [1, 2, 5, 7, 10, 20, 33, 48, 50, 100, 250, 333, 500, 1000])
def test_trailing_and_leading_visit_the_timesteps_of_diffusers(spacing, K):
    """Its timestep is an index from 0, and ours a level from 1."""
    scheduler = DDIMScheduler(1000, timestep_spacing=spacing)
    scheduler.set_timesteps(K)
    levels = (GRIDS[spacing](linear(1000), K).levels.time * 1000).round().long()[1:].flip(0)
    # Halves are rounded as the last digit of their sum has it, there and here.
    exact = 1000 - torch.arange(K, dtype=torch.float64) * 1000 / K
    clear = (exact % 1 - 0.5).abs() > 1e-6
    if spacing == "leading":
        clear = torch.ones(K, dtype=torch.bool)
    assert torch.equal(levels[clear], (scheduler.timesteps + 1)[clear])
    assert int((levels - scheduler.timesteps - 1).abs().max()) <= 1


@pytest.mark.parametrize("K", [1, 2, 3, 7, 10, 11, 60, 99, 100])
def test_the_quadratic_grid_visits_the_levels_of_a_parabola(K):
    """Where two steps of the parabola end at one level, the upper one moves on to the next that is free."""
    chain = linear(100)
    wanted = [max(1, round(100 * (i / K) ** 2)) for i in range(1, K + 1)]
    moved = [max(wanted[j] + i - j for j in range(i + 1)) for i in range(K)]
    expected = [min(level, 100 - (K - 1 - i)) for i, level in enumerate(moved)]
    assert [round(100 * time) for time in quadratic(chain, K).levels.time.tolist()] == [0, *expected]


def signal(levels):
    """Above data, the levels that have signal."""
    above = levels[1:]
    return above[above.alpha > 0]


@of_chain
@pytest.mark.parametrize("K", [2, 3, 5, 7, 30])
def test_the_log_snr_grid_is_even_between_the_first_and_the_last_level_that_have_one(chain, K):
    ends = signal(chain.levels).log_snr
    n = K - int(float(chain.levels.alpha[-1]) == 0)
    expected = ends[0] + (ends[-1] - ends[0]) * torch.arange(n) / (n - 1) if n > 1 else ends[-1:]
    torch.testing.assert_close(signal(log_snr(chain, K).levels).log_snr, expected.double(), rtol=1e-6, atol=1e-6)


@of_chain
@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("K", [3, 5, 7, 30])
def test_the_karras_grid_is_equation_5_of_edm_in_sigma_over_alpha(chain, K, rho):
    """sigma_i = (sigma_max^(1/rho) + i/(N - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, falling."""
    ratios = signal(chain.levels).sigma / signal(chain.levels).alpha
    low, high = float(ratios[0]), float(ratios[-1])
    n = K - int(float(chain.levels.alpha[-1]) == 0)
    expected = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    levels = signal(karras(chain, K, rho).levels)
    found = (levels.sigma / levels.alpha).flip(0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("v", [0.05, 0.25, 1.0])
@pytest.mark.parametrize(
    "chain",
    [linear(1000).strided(20), Chain.from_schedule(VP(), 12), Chain.from_schedule(RectifiedFlow(), 15)],
    ids=["linear", "vp", "flow"],
)
def test_the_costs_are_the_terms_of_the_bound_of_gaussian_data(chain, v):
    """With the optimal variance, whose measured error is here the exact one."""
    variance = optimal(chain, v)
    bound = gaussian_bound(gaussian_data(torch.zeros(3, dtype=torch.float64), v), chain, variance)
    cost = step_costs(variance, chain)
    between = torch.stack([cost[k - 1, k] for k in range(2, chain.T + 1)])
    torch.testing.assert_close(between, bound.kl, rtol=1e-9, atol=1e-12)
    assert float(cost[0, 1]) == pytest.approx(float(bound.decoder), rel=1e-9)
    # Not only of neighbours: any path through the levels has the cost of its own chain.
    index = torch.tensor([0, 2, 3, 7, chain.T])
    part = Chain(chain.levels[index])
    bound = gaussian_bound(gaussian_data(torch.zeros(3, dtype=torch.float64), v), part, variance)
    along = sum(float(cost[i, j]) for i, j in itertools.pairwise(index.tolist()))
    assert along == pytest.approx(float(bound.kl.sum() + bound.decoder), rel=1e-9)
    # There is no step of no length, and none back.
    assert bool(cost.tril().isinf()[torch.ones_like(cost).tril() > 0].all())


def of_grid(chain, variance, grid):
    return float(step_costs(variance, grid).diagonal(1).sum())


@pytest.mark.parametrize("K", [1, 2, 3, 5, 8, 9])
@pytest.mark.parametrize(
    "chain",
    [cosine(9), Chain.from_schedule(VP(), 9), Chain.from_schedule(RectifiedFlow(), 9)],
    ids=["cosine", "vp", "flow"],
)
def test_the_fitted_grid_is_the_best_of_all_there_are(chain, K):
    """Against every choice of levels; for an error that no data have, so that the best is no regular one."""
    bumpy = exact_error(chain) * (1 + 0.9 * torch.sin(5 * chain.levels.time[1:] * 7))
    variance = Optimal(chain.levels.time[1:], bumpy)
    ways = [[0, *inner, chain.T] for inner in itertools.combinations(range(1, chain.T), K - 1)]
    costs = [of_grid(chain, variance, Chain(chain.levels[torch.tensor(way)])) for way in ways]
    found = fitted_to_bound(variance)(chain, K)
    best = ways[min(range(len(ways)), key=costs.__getitem__)]
    assert torch.equal(found.levels.sigma, chain.levels.sigma[best])
    assert of_grid(chain, variance, found) == pytest.approx(min(costs), rel=1e-12)


@of_chain
@pytest.mark.parametrize("grid", [trailing, leading, shifted, quadratic, log_snr, karras])
def test_for_gaussian_data_every_grid_has_one_and_the_same_bound(chain, grid):
    """There a step of any length is exact: the bound is the entropy, and what the prior does not know of x_T."""
    v = 0.25
    for K in counts(chain.T):
        made = grid(chain, K)
        entropy = 0.5 * math.log(2 * math.pi * math.e * v) - math.log(2 / 255)
        told = 0.5 * math.log1p(v * float(made.levels.snr[-1]))
        assert of_grid(made, optimal(made, v), made) == pytest.approx(entropy - told, rel=1e-9)


def mixture_error(chain):
    """The squared error of E[x_0 | x_t] under two Gaussians in one dimension, by quadrature at every level."""
    data = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-0.8], [0.8]]), torch.tensor([0.01, 0.01]))
    x_0 = torch.linspace(-1.5, 1.5, 1001, dtype=torch.float64)
    z = torch.linspace(-6, 6, 201, dtype=torch.float64)
    errors = []
    for k in range(1, chain.T + 1):
        t = chain.levels[k]
        # x_t on a lattice that is fine both for the components and for the noise.
        reach = 1.5 * float(t.alpha) + 6 * float(t.sigma)
        x_t = torch.linspace(-reach, reach, len(x_0) + 20 * len(z), dtype=torch.float64)[:, None]
        density = data.at(t, len(x_t)).log_prob(x_t).exp()
        spread = data.data_given(x_t, t).moments().variance[:, 0]
        errors.append(float(torch.trapezoid(density * spread, x_t[:, 0]) / torch.trapezoid(density, x_t[:, 0])))
    return torch.tensor(errors, dtype=torch.float64)


@pytest.fixture(scope="module", params=["linear", "flow"])
def of_mixture(request):
    chain = linear(1000).strided(60) if request.param == "linear" else CHAINS["flow"]
    return chain, Optimal(chain.levels.time[1:], mixture_error(chain))


@pytest.mark.parametrize("K", [1, 3, 5, 10, 25, 60])
def test_the_fitted_grid_has_no_higher_bound_than_any_other(of_mixture, K):
    """Each of the others is moved to the nearest levels of the chain; levels that this adds or joins are allowed for.

    With the exact error a level more never raises the bound (Guo, Shamai & Verdú 2005: 1 / error grows at least as
    fast as the signal-to-noise ratio), so a grid that has fewer steps counts as well.
    """
    chain, variance = of_mixture
    best = of_grid(chain, variance, fitted_to_bound(variance)(chain, K))
    beaten = 0
    for grid in (trailing, leading, shifted, quadratic, log_snr, karras):
        times = grid(chain, K).levels.time
        index = {int((chain.levels.time - time).abs().argmin()) for time in times} | {0, chain.T}
        other = Chain(chain.levels[torch.tensor(sorted(index))])
        if other.T <= K:
            assert best <= of_grid(chain, variance, other) + 1e-12
            beaten += best < of_grid(chain, variance, other) - 1e-4
    assert beaten >= 3 or K in (1, chain.T)


def test_more_steps_of_a_fitted_grid_never_raise_the_bound_and_at_first_lower_it(of_mixture):
    chain, variance = of_mixture
    costs = [of_grid(chain, variance, fitted_to_bound(variance)(chain, K)) for K in range(1, chain.T + 1)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(costs))
    assert costs[0] - costs[4] > 0.05
    # All levels are the best there is.
    assert costs[-1] == pytest.approx(of_grid(chain, variance, chain), rel=1e-12)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 5.0])
@pytest.mark.parametrize("K", [5, 20, 28])
def test_a_shifted_flow_visits_the_times_of_stable_diffusion_3(shift, K):
    """Those of diffusers' scheduler from its first time 1, to half a level of 10,000."""
    scheduler = FlowMatchEulerDiscreteScheduler(10_000, shift=shift)
    scheduler.set_timesteps(sigmas=(np.arange(K, 0, -1) / K).tolist())
    levels = shifted(cw.chain("flow", 10_000), K, shift).levels
    torch.testing.assert_close(levels.time.flip(0), scheduler.sigmas.double(), rtol=0, atol=0.5e-4 + 1e-7)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_that_is_none_is_refused(shift):
    with pytest.raises(InputError, match=r"above zero and finite, not"):
        shifted(linear(100), 10, shift)


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "all"])
def test_a_grid_without_steps_is_refused_in_a_sentence(name):
    with pytest.raises(InputError, match=r"not 0\.$"):
        GRIDS[name](linear(100), 0)


@pytest.mark.parametrize(
    "grid", [trailing, leading, shifted, quadratic], ids=["trailing", "leading", "shifted", "quadratic"]
)
def test_more_steps_than_levels_are_refused_in_a_sentence(grid):
    with pytest.raises(InputError, match=r"has 100 steps, so from 1 to 100 can be taken, not 101\.$"):
        grid(linear(100), 101)


@pytest.mark.parametrize(("K", "candidates"), [(0, 250), (101, 250), (21, 20)])
def test_a_fitted_grid_of_more_steps_than_candidates_is_refused(K, candidates):
    chain = linear(100)
    with pytest.raises(InputError, match=rf"it has 1 to {min(candidates, 100)} steps, not {K}: "):
        fitted_to_bound(optimal(chain), candidates)(chain, K)
