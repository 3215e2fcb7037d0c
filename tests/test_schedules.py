"""Continuous schedules: end points, the equations that define them, and their limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.chains import Chain, linear
from clearwater.schedules import VE, VP, CosineSchedule, RectifiedFlow, from_log_snr

SCHEDULES = {"vp": VP(), "cosine": CosineSchedule(), "ve": VE(), "flow": RectifiedFlow()}
times = torch.linspace(0, 1, 41, dtype=torch.float64)


def at(schedule, t):
    level = schedule(torch.tensor(t, dtype=torch.float64))
    return float(level.alpha), float(level.sigma)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_time_0_is_data_exactly(schedule):
    assert at(schedule, 0.0) == (1, 0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_network_is_told_the_time(schedule):
    assert torch.equal(schedule(times).time, times)


@pytest.mark.parametrize("schedule", [CosineSchedule(), RectifiedFlow()], ids=["cosine", "flow"])
def test_cosine_and_flow_end_at_pure_noise_exactly(schedule):
    assert at(schedule, 1.0) == (0, 1)


@pytest.mark.parametrize("schedule", [VP(), VP(0.5, 8.0), CosineSchedule()], ids=["vp", "another vp", "cosine"])
def test_vp_and_cosine_preserve_variance(schedule):
    level = schedule(times)
    total = level.alpha.square() + level.sigma.square()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-15, atol=0)


@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (0.5, 8.0)])
def test_vp_solves_its_stochastic_differential_equation(low, high):
    """d log alpha / dt = -beta(t) / 2 and d sigma²/dt = beta(t) · (1 - sigma²) (Song et al. 2021, eq. 11)."""
    t = times[1:].clone().requires_grad_()
    level = VP(low, high)(t)
    rate = low + (high - low) * t.detach()
    (slope,) = torch.autograd.grad(level.alpha.log().sum(), t, retain_graph=True)
    torch.testing.assert_close(slope, -rate / 2, rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(level.sigma.square().sum(), t)
    torch.testing.assert_close(slope, rate * level.alpha.detach().square(), rtol=1e-12, atol=0)


def test_vp_keeps_its_digits_next_to_data():
    """Sigma² = beta_min t - (beta_min² - beta_max + beta_min) t²/2 + …; 1 - exp(-x) would have no digit left here."""
    assert at(VP(), 1e-15)[1] ** 2 == pytest.approx(1e-16, rel=1e-12, abs=0)


def test_the_linear_chain_converges_to_vp_at_first_order():
    def error(T, t):
        k = round(t * T)
        return float(linear(T).alpha_bar[k].log()) - 2 * math.log(at(VP(), t)[0])

    for t in (0.25, 0.5, 1.0):
        assert abs(error(4000, t)) < 0.03
        assert error(2000, t) / error(4000, t) == pytest.approx(2, rel=0.01, abs=0)


def test_cosine_has_the_log_snr_of_the_tangent():
    """log-SNR = -2 log tan(πt/2) (Nichol & Dhariwal 2021 without the offset; Kingma & Gao 2023)."""
    t = times[1:-1]
    expected = torch.tensor([-2 * math.log(math.tan(math.pi * float(x) / 2)) for x in t], dtype=torch.float64)
    torch.testing.assert_close(CosineSchedule()(t).log_snr, expected, rtol=1e-12, atol=1e-14)


def test_ve_has_karras_s_grid_between_its_end_points():
    """Karras et al. 2022, eq. 5 at N = 18, which counts from the largest sigma down."""
    n, rho, low, high = 18, 7.0, 0.002, 80.0
    grid = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n - 1)]
    t = [1 - i / (n - 1) for i in range(n - 1)]
    assert [at(VE(), x)[1] for x in t] == pytest.approx(grid, rel=1e-12, abs=0)
    assert {at(VE(), x)[0] for x in t} == {1}


@pytest.mark.parametrize(("low", "high", "rho"), [(0.002, 80.0, 7.0), (0.01, 50.0, 1.0)])
def test_ve_ends_at_sigma_max_falls_to_sigma_min_and_is_data_at_0(low, high, rho):
    schedule = VE(low, high, rho)
    assert at(schedule, 1.0)[1] == pytest.approx(high, rel=1e-14, abs=0)
    assert at(schedule, 1e-18)[1] == pytest.approx(low, rel=1e-12, abs=0)
    assert at(schedule, 0.0)[1] == 0


@settings(deadline=None)
@given(st.floats(0, 1))
def test_flow_is_the_straight_line(t):
    assert at(RectifiedFlow(), t) == (1 - t, t)


@settings(deadline=None)
@given(st.floats(-600, 600))
def test_a_level_of_a_log_snr_has_it_and_preserves_variance(log_snr):
    level = from_log_snr(torch.tensor(log_snr, dtype=torch.float64), torch.tensor(0.5))
    assert float(level.log_snr) == pytest.approx(log_snr, rel=1e-14, abs=1e-14)
    assert float(level.alpha**2 + level.sigma**2) == pytest.approx(1, rel=1e-15, abs=0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_a_chain_of_a_schedule_has_its_levels_at_equal_times(schedule):
    levels = Chain.from_schedule(schedule, 8).levels
    for k in range(9):
        assert (float(levels.alpha[k]), float(levels.sigma[k])) == pytest.approx(at(schedule, k / 8), rel=1e-15, abs=0)
