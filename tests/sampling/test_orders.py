"""Orders of convergence, measured with the exact denoiser of a Gaussian mixture against the adaptive solver.

The error between two noisy levels, without the step to data, is fitted by a power of the number of steps.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from stand_ins import Counted

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import Chain
from clearwater.denoisers import Denoiser
from clearwater.sampling import (
    DDIM,
    SAMPLERS,
    AdaptiveODE,
    DPMSolver,
    Euler,
    Heun,
    RungeKutta,
    SamplerOptions,
    SinglestepDPMSolver,
    UniPC,
)
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.targets import prediction_from_x_0
from clearwater.variances import FixedSmall

DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.15, 0.25]))
)
CHAINS = {
    "vp": Chain.from_schedule(VP(), 1000),
    "ve": Chain.from_schedule(VE(sigma_max=20.0), 1000),
    "flow": Chain.from_schedule(RectifiedFlow(), 1000),
}
STEPPERS = {
    "ddim": (DDIM(), 1),
    "euler": (Euler(), 1),
    "heun": (Heun(), 2),
    "midpoint": (RungeKutta(2), 2),
    "rk4": (RungeKutta(4), 4),
    "dpm++1": (DPMSolver(1), 1),
    "dpm++2m": (DPMSolver(2), 2),
    "dpm++3m": (DPMSolver(3), 3),
    "dpm++2s": (SinglestepDPMSolver(), 2),
    "dpm++2s, r = 0.3": (SinglestepDPMSolver(0.3), 2),
    "unipc1": (UniPC(1), 2),
    "unipc1-bh1": (UniPC(1, "bh1"), 2),
    "unipc": (UniPC(2), 3),
    "unipc-bh1": (UniPC(2, "bh1"), 3),
    "unipc3": (UniPC(3), 4),
    "unipc3-bh1": (UniPC(3, "bh1"), 4),
}
NOISY, CLEAR = -4.0, 4.0  # log-SNR at the ends


def refuse():
    raise AssertionError("noise was drawn")


def walk(stepper, denoiser, x, path):
    memory = ()
    for step in stepper.plan(path, denoiser.chain.at_log_snr):
        x, _, memory = step(denoiser, x, memory, refuse)
    return x


def spread(K, uneven):
    """0 = u_0 < … = 1: about K steps, equal or by turns short and long.

    Multistep methods begin with steps of low order, so the first ones are short, and each twice as long as the last.
    """
    lengths = []
    while (length := 8 / K**2 * 2 ** len(lengths)) < 1 / K:
        lengths.append(length)
    turns = [0.7, 1.3] * (K // 2) if uneven else [1.0] * K
    lengths += [(1 - sum(lengths)) * turn / K for turn in turns]
    return torch.tensor([0.0, *lengths], dtype=torch.float64).cumsum(0).clamp(max=1)


def path_of(chain, K, uneven):
    return chain.at_log_snr(NOISY + (CLEAR - NOISY) * spread(K, uneven))


def begin(chain):
    generator = torch.Generator().manual_seed(0)
    x_0 = DATA.sample(16, generator)
    level = chain.at_log_snr(torch.tensor(NOISY, dtype=torch.float64))
    return level.noise(x_0, torch.randn(x_0.shape, generator=generator, dtype=torch.float64))


@pytest.fixture(scope="module", params=CHAINS)
def bed(request):
    """A denoiser, where the paths begin, and where the ODE leads to from there."""
    chain = CHAINS[request.param]
    denoiser = ExactDenoiser(DATA, chain, FixedSmall())
    x = begin(chain)
    ends = chain.at_log_snr(torch.tensor([NOISY, CLEAR], dtype=torch.float64))
    return denoiser, x, walk(AdaptiveODE(1e-13), denoiser, x, ends)


def measured(stepper, bed, uneven=False):
    denoiser, x, truth = bed
    fewer = 2 if stepper == RungeKutta(4) else 1  # which comes below the solver's error on a flow
    counts, errors = [40 // fewer, 80 // fewer, 160 // fewer], []
    for K in counts:
        found = walk(stepper, denoiser, x, path_of(denoiser.chain, K, uneven))
        errors.append(float((found - truth).square().mean().sqrt()))
    # Above the solver's own error, and below what one could guess.
    assert 1e-10 < min(errors) < max(errors) < 0.1
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


@pytest.mark.parametrize("uneven", [False, True], ids=["even", "uneven"])
@pytest.mark.parametrize("name", STEPPERS)
def test_every_deterministic_sampler_converges_at_its_order(bed, name, uneven):
    stepper, order = STEPPERS[name]
    assert measured(stepper, bed, uneven) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", [name for name, entry in SAMPLERS.items() if entry.order and name != "adaptive"])
def test_a_named_sampler_has_the_order_that_the_list_says(bed, name):
    assert round(measured(SAMPLERS[name].make(SamplerOptions()), bed)) == SAMPLERS[name].order


def test_the_adaptive_solver_s_error_falls_with_the_fifth_power_of_its_evaluations(bed):
    denoiser, x, truth = bed
    ends = denoiser.chain.at_log_snr(torch.tensor([NOISY, CLEAR], dtype=torch.float64))
    calls, errors = [], []
    for tolerance in (1e-7, 1e-8, 1e-9, 1e-10, 1e-11):
        counted = Counted(denoiser)
        found = walk(AdaptiveODE(tolerance), counted, x, ends)
        errors.append(float((found - truth).abs().max()))
        calls.append(counted.calls)
        assert errors[-1] < 100 * tolerance
    assert -np.polyfit(np.log(calls), np.log(errors), 1)[0] == pytest.approx(SAMPLERS["adaptive"].order, abs=1)


class Polynomial(Denoiser):
    """Says that x_0 is a polynomial of lambda = log(alpha / sigma), whatever x_t is."""

    def __init__(self, chain, coefficients):
        self.chain, self.variance, self.coefficients = chain, FixedSmall(), coefficients

    def at(self, u):
        return sum(c * u**power for power, c in enumerate(self.coefficients))

    def __call__(self, x_t, t):
        return prediction_from_x_0(torch.full_like(x_t, self.at(float(t.log_snr) / 2)), x_t, t)


def integral(denoiser, start, end):
    """∫ exp(u) x̂_0(u) du over a step."""
    return integrate.quad(lambda u: math.exp(u) * denoiser.at(u), start, end, epsabs=1e-14, epsrel=1e-13)[0]


def steps_of(stepper, denoiser, path):
    """Of each step from the fourth on: lambda where it begins and ends, what went in, came out and was remembered."""
    lambdas = (path.log_snr / 2).tolist()
    x, memory = torch.ones(1, 1, dtype=torch.float64), ()
    for i, step in enumerate(stepper.plan(path, denoiser.chain.at_log_snr)):
        before = x
        x, _, memory = step(denoiser, before, memory, refuse)
        if i >= 3:
            yield lambdas[i], lambdas[i + 1], before / path[i].sigma, x / path[i + 1].sigma, memory


spacings = st.lists(st.floats(0.05, 0.6), min_size=7, max_size=7)
coefficients = st.lists(st.floats(-2, 2), min_size=4, max_size=4)
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def uneven_path(chain, spacings):
    # 16 steps or more keep the order to the end of the path, so it goes on in even steps.
    gaps = torch.tensor([0.0, *spacings, *[0.2] * 9], dtype=torch.float64)
    return chain.at_log_snr(2 * (-2.2 + gaps.cumsum(0) * 4 / gaps.sum()))


@of_chain
@settings(max_examples=20)
@given(spacings=spacings, coefficients=coefficients)
def test_the_third_order_solver_integrates_quadratic_predictions_exactly(chain, spacings, coefficients):
    """x_s / sigma_s - x_t / sigma_t = ∫ exp(lambda) x̂_0 dlambda (Lu et al. 2022, eq. 8), on any steps."""
    denoiser = Polynomial(chain, coefficients[:3])
    for start, end, before, after, _ in steps_of(DPMSolver(3), denoiser, uneven_path(chain, spacings)):
        assert float(after - before) == pytest.approx(integral(denoiser, start, end), rel=1e-9, abs=1e-10)


@of_chain
@pytest.mark.parametrize("b", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
@settings(max_examples=20)
@given(spacings=spacings, coefficients=coefficients)
def test_unipc_s_correction_is_exact_for_polynomials_of_the_predictor_s_order(chain, order, b, spacings, coefficients):
    """The corrected x are what is remembered first, and follow each other exactly (Zhao et al. 2023, theorem 3.1)."""
    denoiser = Polynomial(chain, coefficients[: order + 1])
    path = uneven_path(chain, spacings)
    corrected = [
        (start, float(memory[0]) / float(path.sigma[i + 3]))
        for i, (start, _, _, _, memory) in enumerate(steps_of(UniPC(order, b), denoiser, path))
    ]
    for (start, before), (end, after) in pairwise(corrected):
        assert after - before == pytest.approx(integral(denoiser, start, end), rel=1e-9, abs=1e-10)


@of_chain
@pytest.mark.parametrize("b", ["bh1", "bh2"])
@settings(max_examples=20)
@given(spacings=spacings, coefficients=coefficients)
def test_unipc_s_third_order_predictor_is_exact_for_quadratic_predictions(chain, b, spacings, coefficients):
    denoiser = Polynomial(chain, coefficients[:3])
    path = uneven_path(chain, spacings)
    for i, (start, end, _, after, memory) in enumerate(steps_of(UniPC(3, b), denoiser, path)):
        corrected = float(memory[0]) / float(path.sigma[i + 3])
        assert float(after) - corrected == pytest.approx(integral(denoiser, start, end), rel=1e-9, abs=1e-10)
