"""RePaint on Gaussian data, where what it fills in is known: exactly, since every step is affine in the noise."""

from itertools import pairwise

import pytest
import torch
from stand_ins import Probes

from clearwater.chains import Chain, linear
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.sampling import (
    DDIM,
    DPMSolver,
    Euler,
    Heun,
    RePaint,
    SDEDPMSolver,
    SinglestepDPMSolver,
    UniPC,
    log_snr,
    sampling_states,
)
from clearwater.schedules import RectifiedFlow
from clearwater.targets import prediction_from_x_0
from clearwater.variances import FixedSmall

COVARIANCE = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=torch.float64)
MASK = torch.tensor([1.0, 0.0], dtype=torch.float64)
CHAINS = {"vp": linear(1000).strided(100), "flow": Chain.from_schedule(RectifiedFlow(), 100)}


class Correlated(Denoiser):
    """E[x_0 | x_t] of two correlated pixels with mean zero; counts how often it is asked."""

    def __init__(self, chain):
        self.chain, self.variance, self.calls = chain, FixedSmall(), 0

    def __call__(self, x_t, t):
        self.calls += 1
        alpha, sigma = float(t.alpha), float(t.sigma)
        gain = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2))
        return prediction_from_x_0(x_t @ gain.T, x_t, t)


class Noise:
    def __init__(self, n=5):
        self.generator, self.n = torch.Generator().manual_seed(0), n

    def __call__(self):
        return torch.randn(self.n, 2, generator=self.generator, dtype=torch.float64)


STEPPERS = {
    "ddim": (DDIM(), 1),
    "ddim 1": (DDIM(1.0), 1),
    "euler": (Euler(), 1),
    "heun": (Heun(), 2),
    "dpm++2s": (SinglestepDPMSolver(), 2),
    "dpm++2m": (DPMSolver(2), 1),
    "dpm++2m-sde": (SDEDPMSolver(), 1),
    "unipc": (UniPC(2), 1),
}
of_chain = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


@of_chain
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", STEPPERS)
def test_known_pixels_are_the_image_s_and_each_step_but_the_last_is_done_so_often(chain, name, times):
    """The last step is done once; the step from a level without signal needs one evaluation alone."""
    stepper, evaluations = STEPPERS[name]
    known = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    denoiser, grid = Correlated(chain), log_snr(chain, 8)
    *_, state = sampling_states(denoiser, Noise(), grid, RePaint(stepper, known, MASK, times))
    assert torch.equal(state.x[:, 0], known[:, 0])
    assert float((state.x[:, 1] - known[:, 1]).abs().min()) > 1e-3
    blind = int(float(chain.levels.alpha[-1]) == 0) * (evaluations - 1)
    assert denoiser.calls == times * (evaluations * 7 - blind) + 1


@of_chain
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_known_is_as_noisy_on_the_way_as_the_levels_are(chain, times):
    known = torch.tensor([[0.7, 0.0]], dtype=torch.float64)
    states = list(
        sampling_states(Correlated(chain), Noise(20_000), log_snr(chain, 6), RePaint(DDIM(), known, MASK, times))
    )
    levels = log_snr(chain, 6).levels
    for state in states[1:-1]:
        alpha, sigma = float(levels.alpha[state.k]), float(levels.sigma[state.k])
        assert float(state.x[:, 0].mean()) == pytest.approx(0.7 * alpha, abs=5 * sigma / 20_000**0.5)
        assert float(state.x[:, 0].std()) == pytest.approx(sigma, rel=5 / 40_000**0.5)


@of_chain
@pytest.mark.parametrize("name", ["ddim", "heun", "dpm++2s"])
def test_with_nothing_known_it_is_the_sampler_itself_and_with_all_known_the_image(chain, name):
    known = torch.linspace(-1, 1, 10, dtype=torch.float64).reshape(5, 2)
    stepper, grid = STEPPERS[name][0], log_snr(chain, 8)
    plain = [state.x for state in sampling_states(Correlated(chain), Noise(), grid, stepper)]
    free = RePaint(stepper, known, torch.zeros(2, dtype=torch.float64), times=1)
    for x, state in zip(plain, sampling_states(Correlated(chain), Noise(), grid, free), strict=True):
        assert torch.equal(state.x, x)
    every = RePaint(stepper, known, torch.ones(1, dtype=torch.float64), times=2)
    *_, state = sampling_states(Correlated(chain), Noise(), grid, every)
    assert torch.equal(state.x, known)


@pytest.mark.parametrize("stepper", [DPMSolver(2), DPMSolver(3)])
def test_a_multistep_sampler_is_one_of_first_order_inside(stepper):
    chain, known = CHAINS["vp"], torch.tensor([[0.7, 0.0]], dtype=torch.float64)
    ends = []
    for of in (stepper, DDIM()):
        *_, state = sampling_states(Correlated(chain), Noise(), chain, RePaint(of, known, MASK, 2))
        ends.append(state.x)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def filled_in(chain, stepper, times, value=0.8):
    """Mean and variance of the pixel that is filled in beside one of this value."""
    known = torch.tensor([[value, 0.0]], dtype=torch.float64)
    noise = Probes(3 * times * chain.T + 1)
    *_, state = sampling_states(Correlated(chain), noise, chain, RePaint(stepper, known, MASK, times))
    pixel = state.x[:, 1]
    return float(pixel[0]), float((pixel[1:] - pixel[0]).square().sum())


@of_chain
@pytest.mark.parametrize("stepper", [DDIM(), DDIM(1.0), Heun()], ids=["ddim", "ddim 1", "heun"])
def test_doing_steps_over_brings_the_filled_in_pixel_to_its_conditional_distribution(chain, stepper):
    """x_2 given x_1 is N(c_21 / c_11 x_1, c_22 - c_21² / c_11)."""
    mean = float(COVARIANCE[1, 0] / COVARIANCE[0, 0]) * 0.8
    variance = float(COVARIANCE[1, 1] - COVARIANCE[1, 0] ** 2 / COVARIANCE[0, 0])
    found = [filled_in(log_snr(chain, 20), stepper, times) for times in (1, 2, 4, 16, 64)]
    off = [abs(m - mean) for m, _ in found]
    assert all(b < a for a, b in pairwise(off))
    assert off[0] > 0.4 * mean
    assert off[-1] < 0.03 * mean
    if isinstance(stepper, Heun):  # the others' own error in the variance is of first order, and larger
        spread = [abs(v / variance - 1) for _, v in found]
        assert all(b < a for a, b in pairwise(spread))
        assert spread[-1] < 0.02


@pytest.mark.parametrize("times", [0, -1])
def test_no_time_at_all_is_refused(times):
    with pytest.raises(InputError, match=rf"at least once, not {times} times\.$"):
        RePaint(DDIM(), torch.zeros(1), MASK, times)
