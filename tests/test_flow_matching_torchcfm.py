"""Paths, their velocities and couplings against torchcfm (Tong et al. 2024).

Its time is 1 - t, so its velocity is minus ours.
"""

import pytest
import torch

from clearwater.couplings import OptimalTransport, Sinkhorn
from clearwater.levels import Level, scale
from clearwater.schedules import Bridge, CosineSchedule, RectifiedFlow, StochasticInterpolant
from clearwater.targets import PathVelocity, Velocity

# Its own requirements do not import beside every torch, so it is installed without them: see the Makefile.
matching = pytest.importorskip(
    "torchcfm.conditional_flow_matching", reason="torchcfm is not installed: pip install --no-deps torchcfm pot"
)
transport = pytest.importorskip("torchcfm.optimal_transport")

N = 7
TIMES = torch.linspace(0.05, 0.95, N, dtype=torch.float64)


def draws(seed):
    return torch.randn(3, N, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def given(matcher, noise):
    """The matcher with this noise in place of its own."""
    matcher.sample_noise_like = lambda x: noise
    return matcher


def theirs_of(matcher, start, data, noise):
    """(x_t, u_t) of data, from `start` at their time 0, with `noise` on the way, at our times."""
    _, x_t, u_t = given(matcher, noise).sample_location_and_conditional_flow(start, data, t=1 - TIMES)
    return x_t, -u_t


def test_rectified_flow_is_their_matcher_without_a_sigma():
    x_0, eps, unused = draws(0)
    x_t, u_t = theirs_of(matching.ConditionalFlowMatcher(0.0), eps, x_0, unused)
    t = RectifiedFlow()(TIMES)
    torch.testing.assert_close(t.noise(x_0, eps), x_t, rtol=1e-13, atol=1e-14)
    for target in (Velocity(), PathVelocity(RectifiedFlow())):
        torch.testing.assert_close(target.value(x_0, eps, t), u_t, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("sigma_min", [0.0, 1e-4, 0.1])
def test_the_path_of_lipman_et_al_is_their_target_matcher(sigma_min):
    x_0, eps, unused = draws(1)
    x_t, u_t = theirs_of(matching.TargetConditionalFlowMatcher(sigma_min), unused, x_0, eps)
    path = RectifiedFlow(sigma_min)
    t = path(TIMES)
    torch.testing.assert_close(t.noise(x_0, eps), x_t, rtol=1e-13, atol=1e-14)
    # They solve x_t for the noise, which costs digits where sigma is small.
    torch.testing.assert_close(PathVelocity(path).value(x_0, eps, t), u_t, rtol=1e-11, atol=1e-12)


def _squares(x_0, eps):
    return float((x_0 - eps).square().sum())


def test_the_exact_coupling_is_the_permutation_of_their_plan():
    """Their plan is even over one permutation, which is unique where no two costs tie: ours chooses that one."""
    x_0, eps = torch.randn(2, 24, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    plan = torch.from_numpy(transport.OTPlanSampler("exact").get_map(eps, x_0)).T  # rows are images
    torch.testing.assert_close(plan.amax(1), torch.full((24,), 1 / 24, dtype=torch.float64), rtol=1e-9, atol=0)
    ours = OptimalTransport()(x_0, eps, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, eps[plan.argmax(1)], rtol=0, atol=0)
    assert _squares(x_0, ours) < _squares(x_0, eps)


def test_the_entropic_coupling_draws_from_their_plan():
    """Their regularization is of the squared distances; ours is in deviations of these, doubly centred."""
    x_0, eps = torch.randn(2, 4, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    cost = torch.cdist(x_0.flatten(1), eps.flatten(1)).square()
    centred = cost - cost.mean(0) - cost.mean(1, keepdim=True) + cost.mean()
    strength = 0.5
    sampler = transport.OTPlanSampler("sinkhorn", reg=strength * float(centred.square().mean().sqrt()))
    plan = torch.from_numpy(sampler.get_map(eps, x_0)).T
    coupling, n = Sinkhorn(strength), 4000
    counts = torch.zeros(4, 4, dtype=torch.float64)
    source = torch.Generator().manual_seed(7)
    for _ in range(n):
        drawn = coupling(x_0, eps, None, source)
        counts[torch.arange(4), torch.cdist(drawn.flatten(1), eps.flatten(1)).argmin(1)] += 1
    share = plan / plan.sum(1, keepdim=True)
    error = (share * (1 - share) / n).sqrt()
    assert bool(((counts / n - share).abs() <= 4.5 * error + 1e-6).all())


def test_the_cosine_path_is_their_variance_preserving_matcher():
    """Albergo & Vanden-Eijnden's trigonometric interpolant: also π/2 times the v of Salimans & Ho."""
    x_0, eps, unused = draws(2)
    x_t, u_t = theirs_of(matching.VariancePreservingConditionalFlowMatcher(0.0), eps, x_0, unused)
    path = CosineSchedule()
    t = path(TIMES)
    torch.testing.assert_close(t.noise(x_0, eps), x_t, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(PathVelocity(path).value(x_0, eps, t), u_t, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_interpolant_of_a_bridge_is_their_schroedinger_bridge_with_independent_ends(sigma):
    """Its gamma is sigma √(t (1 - t)); their coupling of the ends, by optimal transport, is left out."""
    x_0, z, between = draws(3)
    matcher = matching.SchrodingerBridgeConditionalFlowMatcher(sigma)
    s = 1 - TIMES
    theirs = matcher.sample_xt(z, x_0, s, between)
    u_t = -matcher.compute_conditional_flow(z, x_0, s, theirs)
    path = StochasticInterpolant(Bridge(sigma**2))
    gamma, slope = path.gamma(TIMES)
    t = path(TIMES)
    x_t = scale(t.alpha, x_0) + scale(TIMES, z) + scale(gamma, between)
    torch.testing.assert_close(x_t, theirs, rtol=1e-13, atol=1e-14)
    # They add 1e-8 to the denominator of gamma' / gamma.
    torch.testing.assert_close(z - x_0 + scale(slope, between), u_t, rtol=1e-6, atol=1e-6)


def test_a_path_of_constant_noise_about_the_line_is_their_matcher_with_a_sigma():
    """x_t = (1 - t) x_0 + t z + sigma eps is, as one noise, the path sigma_t = √(t² + sigma²)."""
    sigma = 0.2

    def path(t):
        return Level(1 - t, (t.square() + sigma**2).sqrt(), t)

    x_0, along, across = draws(4)
    t = path(TIMES)
    # The same x_t from two noises whose part across (t, sigma) is free; their velocity's mean over it is ours.
    u_t = torch.zeros_like(x_0)
    for sign in (1, -1):
        z = scale(TIMES / t.sigma, along) - sign * scale(sigma / t.sigma, across)
        eps = scale(sigma / t.sigma, along) + sign * scale(TIMES / t.sigma, across)
        x_t, u = theirs_of(matching.ConditionalFlowMatcher(sigma), z, x_0, eps)
        torch.testing.assert_close(t.noise(x_0, along), x_t, rtol=1e-12, atol=1e-13)
        u_t += u / 2
    torch.testing.assert_close(PathVelocity(path).value(x_0, along, t), u_t, rtol=1e-12, atol=1e-13)
