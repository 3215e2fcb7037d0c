"""A chain whose levels are learned: its form, its gradients, and that training moves it to a lower bound."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.learned_chain import LearnedChain
from clearwater.likelihood import bound, prior_term
from clearwater.objectives import VLB
from clearwater.targets import Eps
from clearwater.times import LowDiscrepancy
from clearwater.variances import FixedSmall, LearnedRange

M, S2 = 0.2, 0.3  # data N(0.2, 0.3)
NAMES = ["start", "span", "line", "heights", "slopes", "centres"]


def values(learned):
    return {name: parameter.detach().double().numpy().copy() for name, parameter in learned.named_parameters()}


def gamma_by_hand(p, T):
    """-log SNR of levels 1 to T: a line and sigmoids of positive slope, scaled to the end points."""
    u = np.append(np.linspace(0, 1, T), [0.0, 1.0])
    softplus = {name: np.logaddexp(0, p[name]) for name in ("span", "line", "heights", "slopes")}
    sigmoids = 1 / (1 + np.exp(-softplus["slopes"] * (u[:, None] - p["centres"])))
    curve = softplus["line"] * u + sigmoids @ softplus["heights"]
    return p["start"] + softplus["span"] * (curve[:-2] - curve[-2]) / (curve[-1] - curve[-2])


def small_array(low, high):
    return arrays.arrays(np.float32, 32, elements=st.floats(low, high, width=32))


@st.composite
def learned_chains(draw):
    """Any parameters of moderate size, in float32 as they are trained."""
    learned = LearnedChain(draw(st.integers(2, 60)))
    drawn = {
        "start": draw(st.floats(-20, 5, width=32)),
        "span": draw(st.floats(-3, 30, width=32)),
        "line": draw(st.floats(-5, 5, width=32)),
        "heights": draw(small_array(-8, 3)),
        "slopes": draw(small_array(-4, 60)),
        "centres": draw(small_array(-0.5, 1.5)),
    }
    learned.load_state_dict({name: torch.as_tensor(value) for name, value in drawn.items()})
    return learned


@settings(max_examples=60)
@given(learned_chains())
def test_whatever_its_parameters_the_levels_fall_in_log_snr_from_one_end_to_the_other(learned):
    p, levels = values(learned), learned.chain().levels
    log_snr = levels.log_snr[1:].detach()
    assert levels.alpha[0] == 1
    assert levels.sigma[0] == 0
    assert bool((log_snr.diff() < 0).all())
    np.testing.assert_allclose(log_snr.numpy(), -gamma_by_hand(p, learned.T), rtol=1e-9, atol=1e-9)
    assert float(log_snr[0]) == pytest.approx(-float(p["start"]), rel=1e-9, abs=1e-9)
    assert float(log_snr[-1]) == pytest.approx(-float(p["start"] + np.logaddexp(0, p["span"])), rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(learned_chains())
def test_the_levels_preserve_variance_and_their_times_are_one_function_of_log_snr(learned):
    levels = learned.chain().levels
    circle = levels.alpha.square() + levels.sigma.square()
    torch.testing.assert_close(circle, torch.ones_like(circle), rtol=1e-14, atol=0)
    assert levels.time[0] == 0
    assert bool((levels.time.diff() > 0).all())
    torch.testing.assert_close(levels.time[1:], torch.sigmoid(-levels.log_snr[1:] / 8).detach(), rtol=1e-9, atol=0)
    assert levels.alpha.requires_grad
    assert not levels.time.requires_grad


@pytest.mark.parametrize("ends", [(13.3, -5.0), (8.0, -9.0)])
def test_at_first_log_snr_is_a_straight_line_between_the_ends(ends):
    """The ends to the precision of the parameters, the line to 1 in 200 of its fall: sigmoids are no line exactly."""
    log_snr = LearnedChain(101, ends).chain().levels.log_snr[1:].detach()
    line = torch.linspace(*ends, 101, dtype=torch.float64)
    torch.testing.assert_close(log_snr[[0, -1]], line[[0, -1]], rtol=1e-6, atol=0)
    assert float((log_snr - line).abs().max()) < (ends[0] - ends[1]) / 200


def test_the_ends_of_kingma_are_the_default():
    log_snr = LearnedChain(10).chain().levels.log_snr.detach()
    assert [float(log_snr[1]), float(log_snr[-1])] == pytest.approx([13.3, -5.0], rel=1e-6)


def test_gamma_is_the_chain_s_in_any_shape():
    learned = LearnedChain(11)
    gamma = learned.gamma(torch.tensor([[0.0, 0.3], [0.7, 1.0]])).detach()
    log_snr = learned.chain().levels.log_snr.detach()
    torch.testing.assert_close(gamma.flatten(), -log_snr[[1, 4, 8, 11]], rtol=1e-6, atol=0)


def test_the_chain_is_made_anew_from_the_parameters_as_they_are():
    learned = LearnedChain(5)
    before = learned.chain().levels.log_snr.detach()
    with torch.no_grad():
        learned.start += 1
    torch.testing.assert_close(learned.chain().levels.log_snr.detach()[1:], before[1:] - 1, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("T", "ends"), [(1, (13.3, -5.0)), (0, (13.3, -5.0)), (10, (-5.0, 13.3)), (10, (1.0, 1.0))])
def test_too_few_steps_or_ends_in_the_wrong_order_are_refused(T, ends):
    with pytest.raises(InputError, match="at least 2 steps, and its log-SNR falls"):
        LearnedChain(T, ends)


# --- gradients


def perturbed(T):
    """A chain in float64 away from where training begins, so that no gradient is small by symmetry."""
    learned = LearnedChain(T, (6.0, -4.0)).double()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return learned


def bound_by_hand(p, T):
    """Nats a dimension of the bound of normal data with the exact mean, fixed-small variance and a density decoder."""
    gamma = gamma_by_hand(p, T)
    alpha2, sigma2 = 1 / (1 + np.exp(gamma)), 1 / (1 + np.exp(-gamma))
    error = S2 * sigma2 / (alpha2 * S2 + sigma2)
    delta = -np.expm1(gamma[:-1] - gamma[1:])
    kept, of_x_0 = sigma2[:-1] * delta, alpha2[:-1] * delta**2 * error[1:]
    prior = 0.5 * (alpha2[-1] * (M**2 + S2) + sigma2[-1] - 1 - np.log(sigma2[-1]))
    decoder = 0.5 * (np.log(2 * np.pi * kept[0]) + error[0] / kept[0]) - math.log(2 / 255)
    return float(prior + (0.5 * of_x_0 / kept).sum() + decoder)


def test_gradients_of_the_bound_of_normal_data_are_finite_differences_of_its_closed_form():
    """Each coefficient of each term carries the gradient of every parameter: the prior's, the KL's, the decoder's."""
    T, learned = 9, perturbed(9)
    levels = learned.chain()
    exact = ExactDenoiser(gaussian_data(torch.full((1,), M, dtype=torch.float64), S2), levels, FixedSmall())
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    x_0, eps = M + math.sqrt(S2) * signs[:, :1], signs[:, 1:]  # over which means of squares are exact
    total = prior_term(x_0, levels).mean()
    for k in range(1, T + 1):
        pair = levels.pair(k)
        x_t = pair.t.noise(x_0, eps)
        reverse = exact.reverse(x_t, pair)
        if k == 1:
            total = total - (reverse.log_prob(x_0) + math.log(2 / 255)).mean()
        else:
            true = Gaussian(pair.c_0 * x_0 + pair.c_t * x_t, pair.posterior_variance.reshape(1, 1))
            total = total + true.kl(reverse).mean()
    p = values(learned)
    assert float(total.detach()) == pytest.approx(bound_by_hand(p, T), rel=1e-9)
    gradients = dict(zip(NAMES, torch.autograd.grad(total, [getattr(learned, name) for name in NAMES]), strict=True))
    for name, gradient in gradients.items():
        for index in np.ndindex(p[name].shape):
            sides = []
            for h in (1e-5, -1e-5):
                moved = {**p, name: p[name].copy()}
                moved[name][index] += h
                sides.append(bound_by_hand(moved, T))
            difference = (sides[0] - sides[1]) / 2e-5
            assert float(gradient[index]) == pytest.approx(difference, rel=1e-5, abs=1e-8), (name, index)
    assert all(float(gradient.abs().max()) > 1e-5 for gradient in gradients.values())


