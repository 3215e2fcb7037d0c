"""Reverse variances (MATH.md, section 5)."""

import pytest
import torch

from clearwater.chains import Chain, linear
from clearwater.levels import Pair
from clearwater.schedules import VP, RectifiedFlow
from clearwater.variances import FixedLarge, FixedSmall, variance

both = pytest.mark.parametrize("rule", [FixedLarge(), FixedSmall()], ids=["large", "small"])


@both
def test_at_data_both_are_the_posterior_variance_of_the_second_step(rule):
    assert float(rule(linear(1000).pair(1))) == pytest.approx(5.45318766e-5, rel=1e-9, abs=0)


@both
@pytest.mark.parametrize("K", [2, 10, 50])
def test_at_data_a_strided_chain_takes_the_posterior_variance_of_its_own_second_pair(rule, K):
    stride = 1000 // K
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    first, second = float(alpha_bar[stride - 1]), float(alpha_bar[2 * stride - 1])
    expected = (1 - first) / (1 - second) * (1 - second / first)
    assert float(rule(linear(1000).strided(K).pair(1))) == pytest.approx(expected, rel=1e-11, abs=0)


def test_above_data_they_are_beta_and_beta_tilde_of_ho():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    beta_tilde = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta[1:]
    pairs = linear(1000).pairs
    torch.testing.assert_close(FixedLarge()(pairs)[1:], beta[1:], rtol=1e-11, atol=0)
    torch.testing.assert_close(FixedSmall()(pairs)[1:], beta_tilde, rtol=1e-11, atol=0)
    for rule in (FixedLarge(), FixedSmall()):
        assert float(rule(pairs)[0]) == pytest.approx(float(beta_tilde[0]), rel=1e-11, abs=0)


def test_the_rule_at_data_changes_only_the_pairs_at_data():
    levels = linear(100)
    k = torch.tensor([1, 7, 1, 100])
    plain = Pair(levels.levels[k - 1], levels.levels[k])
    for rule in (FixedLarge(), FixedSmall()):
        ruled, unruled = rule(levels.pair(k)), rule(plain)
        assert ruled[[1, 3]].tolist() == unruled[[1, 3]].tolist()
        assert ruled[[0, 2]].tolist() == [float(levels.pair(2).posterior_variance)] * 2


def test_without_a_decoder_variance_they_are_what_the_formulas_say_at_data():
    levels = linear(1000).levels
    pair = Pair(levels[0], levels[1])
    assert float(FixedLarge()(pair)) == pytest.approx(1e-4, rel=1e-11, abs=0)
    assert float(FixedSmall()(pair)) == 0


@pytest.mark.parametrize("levels", [linear(1000), Chain.from_schedule(VP(), 1000)], ids=["linear", "vp"])
def test_a_chain_of_one_step_has_no_second_pair_to_take_from(levels):
    pair = levels.strided(1).pair(1)
    assert float(FixedLarge()(pair)) == pytest.approx(float(levels.levels.sigma[-1]) ** 2, rel=1e-14, abs=0)
    assert float(FixedSmall()(pair)) == 0


@pytest.mark.parametrize("K", [3, 40, 1000])
def test_large_is_the_true_reverse_variance_of_normal_data(K):
    """x_0 ~ N(0, 1) on a VP chain: (x_s, x_t) has unit variances and covariance a, so Var(x_s | x_t) = 1 - a²."""
    levels = linear(1000).strided(K)
    for k in (2, K // 2 + 1, K):
        pair = levels.pair(k)
        a = float(pair.t.alpha / pair.s.alpha)
        assert float(FixedLarge()(pair)) == pytest.approx(1 - a * a, rel=1e-10, abs=0)


@pytest.mark.parametrize(
    "levels",
    [linear(1000), linear(1000).strided(30), Chain.from_schedule(RectifiedFlow(), 40)],
    ids=["linear", "strided", "flow"],
)
def test_small_is_the_true_reverse_variance_of_a_single_point(levels):
    """Then Var(x_s) = sigma_s² and Cov(x_s, x_t) = a sigma_s²."""
    for k in (2, levels.T // 2, levels.T):
        pair = levels.pair(k)
        s, t, a = float(pair.s.sigma) ** 2, float(pair.t.sigma) ** 2, float(pair.t.alpha / pair.s.alpha)
        assert float(FixedSmall()(pair)) == pytest.approx(s - (a * s) ** 2 / t, rel=1e-10, abs=0)


@pytest.mark.parametrize(("index", "expected"), [(0, 0.0), (487, 0.00979), (999, 0.02)])
def test_posterior_variances_are_those_of_diffusers_shared_test(index, expected):
    assert float(linear(1000).pairs.posterior_variance[index]) == pytest.approx(expected, abs=1e-5)


def test_variances_are_found_by_name():
    assert type(variance("fixed_large")) is FixedLarge
    assert type(variance("fixed_small")) is FixedSmall
