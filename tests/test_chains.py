"""Chains: their anchors (MATH.md, section 1), q(x_t | x_0) as t steps of q(x_t | x_s), and strides."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import Chain, chain, cosine, half_linear, linear, sigmoid
from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers import DDPMScheduler

CHAINS = {
    "linear": linear(1000),
    "half_linear": half_linear(1000),
    "cosine": cosine(1000),
    "sigmoid": sigmoid(1000),
    "short": linear(30),
    "vp": Chain.from_schedule(VP(), 100),
    "cosine schedule": Chain.from_schedule(CosineSchedule(), 100),
    "ve": Chain.from_schedule(VE(), 100),
    "flow": Chain.from_schedule(RectifiedFlow(), 100),
}
every_chain = pytest.mark.parametrize("levels", CHAINS.values(), ids=CHAINS.keys())


def test_linear_chain_has_the_anchors_of_the_paper():
    levels = linear(1000)
    assert float(levels.alpha_bar[-1]) == pytest.approx(4.035829765e-5, rel=1e-9, abs=0)
    assert float(levels.pairs.posterior_variance[0]) == 0
    assert float(levels.pairs.posterior_variance[1]) == pytest.approx(5.45318766e-5, rel=1e-9, abs=0)
    assert float(levels.beta[0]) == pytest.approx(1e-4, rel=1e-11, abs=0)
    assert float(levels.beta[-1]) == pytest.approx(0.02, rel=1e-12, abs=0)


def test_half_linear_chain_ends_at_exp_minus_five():
    log_alpha = half_linear(1000).levels.alpha.log()
    assert float(log_alpha[-1]) == pytest.approx(-5.03872, abs=5e-6)
    assert float(half_linear(1000).alpha_bar[-1]) == pytest.approx(4.20167e-5, abs=5e-11)
    # To first order ½ Σ log(1 - 0.02 k/T) is -½ · 0.02 · (T + 1) / 2; the second order is -¼ Σ (0.02 k/T)².
    second = -0.25 * sum((0.02 * k / 1000) ** 2 for k in range(1, 1001))
    assert float(log_alpha[-1]) == pytest.approx(-0.005 * 1001 + second, abs=1e-3)


def test_weight_of_the_noise_error_has_its_anchors():
    """Approach 3 of MATH.md, section 4, with sigma_q² = beta, made of the coefficients of the pairs (Ho, eq. 12)."""
    pairs = linear(1000).pairs
    eps_in_mean = pairs.c_0 * pairs.t.sigma / pairs.t.alpha  # an error of 1 in eps moves x_0 by sigma / alpha
    weight = eps_in_mean.square() / (2 * pairs.transition_variance)
    assert float(weight[0]) == pytest.approx(0.50005, abs=5e-7)
    assert int(weight.argmin()) + 1 == 349
    assert float(weight.min()) == pytest.approx(0.0049679, abs=5e-8)
    assert float(weight[-1]) == pytest.approx(0.0102045, abs=5e-8)


def test_cosine_chain_clips_only_its_last_beta_at_0_999():
    beta = cosine(1000).beta
    assert float(beta[-1]) == pytest.approx(0.999, rel=1e-14, abs=0)
    assert float(beta[:-1].max()) < 0.999


def test_cosine_chain_follows_the_squared_cosine_below_the_clip():
    k = torch.arange(1000, dtype=torch.float64)
    angle = (k / 1000 + 0.008) / 1.008 * math.pi / 2
    expected = angle.cos().square() / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(cosine(1000).alpha_bar[:-1], expected, rtol=1e-10, atol=0)


def test_sigmoid_chain_follows_jabri_s_formula_below_the_clip():
    def gamma(t, start=-3, end=3):
        def logistic(x):
            return 1 / (1 + math.exp(-x))

        return (logistic(end) - logistic(t * (end - start) + start)) / (logistic(end) - logistic(start))

    alpha_bar = sigmoid(1000).alpha_bar
    assert alpha_bar[:-1].tolist() == pytest.approx([gamma(k / 1000) for k in range(1000)], rel=1e-9, abs=0)
    assert float(alpha_bar[500]) == pytest.approx(0.5, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")], ids=["linear", "cosine"]
)
@pytest.mark.parametrize("T", [100, 1000])
def test_chains_agree_with_diffusers_single_precision_tables(ours, theirs, T):
    rate = 1000 / T
    table = DDPMScheduler(T, beta_start=1e-4 * rate, beta_end=0.02 * rate, beta_schedule=theirs)
    torch.testing.assert_close(chain(ours, T).beta.float(), table.betas, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(chain(ours, T).alpha_bar[1:].float(), table.alphas_cumprod, rtol=2e-4, atol=1e-7)


@every_chain
def test_marginal_is_t_applications_of_the_transition(levels):
    """In moments: the coefficients multiply, and each step scales the variance so far and adds its own."""
    pairs, coefficient, variance = levels.pairs, 1.0, 0.0
    for k in range(levels.T):
        a, v = float(pairs.transition_coefficient[k]), float(pairs.transition_variance[k])
        coefficient, variance = a * coefficient, a * a * variance + v
        assert coefficient == pytest.approx(float(levels.levels.alpha[k + 1]), rel=1e-12, abs=0)
        assert variance == pytest.approx(float(levels.levels.sigma[k + 1]) ** 2, rel=1e-12, abs=0)


@every_chain
def test_chains_begin_at_data_and_their_times_run_from_0_to_1(levels):
    assert (float(levels.levels.alpha[0]), float(levels.levels.sigma[0])) == (1, 0)
    expected = [k / levels.T for k in range(levels.T + 1)]
    assert levels.levels.time.tolist() == pytest.approx(expected, abs=1e-15)


@settings(deadline=None)
@given(st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=40))
def test_a_chain_of_betas_gives_the_betas_back_and_preserves_variance(beta):
    levels = Chain.from_betas(torch.tensor(beta, dtype=torch.float64))
    # alpha_bar near 0 leaves log-SNR an absolute error of 1e-16 times its size, hence the second term.
    slack = 1e-14 * (1 + abs(float(levels.levels.log_snr[-1])))
    for k, b in enumerate(beta):
        assert float(levels.beta[k]) == pytest.approx(b, rel=slack / b, abs=0)
    total = levels.levels.alpha.square() + levels.levels.sigma.square()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-14, atol=0)
    product = math.prod(1 - b for b in beta)
    assert float(levels.alpha_bar[-1]) == pytest.approx(product, rel=1e-12, abs=0)


@pytest.mark.parametrize("K", [1, 2, 7, 10, 50, 999, 1000])
def test_a_stride_keeps_both_ends_spreads_evenly_and_keeps_the_times(K):
    levels, strided = linear(1000), linear(1000).strided(K)
    assert strided.T == K
    k = (strided.levels.time * 1000).round().long()
    assert (int(k[0]), int(k[-1])) == (0, 1000)
    # Even to within the rounding of one level.
    assert all(abs(int(i) - j * 1000 / K) <= 0.5 for j, i in enumerate(k))
    assert torch.equal(strided.levels.alpha, levels.levels.alpha[k])
    assert torch.equal(strided.levels.sigma, levels.levels.sigma[k])


@pytest.mark.parametrize("name", ["linear", "cosine", "ve", "flow"])
def test_strided_pairs_are_the_composition_of_the_pairs_between(name):
    levels = CHAINS[name]
    strided = levels.strided(7)
    k = (strided.levels.time * levels.T).round().long().tolist()
    for j in range(1, 8):
        coefficient, variance = 1.0, 0.0
        for i in range(k[j - 1] + 1, k[j] + 1):
            step = levels.pair(i)
            a = float(step.transition_coefficient)
            coefficient, variance = a * coefficient, a * a * variance + float(step.transition_variance)
        pair = strided.pair(j)
        assert float(pair.transition_coefficient) == pytest.approx(coefficient, rel=1e-12, abs=0)
        assert float(pair.transition_variance) == pytest.approx(variance, rel=1e-12, abs=0)


@every_chain
def test_the_pair_k_stands_between_the_levels_k_minus_1_and_k(levels):
    for k in (1, 2, levels.T):
        pair = levels.pair(k)
        assert float(pair.s.time) == pytest.approx((k - 1) / levels.T, abs=1e-15)
        assert float(pair.t.time) == pytest.approx(k / levels.T, abs=1e-15)
    batch = levels.pair(torch.tensor([levels.T, 1]))
    assert batch.t.sigma.tolist() == [float(levels.levels.sigma[-1]), float(levels.levels.sigma[1])]


def test_every_pair_of_a_chain_carries_the_posterior_variance_of_its_second_pair():
    for levels in (linear(1000), linear(1000).strided(10), CHAINS["flow"]):
        second = Pair(levels.levels[1], levels.levels[2]).posterior_variance
        assert float(levels.pair(1).decoder_variance) == float(second)
    assert linear(1000).strided(1).pair(1).decoder_variance is None


@pytest.mark.parametrize(
    ("name", "expected"), [("linear", 1), ("half_linear", 1), ("short", 1), ("vp", 1), ("flow", 1), ("ve", 80.0**2)]
)
def test_the_prior_is_standard_normal_unless_the_variance_explodes(name, expected):
    assert float(CHAINS[name].prior_variance) == pytest.approx(expected, rel=1e-14, abs=0)


def test_a_chain_of_another_length_ends_at_about_the_same_noise():
    """Half the steps at twice the rate: -log alpha_bar_T = Σ beta + ½ Σ beta² + …, and Σ beta is the same."""
    for make in (linear, half_linear):
        assert float(make(500).beta.sum()) == pytest.approx(float(make(1000).beta.sum()), rel=2e-3, abs=0)
        assert float(make(500).levels.log_snr[-1]) == pytest.approx(float(make(1000).levels.log_snr[-1]), abs=0.1)


def _cut(schedule):
    return lambda T: Chain.from_schedule(schedule, T)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("linear", linear),
        ("half_linear", half_linear),
        ("cosine", cosine),
        ("sigmoid", sigmoid),
        ("vp", _cut(VP())),
        ("flow", _cut(RectifiedFlow())),
    ],
)
def test_chains_are_found_by_name(name, make):
    made = make(250)
    assert torch.equal(chain(name, 250).levels.alpha, made.levels.alpha)


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(InputError, match="linear, half_linear, cosine, sigmoid, vp, flow"):
        chain("quadratic")


@pytest.mark.parametrize("beta", [[0.0, 0.1], [0.1, 1.0], [0.1, -0.1], [0.1, math.nan]])
def test_betas_outside_0_to_1_are_refused(beta):
    with pytest.raises(InputError, match="between 0 and 1"):
        Chain.from_betas(torch.tensor(beta))


@pytest.mark.parametrize("make", [linear, half_linear])
def test_so_few_steps_that_beta_would_reach_1_are_refused(make):
    with pytest.raises(InputError, match="more levels"):
        make(20)


@pytest.mark.parametrize("make", [linear, half_linear, cosine, sigmoid, lambda T: Chain.from_schedule(VP(), T)])
def test_a_chain_without_steps_is_refused(make):
    with pytest.raises(InputError, match="at least one step"):
        make(0)


def test_levels_that_are_no_chain_are_refused():
    def levels(alpha, sigma):
        return Level(torch.tensor(alpha), torch.tensor(sigma), torch.linspace(0, 1, len(alpha)))

    with pytest.raises(InputError, match="sigma = 0"):
        Chain(levels([0.9, 0.5], [0.1, 0.5]))
    with pytest.raises(InputError, match="less noise"):
        Chain(levels([1.0, 0.5, 0.9], [0.0, 0.5, 0.1]))
    with pytest.raises(InputError, match="two levels"):
        Chain(levels([1.0], [0.0]))


@pytest.mark.parametrize("k", [0, -1, 31, [1, 31]])
def test_steps_outside_the_chain_are_refused(k):
    with pytest.raises(InputError, match="from 1 to 30"):
        linear(30).pair(torch.tensor(k))


@pytest.mark.parametrize("K", [0, -3, 31])
def test_strides_of_more_steps_than_there_are_or_of_none_are_refused(K):
    with pytest.raises(InputError, match="from 1 to 30"):
        linear(30).strided(K)
