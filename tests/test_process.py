"""The forward process and its posterior, as distributions over images."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import Chain, linear
from clearwater.process import marginal, posterior, transition
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow

CHAINS = {
    "linear": linear(100),
    "vp": Chain.from_schedule(VP(), 30),
    "cosine": Chain.from_schedule(CosineSchedule(), 30),
    "ve": Chain.from_schedule(VE(), 30),
    "flow": Chain.from_schedule(RectifiedFlow(), 30),
}
every_chain = pytest.mark.parametrize("levels", CHAINS.values(), ids=CHAINS.keys())


@every_chain
def test_noising_step_by_step_gives_the_marginal(levels):
    """Mean and variance of t applications of q(x_t | x_s) to x_0, image by image."""
    x_0 = torch.tensor([[[-1.0, 0.25]], [[0.5, 1.0]]], dtype=torch.float64)
    mean, variance = x_0, torch.zeros(1, 1, 1, dtype=torch.float64)
    for k in range(1, levels.T + 1):
        pair = levels.pair(k)
        at_mean, beside = transition(mean, pair), transition(mean + 1, pair)
        gain = (beside.mean - at_mean.mean).mean()
        mean, variance = at_mean.mean, gain**2 * variance + at_mean.variance
        expected = marginal(x_0, levels.levels[k])
        torch.testing.assert_close(mean, expected.mean, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(variance, expected.variance, rtol=1e-12, atol=0)


@every_chain
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_bayes_rule_holds_for_the_densities_at_any_point(levels, data):
    """log q(x_s | x_t, x_0) + log q(x_t | x_0) = log q(x_t | x_s) + log q(x_s | x_0), strides included."""
    strided = levels.strided(data.draw(st.integers(2, levels.T)))
    pair = strided.pair(data.draw(st.integers(2, strided.T)))
    value = st.floats(-3, 3)
    x_0, e_s, e_t = (torch.tensor([[data.draw(value)]], dtype=torch.float64) for _ in range(3))
    x_s, x_t = pair.s.noise(x_0, e_s), pair.t.noise(x_0, e_t)
    left = posterior(x_t, x_0, pair).log_prob(x_s) + marginal(x_0, pair.t).log_prob(x_t)
    right = transition(x_s, pair).log_prob(x_t) + marginal(x_0, pair.s).log_prob(x_s)
    # The squared distances in units of the deviations can be large: digits are relative to them.
    size = 1 + float(right.abs()) + float(transition(x_s, pair).log_prob(x_t).abs())
    assert float(left) == pytest.approx(float(right), abs=1e-11 * size)


@every_chain
def test_at_data_the_posterior_is_the_point_x_0(levels):
    x_0, x_t = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    for K in (1, 3, levels.T):
        at_data = posterior(x_t, x_0, levels.strided(K).pair(1))
        assert torch.equal(at_data.mean, x_0)
        assert float(at_data.variance) == 0


def test_the_posterior_mean_and_variance_are_ho_s_equation_7():
    levels, (x_0, x_t) = linear(1000), torch.tensor([[[0.3]], [[-1.2]]], dtype=torch.float64)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    for t in (2, 10, 500, 1000):
        b, a_t, a_s = float(beta[t - 1]), float(alpha_bar[t - 1]), float(alpha_bar[t - 2])
        mean = a_s**0.5 * b / (1 - a_t) * 0.3 + (1 - b) ** 0.5 * (1 - a_s) / (1 - a_t) * -1.2
        actual = posterior(x_t, x_0, levels.pair(t))
        assert float(actual.mean) == pytest.approx(mean, rel=1e-10, abs=0)
        assert float(actual.variance) == pytest.approx((1 - a_s) / (1 - a_t) * b, rel=1e-10, abs=0)


def test_every_image_of_a_batch_has_its_own_level():
    levels = linear(100)
    x_0, x_t = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    k = torch.tensor([1, 40, 100])
    batch = [marginal(x_0, levels.levels[k]), transition(x_0, levels.pair(k)), posterior(x_t, x_0, levels.pair(k))]
    for i, of_image in enumerate(k.tolist()):
        pair, one = levels.pair(of_image), slice(i, i + 1)
        alone = [marginal(x_0[one], pair.t), transition(x_0[one], pair), posterior(x_t[one], x_0[one], pair)]
        for whole, single in zip(batch, alone, strict=True):
            torch.testing.assert_close(whole.mean[one], single.mean, rtol=1e-15, atol=0)
            torch.testing.assert_close(whole.variance[one], single.variance, rtol=1e-15, atol=0)


def test_single_precision_images_lose_only_their_own_rounding():
    """Coefficients are float64 until the last multiplication; tables in float32 would lose 1e-4 here."""
    pair = linear(1000).pair(2)
    x_0, x_t = torch.full((1, 1), 0.3), torch.full((1, 1), 0.31)
    single, double = posterior(x_t, x_0, pair), posterior(x_t.double(), x_0.double(), pair)
    assert single.mean.dtype == single.variance.dtype == torch.float32
    assert float(single.mean) == pytest.approx(float(double.mean), rel=2e-7, abs=0)
    assert float(single.variance) == pytest.approx(float(double.variance), rel=6e-8, abs=0)
