"""Side by side with the installed diffusers: one network, the same noise, the same image.

Its tables are float32 (and some of its states), so images agree to 1e-4 of their size.
"""

import math
import warnings

import numpy as np
import pytest
import torch

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import linear
from clearwater.denoisers import NetworkDenoiser
from clearwater.networks import UNet
from clearwater.sampling import (
    DDIM,
    AdaptiveODE,
    DPMSolver,
    Euler,
    Heun,
    SDEDPMSolver,
    UniPC,
    sampling_states,
    trailing,
)
from clearwater.sampling.steps import LinearStep, Stepper
from clearwater.targets import Eps, V
from clearwater.variances import FixedSmall

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever diffusers warns of on import is not ours
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        UniPCMultistepScheduler,
    )

CHAIN = linear(1000)
COMMON = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": "trailing",
}
SHAPE = (2, 1, 8, 8)
TARGETS = {"v_prediction": V(), "epsilon": Eps()}


@pytest.fixture(scope="module")
def network():
    """A small U-Net with every parameter random, the zero-initialised ones too, in float64."""
    made = UNet(1, channels=16, multipliers=(1, 2), blocks=1, attention=(1,), dropout=0.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    made = made.eval().double()
    with torch.no_grad():
        size = float(made(torch.randn(SHAPE, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)).std())
    return lambda x, time: made(x, time) / size


class Saying(torch.nn.Module):
    """As epsilon, v's noise: alpha v + sigma x_t, so that the image is of order 1 whatever is predicted."""

    def __init__(self, network, target):
        super().__init__()
        self.network, self.target = network, target

    def forward(self, x, time):
        v = self.network(x, time)
        if isinstance(self.target, V):
            return v
        level = CHAIN.levels[round(float(time[0]) * 1000)]
        return float(level.alpha) * v + float(level.sigma) * x


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def later_noise():
    generator = torch.Generator().manual_seed(5)
    return lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float32)


def ours(network, target, stepper, K):
    denoiser = NetworkDenoiser(Saying(network, target), CHAIN, target, FixedSmall())
    noise = later_noise()
    *_, state = sampling_states(denoiser, lambda: noise().double(), trailing(CHAIN, K), stepper, start())
    return state.x


def theirs(network, target, scheduler, K, noise=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, for what diffusers asks of it
        scheduler.set_timesteps(K)
    saying, x = Saying(network, target), start() * float(scheduler.init_noise_sigma)
    for index in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, index).double()
        with torch.no_grad():
            output = saying(scaled, torch.full((2,), (float(index) + 1) / 1000, dtype=torch.float64))
        more = {} if noise is None else {"variance_noise": noise()}
        x = scheduler.step(output, index, x, **more).prev_sample
    return x.double()


def dpm(order, kind="dpmsolver++"):
    return DPMSolverMultistepScheduler, {
        "solver_order": order,
        "algorithm_type": kind,
        "solver_type": "midpoint",
        "final_sigmas_type": "zero",
    }


def unipc(order):
    return UniPCMultistepScheduler, {"solver_order": order, "solver_type": "bh2", "final_sigmas_type": "zero"}


