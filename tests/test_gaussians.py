"""Diagonal Gaussians against scipy, torch.distributions, and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Normal, kl_divergence

from clearwater.chains import half_linear, linear
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.process import marginal

means = st.floats(-5, 5)
log_variances = st.floats(-3, 3)


def gaussian(mean, variance, dtype=torch.float64):
    return Gaussian(torch.tensor([mean], dtype=dtype), torch.tensor([variance], dtype=dtype))


@settings(deadline=None)
@given(means, log_variances, means, log_variances)
def test_kl_agrees_with_torch_distributions(m_q, l_q, m_p, l_p):
    q, p = gaussian(m_q, math.exp(l_q)), gaussian(m_p, math.exp(l_p))
    expected = kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(p.mean, p.variance.sqrt()))
    torch.testing.assert_close(q.kl(p), expected, rtol=1e-10, atol=1e-13)


@settings(deadline=None)
@given(means, log_variances, means, log_variances)
def test_kl_is_the_mean_difference_of_the_log_densities(m_q, l_q, m_p, l_p):
    """Log densities are quadratic, so three Gauss-Hermite nodes give the expectation under q exactly."""
    q, p = gaussian(m_q, math.exp(l_q)), gaussian(m_p, math.exp(l_p))
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    x = q.sample(torch.from_numpy(nodes))
    expected = ((q.log_prob(x) - p.log_prob(x)) * torch.from_numpy(weights / weights.sum())).sum()
    scale = 1 + float(p.log_prob(x).abs().max())
    assert float(q.kl(p)) == pytest.approx(float(expected), abs=1e-12 * scale)


@settings(deadline=None)
@given(means, log_variances, means, log_variances)
def test_kl_is_zero_only_between_equals_and_never_negative(m_q, l_q, m_p, l_p):
    q, p = gaussian(m_q, math.exp(l_q)), gaussian(m_p, math.exp(l_p))
    assert float(q.kl(q)) == 0
    assert float(q.kl(p)) >= 0


@pytest.mark.parametrize(("closeness", "digits"), [(1e-3, 1e-11), (1e-6, 1e-8), (1e-9, 1e-5)])
@pytest.mark.parametrize("v_q", [1.0, 5.45318766e-5, 0.02])
def test_kl_keeps_its_digits_where_the_variances_are_almost_equal(v_q, closeness, digits):
    """½(u - log(1 + u)) = u²/4 - u³/6 + u⁴/8 - …, u = v_q/v_p - 1 in exact rational arithmetic."""
    v_p = v_q * (1 + closeness)
    u = float((Fraction(v_q) - Fraction(v_p)) / Fraction(v_p))
    series = sum((-1) ** n * u**n / (2 * n) for n in range(2, 12))
    assert float(gaussian(0.3, v_q).kl(gaussian(0.3, v_p))) == pytest.approx(series, rel=digits, abs=0)


@pytest.mark.parametrize(
    ("v_q", "v_p", "dtype"),
    [
        (1e-8, 1.0, torch.float32),
        (1e-20, 1.0, torch.float64),
        (1e-12, 1e-2, torch.float64),
        (1.0, 1e-8, torch.float32),
        (1e20, 1.0, torch.float64),
    ],
)
def test_kl_is_right_where_the_variances_are_far_apart(v_q, v_p, dtype):
    q, p = gaussian(0.5, v_q, dtype), gaussian(0.5, v_p, dtype)
    expected = 0.5 * (math.log(v_p) - math.log(v_q) - 1 + v_q / v_p)
    assert float(q.kl(p)) == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12, abs=0)


@settings(deadline=None)
@given(means, log_variances, st.floats(-20, 20))
def test_log_density_and_entropy_agree_with_scipy(mean, log_variance, x):
    deviation = math.exp(log_variance / 2)
    of = gaussian(mean, deviation**2)
    expected = stats.norm.logpdf(x, loc=mean, scale=deviation)
    assert float(of.log_prob(torch.tensor([x], dtype=torch.float64))) == pytest.approx(expected, rel=1e-11, abs=1e-11)
    assert float(of.entropy()) == pytest.approx(float(stats.norm.entropy(mean, deviation)), rel=1e-12, abs=1e-12)


def test_a_sample_has_the_quantiles_of_the_distribution():
    quantiles = np.linspace(0.01, 0.99, 25)
    drawn = gaussian(-0.7, 2.5).sample(torch.from_numpy(stats.norm.ppf(quantiles)))
    assert stats.norm.cdf(drawn.numpy(), loc=-0.7, scale=math.sqrt(2.5)) == pytest.approx(quantiles, rel=1e-12, abs=0)


def test_a_point_is_its_own_sample():
    point = gaussian(0.25, 0.0)
    assert torch.equal(point.sample(torch.tensor([3.0], dtype=torch.float64)), point.mean)


def test_a_variance_per_image_broadcasts_over_its_pixels():
    mean, x = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    variance = torch.tensor([0.5, 3.0], dtype=torch.float64)
    expected = stats.norm.logpdf(x.numpy(), mean.numpy(), variance.sqrt().numpy()[:, None, None, None])
    actual = Gaussian(mean, variance.reshape(2, 1, 1, 1)).log_prob(x)
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "ask",
    [
        lambda point, other: point.log_prob(other.mean),
        lambda point, other: point.entropy(),
        lambda point, other: point.kl(other),
        lambda point, other: other.kl(point),
    ],
    ids=["log density", "entropy", "KL from a point", "KL to a point"],
)
@pytest.mark.parametrize("bad", [0.0, -1e-9, math.nan])
def test_a_variance_that_is_not_above_zero_has_no_density(ask, bad):
    point = Gaussian(torch.zeros(2), torch.tensor([1.0, bad]))
    with pytest.raises(InputError, match="variance above zero"):
        ask(point, Gaussian(torch.zeros(2), torch.ones(2)))


def test_the_prior_term_of_the_linear_chain_is_7e_6_bits_per_dimension():
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)) where E[x_0²] = 0.25, "≈ 1e-5 bits" in the paper (MATH.md, section 1)."""
    x_0 = torch.tensor([[-0.5, 0.5]], dtype=torch.float64)
    prior = gaussian(0.0, 1.0)
    bits = marginal(x_0, linear(1000).levels[1000]).kl(prior) / math.log(2)
    assert bits.mean().item() == pytest.approx(7.2787e-6, abs=5e-11)
    for levels in (linear(1000), half_linear(1000)):
        a = float(levels.alpha_bar[-1])
        formula = 0.5 * (a * 0.25 - a - math.log1p(-a))
        assert marginal(x_0, levels.levels[levels.T]).kl(prior).mean().item() == pytest.approx(formula, rel=1e-9, abs=0)


def test_the_gradient_of_a_kl_to_a_much_wider_gaussian_is_not_lost():
    """d/dv of ½[log v - 1 + q/v] at v = 1 is ½(1 - q), also where q / v - 1 rounds to -1."""
    mean, v = torch.zeros(1), torch.ones(1, requires_grad=True)
    kl = Gaussian(mean, torch.tensor([1e-9])).kl(Gaussian(mean, v))
    (gradient,) = torch.autograd.grad(kl.sum(), v)
    assert float(gradient) == pytest.approx(0.5, rel=1e-6)
