"""Two levels, and every coefficient of q(x_t | x_s) and q(x_s | x_t, x_0) (MATH.md, sections 1 and 2)."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import linear
from clearwater.errors import InputError
from clearwater.levels import Level, Pair, scale

FAMILIES = {
    "vp": lambda x: ((1 + math.exp(-x)) ** -0.5, (1 + math.exp(x)) ** -0.5),
    "ve": lambda x: (1.0, math.exp(-x / 2)),
    "flow": lambda x: (1 / (1 + math.exp(-x / 2)), 1 / (1 + math.exp(x / 2))),
}


def level(alpha: float, sigma: float) -> Level:
    return Level(*torch.tensor([alpha, sigma, 0.5], dtype=torch.float64))


@st.composite
def level_chains(draw, n):
    """`n` levels of one family, from less noise to more, and the relative error that rounding may cause."""
    family = FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))]
    log_snr = [draw(st.floats(-2, 12))]
    gaps = [draw(st.floats(1e-4, 6)) for _ in range(n - 1)]
    for gap in gaps:
        log_snr.append(log_snr[-1] - gap)
    # delta is a difference of log-SNR: each carries a rounding error of its own size.
    rounding = 1e-15 * (4 + sum(abs(x) for x in log_snr)) * (1 + 1 / min(gaps))
    return [level(*family(x)) for x in log_snr], rounding


def exact(x):
    """A tensor's float64 value, without rounding."""
    return Decimal(float(x))


@settings(deadline=None)
@given(level_chains(2))
def test_posterior_is_the_product_of_prior_and_likelihood(case):
    """Bayes in precision form, in 60 digits: N(alpha_s x_0, sigma_s²) times N(x_t; a x_s, v)."""
    (s, t), rounding = case
    pair = Pair(s, t)
    with localcontext() as context:
        context.prec = 60
        a = exact(t.alpha) / exact(s.alpha)
        v = exact(t.sigma) ** 2 - (a * exact(s.sigma)) ** 2
        precision = 1 / exact(s.sigma) ** 2 + a**2 / v
        expected = {
            "transition_coefficient": a,
            "transition_variance": v,
            "posterior_variance": 1 / precision,
            "c_0": exact(s.alpha) / exact(s.sigma) ** 2 / precision,
            "c_t": a / v / precision,
        }
    for name, value in expected.items():
        assert float(getattr(pair, name)) == pytest.approx(float(value), rel=rounding, abs=0), name


@settings(deadline=None)
@given(level_chains(3))
def test_two_transitions_compose_to_the_transition_of_the_outer_levels(case):
    (s, u, t), rounding = case
    low, high, both = Pair(s, u), Pair(u, t), Pair(s, t)
    coefficient = float(high.transition_coefficient * low.transition_coefficient)
    variance = float(high.transition_coefficient**2 * low.transition_variance + high.transition_variance)
    assert float(both.transition_coefficient) == pytest.approx(coefficient, rel=1e-14, abs=0)
    assert float(both.transition_variance) == pytest.approx(variance, rel=rounding, abs=0)


@settings(deadline=None)
@given(level_chains(3))
def test_two_posteriors_compose_to_the_posterior_of_the_outer_levels(case):
    """q(x_s | x_t, x_0) is q(x_s | x_u, x_0) averaged over q(x_u | x_t, x_0): a strided chain needs no second table."""
    (s, u, t), rounding = case
    low, high, both = Pair(s, u), Pair(u, t), Pair(s, t)
    assert float(both.c_t) == pytest.approx(float(low.c_t * high.c_t), rel=1e-13, abs=0)
    assert float(both.c_0) == pytest.approx(float(low.c_0 + low.c_t * high.c_0), rel=rounding, abs=0)
    variance = float(low.posterior_variance + low.c_t**2 * high.posterior_variance)
    assert float(both.posterior_variance) == pytest.approx(variance, rel=rounding, abs=0)


@settings(deadline=None)
@given(level_chains(2))
def test_posterior_averaged_over_x_t_is_the_marginal_of_x_s(case):
    (s, t), rounding = case
    pair = Pair(s, t)
    assert float(pair.c_0 + pair.c_t * t.alpha) == pytest.approx(float(s.alpha), rel=rounding, abs=0)
    variance = float(pair.posterior_variance + (pair.c_t * t.sigma) ** 2)
    assert variance == pytest.approx(float(s.sigma**2), rel=rounding, abs=0)


@settings(deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.floats(-12, 12))
def test_from_data_the_transition_is_the_marginal_and_the_posterior_is_the_point_x_0(family, log_snr):
    t = level(*FAMILIES[family](log_snr))
    pair = Pair(level(1.0, 0.0), t)
    assert float(pair.delta) == 1
    assert float(pair.transition_coefficient) == float(t.alpha)
    assert float(pair.transition_variance) == float(t.sigma**2)
    assert (float(pair.posterior_variance), float(pair.c_0), float(pair.c_t)) == (0, 1, 0)


