"""Reverse variances (MATH.md, section 5)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.chains import Chain, cosine, linear
from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.targets import Prediction
from clearwater.variances import FixedLarge, FixedSmall, LearnedNetwork, LearnedRange, Optimal, variance

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
    assert type(variance("learned_range")) is LearnedRange


# --- learned: between the fixed ones


def tables(K):
    """β and β̃ of K even steps over the linear chain; β̃ at the first is that of the second."""
    alpha_bar = np.append(1.0, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[:: 1000 // K]
    beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
    tilde = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta
    tilde[0] = tilde[1]
    return beta, tilde


def said(x_t, *channels):
    return Prediction(x_t, x_t, torch.cat([torch.full_like(x_t, channel) for channel in channels], 1))


@pytest.mark.parametrize("K", [1000, 50, 2])
@pytest.mark.parametrize("extra", [-1.0, -0.4, 0.0, 1.0, 1.7, -2.5])
def test_a_learned_range_is_the_published_interpolation_of_logarithms(K, extra):
    """exp(v log β + (1 - v) log β̃) (Nichol & Dhariwal 2021, eq. 15), v = (extra + 1) / 2, also beyond the ends."""
    beta, tilde = tables(K)
    v, levels, x_t = (extra + 1) / 2, linear(1000).strided(K), torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    for k in (1, 2, K // 2, K):
        expected = math.exp(v * math.log(beta[k - 1]) + (1 - v) * math.log(tilde[k - 1]))
        ours = LearnedRange().of(levels.pair(k), x_t, said(x_t, extra))
        torch.testing.assert_close(ours, torch.full_like(x_t, expected), rtol=1e-9, atol=0)


def test_the_ends_of_a_learned_range_are_the_fixed_variances_but_for_beta_at_data():
    levels, x_t = linear(1000), torch.zeros(4, 1, 1, 1, dtype=torch.float64)
    pair = levels.pair(torch.tensor([1, 2, 400, 1000]))
    small = LearnedRange().of(pair, x_t, said(x_t, -1.0)).flatten()
    large = LearnedRange().of(pair, x_t, said(x_t, 1.0)).flatten()
    torch.testing.assert_close(small, FixedSmall()(pair), rtol=1e-13, atol=0)
    torch.testing.assert_close(large[1:], FixedLarge()(pair)[1:], rtol=1e-13, atol=0)
    assert float(large[0]) == pytest.approx(1e-4, rel=1e-11)  # β_1 itself, as in the paper's code


def test_a_learned_range_is_of_each_pixel_and_each_image_s_own_step():
    beta, tilde = tables(1000)
    k = torch.tensor([1, 30, 1000])
    extra = torch.linspace(-1.5, 1.5, 3 * 2 * 2 * 2, dtype=torch.float64).reshape(3, 2, 2, 2)
    ours = LearnedRange().of(linear(1000).pair(k), torch.zeros_like(extra), Prediction(extra, extra, extra))
    v = (extra.numpy() + 1) / 2
    ends = [np.log(table[k.numpy() - 1])[:, None, None, None] for table in (beta, tilde)]
    np.testing.assert_allclose(ours.numpy(), np.exp(v * ends[0] + (1 - v) * ends[1]), rtol=1e-9)


def test_a_learned_range_without_channels_for_it_is_refused():
    x_t = torch.zeros(1, 1, 2, 2)
    with pytest.raises(InputError, match="twice the channels"):
        LearnedRange().of(linear(100).pair(5), x_t, Prediction(x_t, x_t))


# --- learned: by a network of its own


@pytest.mark.parametrize(
    ("levels", "s", "t"),
    [
        (linear(1000), 499, 500),
        (linear(1000), 3, 800),
        (linear(1000), 0, 1),
        (linear(1000), 0, 700),
        (Chain.from_schedule(VE(), 40), 10, 30),
        (Chain.from_schedule(VE(), 40), 0, 30),
        (Chain.from_schedule(RectifiedFlow(), 40), 10, 30),
    ],
    ids=["adjacent", "stride", "last", "to data", "ve", "ve to data", "flow"],
)
def test_a_variance_network_gives_the_posterior_s_and_the_share_of_the_error(levels, s, t):
    """β̃ + c_0² · error, with the error exp(output) times that of a unit normal prior; no other rule at data."""
    alpha_s, sigma_s = float(levels.levels.alpha[s]), float(levels.levels.sigma[s])
    alpha_t, sigma_t = float(levels.levels.alpha[t]), float(levels.levels.sigma[t])
    kept = 1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2
    prior = 1 / (1 + (alpha_t / sigma_t) ** 2)  # Var(x_0 | x_t) for x_0 ~ N(0, 1)
    x_t = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    asked = []

    def output(x, level):
        asked.append(float(level.time))
        return x.sin()

    pair = Pair(levels.levels[s], levels.levels[t], decoder_variance=torch.tensor(0.3, dtype=torch.float64))
    ours = LearnedNetwork(output).of(pair, x_t, Prediction(x_t, x_t))
    expected = sigma_s**2 * kept + (alpha_s * kept) ** 2 * prior * np.exp(np.sin(x_t.numpy()))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)
    assert asked == [float(levels.levels.time[t])]


def test_a_variance_network_knows_each_image_s_own_step():
    levels, x_t = cosine(20), torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    rule = LearnedNetwork(lambda x, t: x + t.time.reshape(-1, 1, 1, 1))
    k = torch.tensor([1, 7, 20])
    together = rule.of(levels.pair(k), x_t, Prediction(x_t, x_t))
    for i in range(3):
        alone = rule.of(levels.pair(int(k[i])), x_t[i : i + 1], Prediction(x_t, x_t))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-13, atol=0)


def test_a_silent_variance_network_is_the_true_reverse_variance_of_unit_normal_data():
    """Then Var(x_s | x_t) = 1 - a², a the covariance, at every stride."""
    levels = linear(1000)
    for s, t in ((1, 2), (10, 900), (0, 500)):
        pair = Pair(levels.levels[s], levels.levels[t])
        ours = LearnedNetwork(lambda x, t: torch.zeros_like(x)).of(
            pair, torch.zeros(1, 1, dtype=torch.float64), Prediction(torch.zeros(1, 1), torch.zeros(1, 1))
        )
        a = float(pair.t.alpha / pair.s.alpha)
        assert float(ours) == pytest.approx(1 - a * a, rel=1e-10)


# --- measured


@given(st.lists(st.floats(0, 4), min_size=1, max_size=6), st.floats(0.001, 1))
def test_the_optimal_variance_interpolates_the_error_between_the_times_it_was_measured_at(errors, time):
    times = np.linspace(0.2, 0.9, len(errors))
    rule = Optimal(torch.from_numpy(times), torch.tensor(errors, dtype=torch.float64))
    near, far = Level(*torch.tensor([0.9, 0.4, 0.0])), Level(0.6, 0.8, time)
    pair = Pair(near, far)
    delta = 1 - (0.6 / 0.8) ** 2 / (float(near.alpha) / float(near.sigma)) ** 2
    expected = float(near.sigma) ** 2 * delta + (float(near.alpha) * delta) ** 2 * np.interp(time, times, errors)
    assert float(rule(pair)) == pytest.approx(float(expected), rel=1e-9)


def test_the_optimal_variance_at_data_is_the_error_itself():
    """c_0 = 1 and nothing is left of the posterior: no other rule is needed there."""
    levels = linear(100)
    rule = Optimal(levels.levels.time[1:], torch.arange(1.0, 101.0, dtype=torch.float64))
    assert float(rule(levels.pair(1))) == pytest.approx(1.0, rel=1e-12)
    assert float(rule(levels.strided(4).pair(1))) == pytest.approx(25.0, rel=1e-12)


def test_the_optimal_variance_of_a_batch_is_that_of_each_of_its_steps():
    levels = cosine(20)
    rule = Optimal(levels.levels.time[1:], torch.linspace(0, 3, 20, dtype=torch.float64).exp())
    k = torch.tensor([1, 13, 20, 2])
    assert rule(levels.pair(k)).tolist() == [float(rule(levels.pair(int(one)))) for one in k]
