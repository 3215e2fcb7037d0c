"""Ancestral sampling against exact Gaussian processes and against diffusers."""

import math
import warnings

import pytest
import torch

from clearwater.chains import Chain, linear
from clearwater.denoisers import Clipped, Denoiser
from clearwater.sampling import Ancestral, sampling_states
from clearwater.schedules import VE, RectifiedFlow
from clearwater.targets import X0, Eps, V, prediction_from_x_0
from clearwater.variances import FixedLarge, FixedSmall

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers import DDPMScheduler

RULES = {"fixed_small": FixedSmall(), "fixed_large": FixedLarge()}


class ExactGaussian(Denoiser):
    """E[x_0 | x_t] of data N(m, s² I); s = 0 is data of one point."""

    def __init__(self, chain, variance, m, s):
        self.chain, self.variance, self.m, self.s = chain, variance, m, s

    def __call__(self, x_t, t):
        alpha, sigma = float(t.alpha), float(t.sigma)
        # (m/s² + alpha x_t/sigma²) / (1/s² + alpha²/sigma²), both sides of the fraction times s² sigma².
        x_0 = (self.m * sigma**2 + alpha * self.s**2 * x_t) / (sigma**2 + alpha**2 * self.s**2)
        return prediction_from_x_0(x_0, x_t, t)


def moments(denoiser, chain):
    """Mean and variance at level k, for k = T..0, of the affine Gaussian chain that ancestral sampling is.

    It starts at N(0, I), or at N(0, sigma_T² I) where the variance explodes.
    """
    explodes = float(chain.levels.alpha[-1]) == 1
    mean, variance = 0.0, float(chain.levels.sigma[-1]) ** 2 if explodes else 1.0
    yield chain.T, mean, variance
    for k in range(chain.T, 0, -1):
        ends = denoiser.reverse(torch.tensor([[0.0], [1.0]], dtype=torch.float64), chain.pair(k))
        offset, gain = float(ends.mean[0]), float(ends.mean[1] - ends.mean[0])
        added = float(ends.variance) if k > 1 else 0.0  # z = 0 in the last step
        mean, variance = offset + gain * mean, gain**2 * variance + added
        yield k - 1, mean, variance


def final(denoiser, chain):
    *_, (_, mean, variance) = moments(denoiser, chain)
    return mean, variance


