"""The adaptive solver where float64 is missing, and where a tolerance cannot be kept."""

import pytest
import torch
import torchdiffeq

from clearwater.analytic import ExactDenoiser, gaussian_data
from clearwater.chains import cosine
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.randomness import generator
from clearwater.sampling import AdaptiveODE, adaptive, ends, sampling_states
from clearwater.sampling.adaptive import widest_float
from clearwater.targets import prediction_from_x_0
from clearwater.variances import FixedSmall

CHAIN, MEAN, VARIANCE = cosine(1000), 0.2, 0.25


def carried(z, stepper):
    """What the solver makes of z, and what the ODE does: x_t keeps its place among the x_t of its level."""
    model = ExactDenoiser(gaussian_data(torch.tensor([MEAN], dtype=torch.float64), VARIANCE), CHAIN, FixedSmall())
    *_, state = sampling_states(model, None, ends(CHAIN), stepper, z)
    alpha, sigma = float(CHAIN.levels.alpha[-1]), float(CHAIN.levels.sigma[-1])
    return state.x, MEAN + (z - alpha * MEAN) * (VARIANCE / (alpha**2 * VARIANCE + sigma**2)) ** 0.5


def test_the_widest_float_is_float64_but_on_apple_s_gpus():
    kinds = {name: widest_float(torch.device(name)) for name in ("cpu", "cuda", "mps")}
    assert kinds == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}


def test_where_there_is_no_float64_the_solver_is_given_none_and_finds_the_closed_form(monkeypatch):
    solver, seen = torchdiffeq.odeint, []

    def watched(function, y, t, **given):
        seen.append((y.dtype, t.dtype, given["options"]["dtype"]))
        return solver(function, y, t, **given)

    monkeypatch.setattr(torchdiffeq, "odeint", watched)
    z = torch.linspace(-2, 2, 5)[:, None]
    for widest in (torch.float64, torch.float32):
        monkeypatch.setattr(adaptive, "widest_float", lambda device, widest=widest: widest)
        found, exact = carried(z, AdaptiveODE(1e-5))
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-4)  # the step from level 1 to data is DDIM's
    assert seen == [(torch.float64,) * 3, (torch.float32,) * 3]


class Rough(Denoiser):
    """A model whose answers are rounded so that no solver can follow them."""

    def __init__(self):
        self.chain, self.variance, self.calls = CHAIN, FixedSmall(), 0

    def __call__(self, x_t, t):
        self.calls += 1
        drawn = torch.randn(x_t.shape, generator=generator(0, self.calls), dtype=x_t.dtype)
        return prediction_from_x_0(0.1 * drawn, x_t, t)


def test_a_tolerance_that_cannot_be_kept_ends_in_a_sentence(monkeypatch):
    monkeypatch.setattr(adaptive, "_MOST_STEPS", 50)
    model = Rough()
    with pytest.raises(InputError, match=r"^The adaptive solver gave up at a tolerance of 1e-09 \(.*: give a larger"):
        list(sampling_states(model, None, ends(CHAIN), AdaptiveODE(1e-9), torch.zeros(2, 1)))
    assert model.calls < 60 * 7  # six or seven a step


def test_images_that_leave_the_numbers_end_in_a_sentence():
    class Wild(Rough):
        def __call__(self, x_t, t):
            return prediction_from_x_0(x_t * 1e300, x_t, t)

    with pytest.raises(InputError, match="gave up at a tolerance"):
        list(sampling_states(Wild(), None, ends(CHAIN), AdaptiveODE(), torch.ones(2, 1)))
