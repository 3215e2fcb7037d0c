"""Weights against their published forms, and the bound's own."""

import math

import pytest
import torch
from scipy import integrate

from clearwater import VP, X0, Chain, Eps, FixedLarge, FixedSmall, Mean, V, chain
from clearwater.schedules import CosineSchedule
from clearwater.weights import P2, BoundWeight, EDMWeight, SigmoidWeight

LINEAR = chain("linear")
T = LINEAR.levels[1:]
BETA = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BAR = torch.cumprod(1 - BETA, 0)
BEFORE = torch.cat([torch.ones(1, dtype=torch.float64), ALPHA_BAR[:-1]])


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=0)


def test_the_bounds_weights_are_the_four_approaches() -> None:
    """Approach 1: 1/(2σ²). Approach 2: ᾱ_{t-1} β_t² / (2σ²(1-ᾱ_t)²). Approach 3: Ho et al. 2020, eq. 12. Then v."""
    beta = torch.cat([((1 - BEFORE[1]) / (1 - ALPHA_BAR[1]) * BETA[1]).reshape(1), BETA[1:]])  # the rule at t = 1
    weight = BoundWeight(LINEAR, FixedLarge())
    close(weight(Mean(LINEAR), T), 1 / (2 * beta))
    close(weight(X0(), T), BEFORE * BETA**2 / (2 * beta * (1 - ALPHA_BAR) ** 2))
    close(weight(Eps(), T), BETA**2 / (2 * beta * (1 - BETA) * (1 - ALPHA_BAR)))
    close(weight(V(), T), BEFORE * BETA**2 / (2 * beta * (1 - ALPHA_BAR) ** 2) * (1 - ALPHA_BAR))


def test_with_the_small_variance_the_weight_of_x_0_is_half_the_fall_in_snr() -> None:
    snr = LINEAR.levels.snr
    weight = BoundWeight(LINEAR, FixedSmall())(X0(), T)
    torch.testing.assert_close(weight[1:], 0.5 * (snr[1:-1] - snr[2:]), rtol=1e-7, atol=0)


def test_the_anchors_of_the_third_approach() -> None:
    # With σ² = β also at t = 1, where the paper's rule would take another variance.
    plain = BETA / (2 * (1 - BETA) * (1 - ALPHA_BAR))
    ours = BoundWeight(LINEAR, FixedLarge())(Eps(), T)
    close(ours[1:], plain[1:])
    assert int(ours[1:].argmin()) + 2 == 349
    assert float(ours[348]) == pytest.approx(0.0049679, abs=5e-8)
    assert float(ours[999]) == pytest.approx(0.0102045, abs=5e-8)


def test_the_published_weights_of_eps() -> None:
    snr = ALPHA_BAR / (1 - ALPHA_BAR)
    close(P2(0.5, 1.0)(Eps(), T), (1 + snr) ** -0.5)
    close(SigmoidWeight(2.0)(Eps(), T), torch.sigmoid(2 - snr.log()))
    # EDM: λ(σ) on the error of x_0 is 1/c_out²; of eps (error of x_0 over σ) it is λ σ² = (σ² + σ_d²)/σ_d².
    sigma_squared = 1 / snr
    close(EDMWeight(0.5)(Eps(), T), (sigma_squared + 0.25) / 0.25)


def test_edm_weights_give_its_network_the_same_loss_at_every_level() -> None:
    """EDM's F is, for σ_data = 1, -v on the variance-preserving circle: its effective weight is 1 (table 1)."""
    close(EDMWeight(1.0)(V(), T), torch.ones(1000, dtype=torch.float64))


def test_the_sigmoid_weight_over_levels_is_the_integral_over_log_snr():
    """The mean over k of weight · f is the integral of sigmoid(b - l) f(l) dl, by quadrature, for many levels."""
    chain = Chain.from_schedule(VP(), 4000)
    t = chain.levels[1:]
    weight = SigmoidWeight(1.5, chain)(Eps(), t)
    inner = slice(40, None)  # near data log SNR falls too fast for its steps to be small
    found = float((weight * torch.exp(-((t.log_snr / 3) ** 2)))[inner].sum()) / chain.T
    ends = [float(t.log_snr[-1]), float(chain.levels.log_snr[40])]
    expected, _ = integrate.quad(lambda snr: 1 / (1 + math.exp(snr - 1.5)) * math.exp(-((snr / 3) ** 2)), *ends)
    assert found == pytest.approx(expected, rel=2e-3)


def test_the_sigmoid_weight_is_finite_at_both_ends_of_a_chain():
    chain = Chain.from_schedule(CosineSchedule(), 10)
    weight = SigmoidWeight(2.0, chain)(V(), chain.levels[1:])
    assert bool(weight.isfinite().all())
    assert bool((weight >= 0).all())