@pytest.mark.parametrize("prediction_type", TARGETS)
@pytest.mark.parametrize(
    ("stepper", "made", "K"),
    [
        pytest.param(DDIM(), (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}), 20, id="ddim"),
        pytest.param(Euler(), (EulerDiscreteScheduler, {}), 20, id="euler"),
        pytest.param(Heun(), (HeunDiscreteScheduler, {}), 20, id="heun"),
        pytest.param(DPMSolver(1), dpm(1), 20, id="dpm++1"),
        pytest.param(DPMSolver(2), dpm(2), 20, id="dpm++2m"),
        pytest.param(DPMSolver(2), dpm(2), 10, id="dpm++2m, short"),
        pytest.param(SDEDPMSolver(), dpm(2, "sde-dpmsolver++"), 20, id="dpm++2m-sde"),
        pytest.param(SDEDPMSolver(), dpm(2, "sde-dpmsolver++"), 10, id="dpm++2m-sde, short"),
        pytest.param(UniPC(1), unipc(1), 20, id="unipc1"),
        pytest.param(UniPC(2), unipc(2), 20, id="unipc"),
        pytest.param(UniPC(2), unipc(2), 8, id="unipc, short"),
        pytest.param(UniPC(3), unipc(3), 14, id="unipc3, short"),
    ],
)
def test_the_image_is_that_of_diffusers_as_installed(network, stepper, made, K, prediction_type):
    """UniPC of order 3 on short paths: on longer ones diffusers alone ends at lower orders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as below
        scheduler = made[0](**COMMON, prediction_type=prediction_type, **made[1])
    expected = theirs(
        network,
        TARGETS[prediction_type],
        scheduler,
        K,
        later_noise() if isinstance(stepper, SDEDPMSolver) else None,
    )
    found = ours(network, TARGETS[prediction_type], stepper, K)
    size = float(expected.abs().max())
    assert 0.5 < size < 20
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * size)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_noise_is_that_of_diffusers(network, eta):
    scheduler = DDIMScheduler(**COMMON, clip_sample=False, set_alpha_to_one=True, prediction_type="v_prediction")
    scheduler.set_timesteps(20)
    x, noise = start(), later_noise()
    for index in scheduler.timesteps:
        with torch.no_grad():
            output = network(x, torch.full((2,), (float(index) + 1) / 1000, dtype=torch.float64))
        x = scheduler.step(output, index, x, eta=eta, variance_noise=noise().double()).prev_sample
    found = ours(network, V(), DDIM(eta), 20)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4 * float(x.abs().max()))


class Halved(Stepper):
    """The third-order solver with the second derivative's weight halved, as the authors' code and its copies have it.

    With D2 = 2 h² f[0, 1, 2] in place of h² f[0, 1, 2], f a divided difference, the method is of third order.
    """

    def plan(self, path, at_log_snr):
        lambdas = (path.log_snr / 2).tolist()
        return [self._halved(step, path, lambdas, i) for i, step in enumerate(DPMSolver(3).plan(path, at_log_snr))]

    def _halved(self, step, path, lambdas, i):
        if len(step.data) < 3:
            return step
        end, u, v, w = lambdas[i + 1], lambdas[i], lambdas[i - 1], lambdas[i - 2]
        h = end - u
        of_second = -float(path.alpha[i + 1]) * ((math.expm1(-h) + h) / h**2 - 0.5) * h**2
        differences = 1 / ((u - v) * (u - w)), 1 / ((v - u) * (v - w)), 1 / ((w - u) * (w - v))
        data = tuple(weight - of_second * part for weight, part in zip(step.data, differences, strict=True))
        return LinearStep(step.t, step.x, data, remembered=step.remembered)


@pytest.mark.parametrize("K", [10, 20, 50])
def test_the_third_order_solver_with_half_its_second_derivative_is_that_of_diffusers(network, K):
    made, options = dpm(3)
    expected = theirs(network, V(), made(**COMMON, prediction_type="v_prediction", **options), K)
    size = float(expected.abs().max())
    torch.testing.assert_close(ours(network, V(), Halved(), K), expected, rtol=0, atol=1e-4 * size)
    # And the difference is one that is seen.
    assert float((ours(network, V(), DPMSolver(3), K) - expected).abs().max()) > 1e-3 * size


DATA = GaussianMixture(
    *(torch.tensor(x, dtype=torch.float64) for x in ([0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.15, 0.25]))
)


def path_of(K):
    """About K steps in log-SNR from -4 to 4; the first are short, since multistep methods begin at low orders."""
    lengths = []
    while (length := 8 / K**2 * 2 ** len(lengths)) < 1 / K:
        lengths.append(length)
    lengths += [(1 - sum(lengths)) / K] * K
    u = torch.tensor([0.0, *lengths], dtype=torch.float64).cumsum(0).clamp(max=1)
    return CHAIN.at_log_snr(-4 + 8 * u)


def walk(stepper, denoiser, x, path):
    memory = ()
    for step in stepper.plan(path, CHAIN.at_log_snr):
        x, _, memory = step(denoiser, x, memory, None)
    return x


def walk_of_diffusers(denoiser, x, path):
    """Its own formulas for one step, in float64, on any levels."""
    made, options = dpm(3)
    scheduler = made(**COMMON, **options)
    scheduler.sigmas = path.sigma / path.alpha
    predictions = []
    for i in range(len(path) - 1):
        scheduler._step_index = i
        predictions = [*predictions, denoiser(x, path[i]).x_0][-3:]
        if len(predictions) == 1:
            x = scheduler.dpm_solver_first_order_update(predictions[-1], sample=x)
        elif len(predictions) == 2:
            x = scheduler.multistep_dpm_solver_second_order_update(predictions, sample=x)
        else:
            x = scheduler.multistep_dpm_solver_third_order_update(predictions, sample=x)
    return x


def test_diffusers_third_order_solver_is_of_second_order_and_ours_of_third():
    denoiser = ExactDenoiser(DATA, CHAIN, FixedSmall())
    generator = torch.Generator().manual_seed(0)
    begin = CHAIN.at_log_snr(torch.tensor(-4.0, dtype=torch.float64))
    x = begin.noise(DATA.sample(16, generator), torch.randn(16, 2, generator=generator, dtype=torch.float64))
    truth = walk(AdaptiveODE(1e-12), denoiser, x, path_of(40)[torch.tensor([0, -1])])
    counts = [40, 80, 160, 320]
    ways = {
        "diffusers": lambda path: walk_of_diffusers(denoiser, x, path),
        "halved": lambda path: walk(Halved(), denoiser, x, path),
        "ours": lambda path: walk(DPMSolver(3), denoiser, x, path),
    }
    ends = {name: [way(path_of(K)) for K in counts] for name, way in ways.items()}
    torch.testing.assert_close(ends["halved"], ends["diffusers"], rtol=1e-10, atol=1e-10)
    orders = {}
    for name, of_path in ends.items():
        errors = [float((end - truth).square().mean().sqrt()) for end in of_path]
        orders[name] = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert orders["diffusers"] == pytest.approx(2, abs=0.25)
    assert orders["ours"] == pytest.approx(3, abs=0.25)