class Timeless(nn.Module):
    """Bends x_t, whatever the time: that is fed without a gradient. With channels for a variance."""

    def forward(self, x, time):
        return torch.cat([(1.5 * x).sin(), 0.4 * x.cos()], 1)


def pixels(n):
    drawn = torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    grey = ((M + math.sqrt(S2) / 2 * drawn) * 127.5 + 127.5).round().clamp(0, 255)
    return grey / 127.5 - 1


@pytest.mark.parametrize("rule", [FixedSmall(), LearnedRange()], ids=["small", "range"])
def test_the_gradient_of_a_draw_of_the_bound_reaches_the_chain_through_the_noisy_images(rule):
    learned, x_0, k = perturbed(6), pixels(6), torch.tensor([1, 2, 3, 6, 1, 5])

    def loss():
        denoiser = NetworkDenoiser(Timeless(), learned.chain(), Eps(), rule)
        return VLB().at(denoiser, x_0, k, torch.Generator().manual_seed(3)).sum()

    parameters = [getattr(learned, name) for name in NAMES]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss(), parameters), strict=True):
        differences = torch.empty_like(gradient)
        with torch.no_grad():
            for index in np.ndindex(*parameter.shape):
                before, sides = float(parameter[index]), []
                for value in (before + 1e-5, before - 1e-5):
                    parameter[index] = value
                    sides.append(float(loss()))
                parameter[index] = before
                differences[index] = (sides[0] - sides[1]) / 2e-5
        assert float(gradient.abs().max()) > 1e-3
        torch.testing.assert_close(gradient, differences, rtol=1e-5, atol=1e-7)