def test_at_pure_noise_the_posterior_forgets_x_t():
    s, t = level(0.6, 0.8), level(0.0, 1.0)
    pair = Pair(s, t)
    assert (float(pair.transition_coefficient), float(pair.transition_variance)) == (0, 1)
    assert (float(pair.c_0), float(pair.c_t)) == (0.6, 0)
    assert float(pair.posterior_variance) == pytest.approx(0.64, rel=1e-15, abs=0)


def test_on_adjacent_vp_levels_the_coefficients_are_ho_s():
    """Ho et al. 2020, eqs. 2 and 7 in 50 digits; the accuracies are those that MATH.md states (to one digit)."""
    pairs = linear(1000).pairs
    with localcontext() as context:
        context.prec = 50
        beta = [(1 + Decimal(199) * k / 999) / 10000 for k in range(1000)]
        alpha_bar = [Decimal(1)]
        for b in beta:
            alpha_bar.append(alpha_bar[-1] * (1 - b))
        steps = list(zip(alpha_bar[:-1], alpha_bar[1:], beta, strict=True))
        ho = {
            "transition_coefficient": ([(1 - b).sqrt() for b in beta], 1e-15),
            "transition_variance": (beta, 2.5e-15),
            "posterior_variance": ([(1 - s) / (1 - t) * b for s, t, b in steps], 2.5e-15),
            "c_0": ([s.sqrt() * b / (1 - t) for s, t, b in steps], 3e-13),
            "c_t": ([(1 - b).sqrt() * (1 - s) / (1 - t) for s, t, b in steps], 1e-14),
        }
        for name, (values, accuracy) in ho.items():
            error = max(abs(exact(x) - y) for x, y in zip(getattr(pairs, name), values, strict=True))
            assert error < accuracy, name


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("log_snr", [-30.0, -3.0, 0.0, 5.0, 30.0])
def test_log_snr_is_the_logarithm_of_alpha_squared_over_sigma_squared(family, log_snr):
    x = level(*FAMILIES[family](log_snr))
    assert float(x.log_snr) == pytest.approx(log_snr, abs=1e-13)
    assert float(x.snr) == pytest.approx(math.exp(log_snr), rel=1e-12, abs=0)


def test_log_snr_is_infinite_at_data_and_at_pure_noise():
    assert float(level(1.0, 0.0).log_snr) == math.inf
    assert float(level(0.0, 1.0).log_snr) == -math.inf


def test_noise_mixes_data_and_noise_with_each_image_s_own_level():
    x_0 = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    eps = torch.tensor([[10.0, 20.0], [30.0, 40.0]], dtype=torch.float64)
    levels = Level(torch.tensor([0.5, 0.0]), torch.tensor([0.25, 1.0]), torch.tensor([0.1, 0.2]))
    assert levels.noise(x_0, eps).tolist() == [[3.0, 6.0], [30.0, 40.0]]


def test_levels_are_kept_in_float64_whatever_they_are_made_of():
    made = Level(torch.tensor([0.5], dtype=torch.float32), torch.tensor([0.25], dtype=torch.float16), torch.tensor([1]))
    assert [x.dtype for x in (made.alpha, made.sigma, made.time)] == [torch.float64] * 3


@pytest.mark.parametrize("index", [3, slice(1, 4), torch.tensor([4, 0, 4])])
def test_indexing_takes_the_same_levels_of_all_three(index):
    grid = torch.arange(6, dtype=torch.float64)
    taken = Level(grid, 10 + grid, 20 + grid)[index]
    assert torch.equal(taken.alpha, grid[index])
    assert torch.equal(taken.sigma, 10 + grid[index])
    assert torch.equal(taken.time, 20 + grid[index])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scale_rounds_the_coefficient_once_to_the_dtype_of_the_image(dtype):
    third = torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)
    x = torch.ones(2, 1, 2, 2, dtype=dtype)
    expected = third.to(dtype).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert torch.equal(scale(third, x), expected)
    assert scale(third, x).dtype == dtype


def test_shapes_that_differ_are_refused():
    with pytest.raises(InputError, match="one shape"):
        Level(torch.ones(2), torch.ones(3), torch.ones(2))


@pytest.mark.parametrize(
    ("s", "t"),
    [
        pytest.param(level(0.6, 0.8), level(0.8, 0.6), id="swapped"),
        pytest.param(level(0.6, 0.8), level(0.6, 0.8), id="equal"),
        pytest.param(
            Level(torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.6]), torch.zeros(2)),
            Level(torch.tensor([0.6, 0.9]), torch.tensor([0.8, 0.5]), torch.ones(2)),
            id="one of a batch swapped",
        ),
        pytest.param(
            Level(torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.6]), torch.zeros(2)), level(0.6, 0.8), id="shapes"
        ),
        pytest.param(level(math.nan, 0.8), level(0.6, 0.8), id="not a number"),
    ],
)
def test_a_pair_needs_less_noise_at_s_everywhere(s, t):
    with pytest.raises(InputError, match="less noise"):
        Pair(s, t)
