"""Samplers and control at the edges: no signal, one step alone, curvature that is none, numbers below one."""

import pytest
import torch
from stand_ins import Counted
from torch import nn

from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_data
from clearwater.chains import Chain, cosine, linear
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.guidance import ClassifierGuided
from clearwater.inverse import Downsampled, Posterior
from clearwater.sampling import (
    DDIM,
    AdaptiveODE,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    RePaint,
    SamplerOptions,
    SDEDPMSolver,
    UniPC,
    encode,
    ends,
    leading,
    log_snr,
    quadratic,
    sampler,
    sampling_states,
)
from clearwater.schedules import RectifiedFlow
from clearwater.targets import X0
from clearwater.variances import FixedSmall

FLOW, VP = Chain.from_schedule(RectifiedFlow(), 40), linear(1000).strided(40)
DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.05, 0.1]))
)


def noise():
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(4, 2, generator=generator, dtype=torch.float64)


def denoiser(chain):
    return ExactDenoiser(DATA, chain, FixedSmall())


@pytest.mark.parametrize("kind", [Euler, Heun])
def test_churn_works_on_a_chain_that_begins_without_signal(kind):
    *_, state = sampling_states(denoiser(FLOW), noise(), FLOW, kind(churn=10.0))
    assert bool(state.x.isfinite().all())


def test_repaint_works_with_ancestral_sampling():
    known, mask = torch.ones(1, 2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    *_, state = sampling_states(denoiser(VP), noise(), VP, RePaint(Ancestral(), known, mask, 2))
    assert torch.equal(state.x[:, 0], known.expand(4, 2)[:, 0])


def drawn(stepper):
    """How often it draws noise."""
    draws, draw = [], noise()

    def counting():
        draws.append(draw())
        return draws[-1]

    list(sampling_states(denoiser(VP), counting, VP, stepper))
    return len(draws)


def test_churn_is_not_lost_inside_repaint():
    mask = torch.zeros(2, dtype=torch.float64)
    alone, repainted = (
        drawn(stepper) for stepper in (Heun(churn=10.0), RePaint(Heun(churn=10.0), mask, mask, times=1))
    )
    assert repainted >= alone + VP.T - 1  # RePaint draws one a step for the known pixels beside those of the churn


@pytest.mark.parametrize("stepper", [DPMSolver(1), DPMSolver(2), DPMSolver(3), UniPC(2)])
def test_encoding_into_a_level_without_signal_is_finite_for_every_deterministic_sampler(stepper):
    found = encode(denoiser(FLOW), noise()(), log_snr(FLOW, 20), stepper)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("stepper", [Ancestral(), DDIM(1.0), SDEDPMSolver()])
def test_every_random_sampler_is_refused_for_encoding_in_the_same_sentence(stepper):
    with pytest.raises(InputError, match="deterministic"):
        encode(denoiser(VP), noise()(), VP, stepper)


def test_classifier_guidance_is_finite_where_there_is_no_signal():
    guided = ClassifierGuided(denoiser(FLOW), lambda x, time: 0 * x.sum(1))
    assert bool(guided(noise()(), FLOW.levels[-1]).x_0.isfinite().all())


class Negative(nn.Module):
    def forward(self, x, time):
        return -0.5 * x


def test_a_jacobian_that_is_not_positive_does_not_blow_up_the_posterior():
    """As networks have it in some directions. It is clamped to 1e-30, and divided by."""
    of_network = NetworkDenoiser(Negative(), linear(100), X0(), FixedSmall())
    x_0 = Posterior(of_network, Downsampled(2), torch.zeros(1, 1, 2, 2), 0.1)(torch.ones(1, 1, 4, 4), VP.levels[20]).x_0
    assert float(x_0.abs().max()) < 10


def test_a_tolerance_of_zero_is_refused_and_not_replaced():
    with pytest.raises(InputError, match="tolerance"):
        sampler("adaptive", SamplerOptions(tolerance=0.0))


@pytest.mark.parametrize("grid", [leading, quadratic])
def test_a_negative_number_of_steps_is_refused_in_a_sentence(grid):
    with pytest.raises(InputError, match=r"not -3\.$"):
        grid(linear(100), -3)


@pytest.mark.parametrize("K", [3, 6, 12])
def test_the_slopes_of_a_long_step_from_hardly_any_signal_are_not_averaged_blindly(K):
    """sigma / alpha is 20,000 at the cosine chain's last level: the plain mean of two slopes leads thousands away."""
    chain = cosine(1000)
    denoiser = ExactDenoiser(gaussian_data(torch.tensor([0.2], dtype=torch.float64), 0.25), chain, FixedSmall())
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]

    def end(stepper, grid):
        *_, state = sampling_states(denoiser, noise, grid, stepper, z)
        return state.x

    exact = end(DDIM(), chain)
    of_heun, of_euler = ((end(stepper, chain.strided(K)) - exact).abs().max() for stepper in (Heun(), Euler()))
    assert of_heun < of_euler


@pytest.mark.parametrize("chain", [cosine(1000), linear(1000)], ids=["cosine", "linear"])
def test_the_solver_that_chooses_its_steps_needs_but_the_ends_of_a_chain(chain):
    """On Gaussian data the ODE's map is known: x_t keeps its place among the x_t of its level."""
    mean, variance = 0.2, 0.25
    made = gaussian_data(torch.tensor([mean], dtype=torch.float64), variance)
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    model = Counted(ExactDenoiser(made, chain, FixedSmall()))
    *_, state = sampling_states(model, noise, ends(chain), AdaptiveODE(1e-6), z)
    alpha, sigma = chain.levels.alpha[-1], chain.levels.sigma[-1]
    place = (z - alpha * mean) / (alpha.square() * variance + sigma.square()).sqrt()
    assert (state.x - mean - place * variance**0.5).abs().max() < 1e-3  # the step from level 1 to data is DDIM's
    assert model.calls < 300