# --- training


class Affine(nn.Module):
    """eps̃ = a(t) x + b(t), which holds the exact answer for normal data at every level."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.of_time = nn.Sequential(nn.Linear(2, 24), nn.SiLU(), nn.Linear(24, 2)).double()

    def forward(self, x, time):
        gamma = torch.logit(time)
        a, b = self.of_time(torch.stack([gamma, gamma.tanh()], 1)).T
        return a.reshape(-1, 1, 1, 1) * x + b.reshape(-1, 1, 1, 1)


def as_it_is(learned):
    with torch.no_grad():
        return learned.chain()


def test_training_through_the_bound_moves_the_chain_to_a_lower_one():
    x_0, learned, steps = pixels(600), LearnedChain(8), 300
    before = as_it_is(learned)
    denoiser = NetworkDenoiser(Affine(), before, Eps(), FixedSmall())
    untrained = bound(denoiser, x_0).total
    objective, rng = VLB(LowDiscrepancy()), torch.Generator().manual_seed(0)
    parameters = [*denoiser.network.parameters(), *learned.parameters()]
    optimizer = torch.optim.Adam(parameters)
    for step in range(steps):
        batch = x_0[torch.randint(len(x_0), (64,), generator=rng)]
        loss = objective(replace(denoiser, chain=learned.chain()), batch, rng).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-2 * (1 - step / steps)
        optimizer.step()
    after = as_it_is(learned)
    trained = bound(replace(denoiser, chain=after), x_0).total
    # The same network on the levels that training began with, which it also knows: the levels alone count.
    on_the_first = bound(denoiser, x_0).total
    assert on_the_first < untrained - 1
    assert trained < on_the_first - 1
    moved = (after.levels.log_snr - before.levels.log_snr)[[1, 8]].abs()
    assert bool((moved > 0.3).all())
