"""Samplers that must be one and the same, and steps that are known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import Chain, linear
from clearwater.denoisers import Denoiser, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.sampling import (
    DDIM,
    SAMPLERS,
    AdaptiveODE,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    SamplerOptions,
    SDEDPMSolver,
    SinglestepDPMSolver,
    UniPC,
    karras,
    log_snr,
    sampling_states,
)
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.targets import V, Velocity, prediction_from_x_0
from clearwater.variances import FixedSmall

CHAINS = {
    "vp": linear(40),
    "strided": linear(1000).strided(12),
    "ve": Chain.from_schedule(VE(), 40),
    "flow": Chain.from_schedule(RectifiedFlow(), 40),
}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


class Sine(nn.Module):
    def forward(self, x, time):
        return (2 * x).sin() + 0.5 * x.roll(1, -1) + time.reshape(-1, 1, 1, 1)


def denoiser_on(chain):
    """No Gaussian: a network that says something else everywhere."""
    return NetworkDenoiser(Sine(), chain, Velocity() if float(chain.levels.alpha[-1]) == 0 else V(), FixedSmall())


def noise(seed=0, shape=(3, 1, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=torch.float64)


def states(chain, stepper, denoiser=None):
    made = sampling_states(denoiser_on(chain) if denoiser is None else denoiser, noise(), chain, stepper)
    return [state.x for state in made]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * float(b.abs().max()))


@of_chain
def test_ddim_with_all_its_noise_is_ancestral_sampling_with_the_small_variance(chain):
    same(states(chain, DDIM(1.0)), states(chain, Ancestral()))


@of_chain
def test_the_first_order_solver_and_euler_s_method_are_ddim_without_noise(chain):
    ddim = states(chain, DDIM())
    same(states(chain, DPMSolver(1)), ddim)
    same(states(chain, Euler()), ddim)


@of_chain
def test_the_first_step_of_the_sde_solver_is_an_ancestral_one(chain):
    same(states(chain, SDEDPMSolver())[:2], states(chain, Ancestral())[:2])


@of_chain
@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_a_step_of_ddim_is_the_formula_of_the_paper(chain, eta):
    """x_s = alpha_s x̂_0 + √(sigma_s² - η² v) ε̂ + η √v z, with v = sigma_s² (1 - snr_t / snr_s)."""
    denoiser, draw = denoiser_on(chain), noise()
    x, z = draw() * float(chain.prior_variance.sqrt()), draw()
    _, state, *_ = sampling_states(denoiser, noise(), chain, DDIM(eta))
    s, t = chain.levels[-2], chain.levels[-1]
    (alpha, sigma), ratio = (float(s.alpha), float(s.sigma)), float(t.snr / s.snr)
    v = sigma**2 * (1 - ratio)
    predicted = denoiser(x, t)
    expected = alpha * predicted.x_0 + math.sqrt(sigma**2 - eta**2 * v) * predicted.eps + eta * math.sqrt(v) * z
    torch.testing.assert_close(state.x, expected, rtol=1e-10, atol=1e-10)


@of_chain
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_step_to_data_gives_the_predicted_image(chain, name):
    *_, state = sampling_states(denoiser_on(chain), noise(), chain, SAMPLERS[name].make(SamplerOptions()))
    torch.testing.assert_close(state.x, state.prediction.x_0, rtol=1e-14, atol=1e-14)


def edm(denoise, x, sigmas, noise, churn=0.0, churn_range=(0.0, math.inf), inflated=1.0, second=True):
    """Karras et al. 2022, algorithm 2, line by line; `denoise(x, sigma)` is their D, sigmas fall to zero."""
    K = len(sigmas) - 1
    for i in range(K):
        gamma = min(churn / K, math.sqrt(2) - 1) if churn_range[0] <= sigmas[i] <= churn_range[1] else 0.0
        up = sigmas[i] * (1 + gamma)
        if gamma:
            x = x + math.sqrt(up**2 - sigmas[i] ** 2) * inflated * noise()
        slope = (x - denoise(x, up)) / up
        following = x + (sigmas[i + 1] - up) * slope
        if second and sigmas[i + 1] > 0:
            there = (following - denoise(following, sigmas[i + 1])) / sigmas[i + 1]
            following = x + (sigmas[i + 1] - up) * (slope + there) / 2
        x = following
    return x


DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.05, 0.1]))
)


@pytest.mark.parametrize("schedule", [VE(), VP(), RectifiedFlow()], ids=["ve", "vp", "flow"])
@pytest.mark.parametrize("kind", [Euler, Heun])
@pytest.mark.parametrize(
    "options",
    [{}, {"churn": 2.0, "churn_range": (0.05, 10.0), "noise": 1.007}, {"churn": 1e9, "churn_range": (0.1, 2.0)}],
    ids=["deterministic", "churn", "the most churn"],
)
def test_heun_and_euler_are_edm_s_algorithm_in_sigma_over_alpha(schedule, kind, options):
    """On every schedule: its x is x / alpha and its sigma is sigma / alpha. On longer steps Heun has another weight."""
    chain = Chain.from_schedule(schedule, 500)
    numbers = [0, 3, 5, 8, 12, 18, 27, 38, 54, 75, 97, *range(120, 480, 23), 480]
    grid = Chain(chain.levels[torch.tensor(numbers)])
    denoiser, sigmas = ExactDenoiser(DATA, chain, FixedSmall()), grid.levels.sigma / grid.levels.alpha
    assert float((sigmas[2:] / sigmas[1:-1]).max()) < 3 / math.sqrt(2)  # churn adds as much

    def denoise(x, sigma):
        level = Level(*(torch.tensor(value, dtype=torch.float64) for value in (1.0, sigma, 0.5)))
        return DATA.data_given(x, level).moments().mean

    start = noise(1, (5, 2))() * float(grid.prior_variance.sqrt())
    *_, state = sampling_states(denoiser, noise(2, (5, 2)), grid, kind(**options), start)
    theirs = {"inflated" if name == "noise" else name: value for name, value in options.items()}
    expected = edm(
        denoise,
        start / float(grid.levels.alpha[-1]),
        sigmas.flip(0).tolist(),
        noise(2, (5, 2)),
        **theirs,
        second=kind is Heun,
    )
    torch.testing.assert_close(state.x, expected, rtol=1e-9, atol=1e-9)


def two_stage(denoise, x, lambdas, r):
    """DPM-Solver++(2S) in the variance-preserving x (Lu et al. 2022b, algorithm 1), without the step to data."""
    level = lambda u: (math.sqrt(1 / (1 + math.exp(-2 * u))), math.sqrt(1 / (1 + math.exp(2 * u))))  # noqa: E731
    for u, end in pairwise(lambdas):
        h = end - u
        (_, sigma_t), (alpha_m, sigma_m), (alpha_s, sigma_s) = level(u), level(u + r * h), level(end)
        first = denoise(x, u)
        middle = sigma_m / sigma_t * x - alpha_m * math.expm1(-r * h) * first
        data = (1 - 1 / (2 * r)) * first + denoise(middle, u + r * h) / (2 * r)
        x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * data
    return x


@pytest.mark.parametrize("r", [0.3, 0.5, 0.8])
def test_the_singlestep_solver_is_the_algorithm_of_the_paper(r):
    chain = Chain.from_schedule(VP(), 1000)
    grid = log_snr(chain, 8)
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    start = noise(1, (5, 2))()
    *_, before_data, _ = sampling_states(denoiser, noise(), grid, SinglestepDPMSolver(r), start)

    def denoise(x, u):
        return denoiser(x, chain.at_log_snr(torch.tensor(2 * u, dtype=torch.float64))).x_0

    expected = two_stage(denoise, start, (grid.levels.log_snr[1:].flip(0) / 2).tolist(), r)
    torch.testing.assert_close(before_data.x, expected, rtol=1e-7, atol=1e-7)


class Correlated(Denoiser):
    """E[x_0 | x_t] of N(m, C), and where the probability-flow ODE carries x from one level to another."""

    def __init__(self, chain):
        self.chain, self.variance = chain, FixedSmall()
        self.m = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
        root = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.2, 0.0], [-0.1, 0.4, 0.05]], dtype=torch.float64)
        self.values, self.vectors = torch.linalg.eigh(root @ root.T)

    def __call__(self, x_t, t):
        alpha, sigma = float(t.alpha), float(t.sigma)
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        x_0 = self.m + ((x_t - alpha * self.m) @ self.vectors * gain) @ self.vectors.T
        return prediction_from_x_0(x_0, x_t, t)

    def carried(self, x_t, t, s):
        """Along each principal axis the ODE keeps (x - alpha m) / √(alpha² c + sigma²)."""
        deviations = [(level.alpha**2 * self.values + level.sigma**2).sqrt() for level in (t, s)]
        turned = (x_t - t.alpha * self.m) @ self.vectors * (deviations[1] / deviations[0])
        return s.alpha * self.m + turned @ self.vectors.T


@of_chain
def test_the_adaptive_solver_carries_gaussian_data_as_the_closed_form_does(chain):
    denoiser = Correlated(chain)
    path = chain.levels[torch.arange(chain.T, -1, -1)]
    x = noise(1, (4, 3))()
    for i, step in enumerate(AdaptiveODE(1e-10).plan(path, chain.at_log_snr)):
        following, prediction, memory = step(denoiser, x, (), None)
        assert memory == ()
        assert torch.equal(prediction.x_0, denoiser(x, path[i]).x_0)
        if float(path[i].alpha) > 0 and i < chain.T - 1:
            exact = denoiser.carried(x, path[i], path[i + 1])
            torch.testing.assert_close(following, exact, rtol=1e-7, atol=1e-7)
        x = following


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_the_whole_way_of_a_solver_of_high_order_is_the_closed_form(name):
    chain = {"vp": linear(1000), "ve": Chain.from_schedule(VE(), 500), "flow": CHAINS["flow"]}[name]
    denoiser, grid = Correlated(chain), karras(chain, 300)
    *_, state, _ = sampling_states(denoiser, noise(1, (4, 3)), grid, UniPC(3))
    x = noise(1, (4, 3))() * float(chain.prior_variance.sqrt())
    exact = denoiser.carried(x, chain.levels[-1], grid.levels[1])
    # The first step of the flow, from a level without signal, is of first order.
    torch.testing.assert_close(state.x, exact, rtol=0, atol=3e-3 if name == "flow" else 1e-5)


def test_a_step_from_a_level_without_signal_takes_the_predicted_noise_to_the_next_level():
    """There x_t is noise alone, and every deterministic sampler's step is alpha_s x̂_0 + sigma_s ε̂."""
    levels = Chain.from_schedule(RectifiedFlow(), 1000).levels
    flow = Chain(levels[torch.tensor([0, 200, 600, 1000])])
    denoiser = denoiser_on(flow)
    for name, entry in SAMPLERS.items():
        if not entry.stochastic:
            start, state, *_ = sampling_states(denoiser, noise(), flow, entry.make(SamplerOptions()))
            prediction, s = denoiser(start.x, flow.levels[-1]), flow.levels[-2]
            expected = float(s.alpha) * prediction.x_0 + float(s.sigma) * prediction.eps
            torch.testing.assert_close(state.x, expected, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDIM(-0.1),
        lambda: DDIM(1.1),
        lambda: DPMSolver(4),
        lambda: DPMSolver(0),
        lambda: UniPC(4),
        lambda: UniPC(2, "bh3"),
        lambda: SinglestepDPMSolver(0.0),
        lambda: SinglestepDPMSolver(1.0),
        lambda: Heun(-1.0),
        lambda: Euler(1.0, noise=-1.0),
        lambda: Euler(1.0, churn_range=(2.0, 1.0)),
        lambda: Heun(1.0, churn_range=(-1.0, 1.0)),
        lambda: AdaptiveODE(0.0),
        lambda: AdaptiveODE(1.0),
        lambda: AdaptiveODE(1e-14),
    ],
)
def test_a_sampler_that_cannot_be_is_refused_in_a_sentence(make):
    with pytest.raises(InputError, match=r"^[A-Z].*\d.*\.$"):
        make()