@pytest.mark.parametrize(
    "chain",
    [
        linear(1000),
        linear(1000).strided(10),
        linear(1000).strided(50),
        Chain.from_schedule(VE(), 40),
        Chain.from_schedule(RectifiedFlow(), 40),
    ],
    ids=["linear", "10 steps", "50 steps", "ve", "flow"],
)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_samples_have_the_moments_of_the_analytic_chain(chain, rule):
    n, denoiser = 20_000, ExactGaussian(chain, rule, m=0.3, s=0.5)
    generator = torch.Generator().manual_seed(0)
    states = sampling_states(denoiser, lambda: torch.randn(n // 4, 1, 2, 2, generator=generator, dtype=torch.float64))
    watched = {chain.T, chain.T // 2, 1, 0}
    for state, (k, mean, variance) in zip(states, moments(denoiser, chain), strict=True):
        assert state.k == k
        if k in watched:
            assert abs(float(state.x.mean()) - mean) < 5 * math.sqrt(variance / n)
            assert abs(float(state.x.var()) - variance) < 5 * variance * math.sqrt(2 / n)


def test_both_fixed_variances_converge_to_the_data_at_first_order_from_both_sides():
    """For s < 1 the true reverse variance lies between beta-tilde and beta, so the samples' does around s²."""
    m, s = 0.3, 0.5
    error = {}
    for T in (1000, 2000):
        for name, rule in RULES.items():
            mean, variance = final(ExactGaussian(linear(T), rule, m, s), linear(T))
            assert mean == pytest.approx(m, abs=1e-5)
            error[name, T] = variance - s**2
    assert error["fixed_small", 1000] < 0 < error["fixed_large", 1000]
    assert abs(error["fixed_small", 1000]) < 0.02 * s**2
    assert abs(error["fixed_large", 1000]) < 0.004 * s**2
    for name in RULES:
        assert error[name, 1000] / error[name, 2000] == pytest.approx(2, rel=0.05, abs=0)


@pytest.mark.parametrize("K", [1, 7, 100, 1000])
def test_the_large_variance_reproduces_unit_normal_data_at_every_level(K):
    """With s = 1 each step is x_s = α_s m + √(1-β) (x_t - α_t m) + √β z, which keeps a variance of 1.

    The start lacks the mean α_T m, and that deviation shrinks by √(1-β) a step, to α_T/α_k. The last step,
    z = 0, keeps of a variance of 1 what E[x_0 | x_1] has: α_1², where the step before ended.
    """
    chain, m = linear(1000).strided(K), 0.3
    alpha = chain.levels.alpha.tolist()
    for k, mean, variance in moments(ExactGaussian(chain, FixedLarge(), m, 1.0), chain):
        assert variance == pytest.approx(1 if k else alpha[1] ** 2, rel=1e-10, abs=0)
        assert mean == pytest.approx(alpha[k] * m - alpha[K] / alpha[k] * alpha[K] * m, abs=1e-12)


@pytest.mark.parametrize("K", [1, 7, 100, 1000])
def test_the_small_variance_reproduces_a_single_point_at_every_level(K):
    """Each step is then q(x_s | x_t, x_0) at the true x_0, so the spread is sigma_k² all the way, and the end is x_0.

    The start is N(0, 1) and not N(α_T m, sigma_T²): what it has too much of is scaled by c_t of the pair (k, T).
    """
    chain, m = linear(1000).strided(K), 0.3
    alpha, sigma = chain.levels.alpha.tolist(), chain.levels.sigma.tolist()
    for k, mean, variance in moments(ExactGaussian(chain, FixedSmall(), m, 0.0), chain):
        c_t = alpha[K] * sigma[k] ** 2 / (alpha[k] * sigma[K] ** 2)
        assert variance == pytest.approx(sigma[k] ** 2 + c_t**2 * (1 - sigma[K] ** 2), rel=1e-10, abs=0)
        assert mean == pytest.approx(alpha[k] * m - c_t * alpha[K] * m, abs=1e-12)
    assert (mean, variance) == (m, 0)


def steps_of(chain):
    """The steps of ancestral sampling, the one from level k at index T - k."""
    return Ancestral().plan(chain.levels[torch.arange(chain.T, -1, -1)], chain.at_log_snr)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_step_to_data_is_the_mean_and_draws_nothing(rule):
    chain = linear(1000)
    denoiser = ExactGaussian(chain, rule, 0.3, 0.5)
    x_t = torch.linspace(-1, 1, 5, dtype=torch.float64).reshape(5, 1)

    def refuse():
        raise AssertionError("noise was drawn")

    x_s, prediction, memory = steps_of(chain)[-1](denoiser, x_t, (), refuse)
    assert torch.equal(prediction.x_0, denoiser(x_t, chain.levels[1]).x_0)
    assert torch.equal(x_s, prediction.x_0)
    assert memory == ()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_step_above_data_adds_the_reverse_deviation_times_the_noise(rule):
    chain = linear(1000)
    denoiser = ExactGaussian(chain, rule, 0.3, 0.5)
    x_t, z = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(2, 5, 1)
    pair = chain.pair(500)
    x_s, prediction, _ = steps_of(chain)[500](denoiser, x_t, (), lambda: z)
    assert torch.equal(prediction.x_0, denoiser(x_t, chain.levels[500]).x_0)
    variance = pair.transition_variance if isinstance(rule, FixedLarge) else pair.posterior_variance
    mean = float(pair.c_0) * prediction.x_0 + float(pair.c_t) * x_t
    torch.testing.assert_close(x_s, mean + math.sqrt(float(variance)) * z, rtol=1e-14, atol=1e-14)


class Indexed(Denoiser):
    """A network that is told diffusers' index, k - 1 for our level k, as a denoiser."""

    def __init__(self, network, chain, target, variance, T=None):
        self.network, self.chain, self.target, self.variance = network, chain, target, variance
        self.T = chain.T if T is None else T

    def __call__(self, x_t, t):
        index = round(float(t.time) * self.T) - 1
        return self.target.solve(x_t, self.network(x_t, index), t)


def noise_from(x_T):
    """Noise whose first call is this x_T (the prior is N(0, I)); then one randn a call from a generator."""

    def draws():
        yield x_T
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(x_T.shape, generator=generator, dtype=x_T.dtype)

    return draws().__next__


SHARED_SAMPLE = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
TARGETS = {"epsilon": Eps(), "sample": X0(), "v_prediction": V()}
of_target = pytest.mark.parametrize("prediction_type", TARGETS)
of_rule = pytest.mark.parametrize("variance_type", RULES)


def last(states):
    *_, state = states
    return state


@pytest.mark.parametrize(
    ("prediction_type", "total", "mean"), [("epsilon", 258.9606, 0.3372), ("v_prediction", 202.0296, 0.2631)]
)
def test_the_numbers_of_diffusers_shared_scheduler_test_come_out(prediction_type, total, mean):
    """MATH.md, section 9, to the tolerances of diffusers' own test."""
    chain = linear(1000)
    denoiser = Indexed(lambda x, i: x * i / (i + 1), chain, TARGETS[prediction_type], FixedSmall())
    x = last(sampling_states(Clipped(denoiser), noise_from(SHARED_SAMPLE))).x
    assert float(x.abs().sum()) == pytest.approx(total, abs=1e-2)
    assert float(x.abs().mean()) == pytest.approx(mean, abs=1e-3)


def network(x, index):
    return (2 * x + index / 100).sin() + 0.3 * x.flip(-1)


@of_target
@of_rule
def test_samples_agree_with_diffusers_as_installed(prediction_type, variance_type):
    """Its tables are float32, hence the tolerance; at its index 0 it adds no noise, as at our k = 1."""
    chain = linear(1000)
    denoiser = Clipped(Indexed(network, chain, TARGETS[prediction_type], RULES[variance_type]))
    ours = last(sampling_states(denoiser, noise_from(SHARED_SAMPLE))).x
    scheduler = DDPMScheduler(1000, variance_type=variance_type, prediction_type=prediction_type)
    generator, theirs = torch.Generator().manual_seed(0), SHARED_SAMPLE
    for index in scheduler.timesteps.tolist():
        theirs = scheduler.step(network(theirs, index), index, theirs, generator=generator).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def in_double(scheduler):
    """The same scheduler with tables in float64, computed as it does."""
    ends = scheduler.config.beta_start, scheduler.config.beta_end
    scheduler.betas = torch.linspace(*ends, len(scheduler.betas), dtype=torch.float64)
    scheduler.alphas = 1.0 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


@of_target
@of_rule
@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
def test_every_state_agrees_with_diffusers_in_double_precision(prediction_type, variance_type, clip):
    chain, x_T = linear(100), SHARED_SAMPLE.double()
    denoiser = Indexed(network, chain, TARGETS[prediction_type], RULES[variance_type])
    states = sampling_states(Clipped(denoiser) if clip else denoiser, noise_from(x_T))
    next(states)
    scheduler = in_double(
        DDPMScheduler(
            100,
            beta_start=1e-3,
            beta_end=0.2,
            variance_type=variance_type,
            prediction_type=prediction_type,
            clip_sample=clip,
        )
    )
    generator, theirs = torch.Generator().manual_seed(0), x_T
    for index, state in zip(scheduler.timesteps.tolist(), states, strict=True):
        step = scheduler.step(network(theirs, index), index, theirs, generator=generator)
        theirs = step.prev_sample
        torch.testing.assert_close(state.x, theirs, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(state.prediction.x_0, step.pred_original_sample, rtol=1e-9, atol=1e-9)


@of_rule
@pytest.mark.parametrize("K", [10, 50])
def test_strided_sampling_agrees_with_diffusers_trailing_steps(variance_type, K):
    """Up to level 1 of the stride: in the last step diffusers adds noise, since its index is not 0 there."""
    chain = linear(1000).strided(K)
    x_T = SHARED_SAMPLE.double()
    denoiser = Indexed(network, chain, Eps(), RULES[variance_type], T=1000)
    states = sampling_states(Clipped(denoiser), noise_from(x_T))
    next(states)
    scheduler = in_double(DDPMScheduler(1000, variance_type=variance_type, timestep_spacing="trailing"))
    scheduler.set_timesteps(K)
    generator, theirs = torch.Generator().manual_seed(0), x_T
    for index, state in zip(scheduler.timesteps.tolist(), states, strict=True):
        step = scheduler.step(network(theirs, index), index, theirs, generator=generator)
        theirs = step.prev_sample
        torch.testing.assert_close(state.prediction.x_0, step.pred_original_sample, rtol=1e-9, atol=1e-9)
        if state.k:
            torch.testing.assert_close(state.x, theirs, rtol=1e-9, atol=1e-9)
