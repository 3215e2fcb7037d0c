"""What samplers make of noise: the moments of correlated Gaussian data, exactly, and the weights of a mixture.

For Gaussian data every step is affine in x and in the noise, so the covariance of what comes out is known from what
each drawn number does to it alone: no statistics are needed.
"""

import math

import numpy as np
import pytest
import torch
from stand_ins import Probes

from clearwater.analytic import ExactDenoiser, GaussianMixture
from clearwater.chains import Chain
from clearwater.denoisers import Denoiser
from clearwater.levels import Level
from clearwater.sampling import (
    DDIM,
    AdaptiveODE,
    Ancestral,
    DPMSolver,
    Euler,
    Heun,
    RungeKutta,
    SDEDPMSolver,
    SinglestepDPMSolver,
    UniPC,
    log_snr,
    sampling_states,
)
from clearwater.schedules import VE, VP, RectifiedFlow
from clearwater.targets import prediction_from_x_0
from clearwater.variances import FixedLarge, FixedSmall

CHAINS = {
    "vp": Chain.from_schedule(VP(), 1000),
    "ve": Chain.from_schedule(VE(), 1000),
    "flow": Chain.from_schedule(RectifiedFlow(), 1000),
}
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.3, 0.12], [0.12, 0.15]], dtype=torch.float64)


class Correlated(Denoiser):
    """E[x_0 | x_t] of N(MEAN, COVARIANCE)."""

    def __init__(self, chain, variance):
        self.chain, self.variance = chain, variance

    def gain(self, t):
        return float(t.alpha) * COVARIANCE @ torch.linalg.inv(covariance_at(t))

    def __call__(self, x_t, t):
        return prediction_from_x_0(MEAN + (x_t - float(t.alpha) * MEAN) @ self.gain(t).T, x_t, t)


def covariance_at(t):
    return float(t.alpha) ** 2 * COVARIANCE + float(t.sigma) ** 2 * torch.eye(2, dtype=torch.float64)


def outcome(stepper, denoiser, path):
    """Mean and covariance at the end of a path that begins in the distribution of the noisy data there."""
    noise = Probes(len(path))
    x = float(path[0].alpha) * MEAN + noise() @ torch.linalg.cholesky(covariance_at(path[0])).T
    memory = ()
    for step in stepper.plan(path, denoiser.chain.at_log_snr):
        x, _, memory = step(denoiser, x, memory, noise)
    of_each = x[1:] - x[0]
    return x[0], of_each.T @ of_each


def path_of(chain, K):
    """K even steps in log-SNR from -4 to 4, then the step to data."""
    parts = chain.at_log_snr(torch.linspace(-4, 4, K + 1, dtype=torch.float64)), chain.levels[:1]
    return Level(*(torch.cat([getattr(part, name) for part in parts]) for name in ("alpha", "sigma", "time")))


@pytest.mark.parametrize(
    ("stepper", "variance", "order", "to_data"),
    [
        pytest.param(Ancestral(), FixedSmall(), 1, True, id="ancestral, small"),
        pytest.param(Ancestral(), FixedLarge(), 1, True, id="ancestral, large"),
        pytest.param(DDIM(1.0), FixedSmall(), 1, True, id="ddim 1"),
        pytest.param(DDIM(0.5), FixedSmall(), 1, False, id="ddim 0.5"),
        pytest.param(SDEDPMSolver(), FixedSmall(), 2, True, id="sde"),
        pytest.param(SDEDPMSolver(), FixedSmall(), 2, False, id="sde, without the step to data"),
        # With churn the last step would begin above the path's last level, which is of first order.
        pytest.param(Heun(5.0), FixedSmall(), 2, False, id="heun with churn"),
        pytest.param(Euler(5.0), FixedSmall(), 1, False, id="euler with churn"),
        pytest.param(Heun(), FixedSmall(), 2, True, id="heun"),
    ],
)
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_the_mean_is_exact_and_the_covariance_converges_at_the_sampler_s_order(
    chain, stepper, variance, order, to_data
):
    """To data every sampler's last step is E[x_0 | x_1], so what it should come to is the covariance of that."""
    denoiser = Correlated(chain, variance)
    counts, errors = [50, 100, 200], []
    for K in counts:
        path = path_of(chain, K)
        path, last = (path, path[-2]) if to_data else (path[:-1], path[-2])
        mean, covariance = outcome(stepper, denoiser, path)
        gain = denoiser.gain(last)
        truth = gain @ covariance_at(last) @ gain.T if to_data else covariance_at(last)
        torch.testing.assert_close(mean, MEAN if to_data else float(last.alpha) * MEAN, rtol=1e-12, atol=1e-12)
        errors.append(float((covariance - truth).abs().max() / truth.max()))
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)
    assert errors[-1] < (0.1 if order == 1 else 1e-3)


WEIGHTS, MEANS, VARIANCES = [0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]], [0.02, 0.05]
MIXTURE = GaussianMixture(*(torch.tensor(x, dtype=torch.float64) for x in (WEIGHTS, MEANS, VARIANCES)))


def evenly_normal(n):
    """n points in two dimensions, as evenly normal as can be: their shares and moments have hardly any error."""
    uniform = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(n, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))


def parts(x, chain):
    """Weight, mean and variance of each component, samples shared between them by their responsibilities."""
    share = MIXTURE.data_given(x, chain.levels[1]).log_weights.exp().T
    for of_component in share:
        mean = (of_component[:, None] * x).sum(0) / of_component.sum()
        square = (of_component[:, None] * (x - mean).square()).sum(0).mean() / of_component.sum()
        yield float(of_component.mean()), mean, float(square)


# K steps, and the error allowed in the weights, the means and, as a ratio, the variances.
EXACT, FIRST = (100, 0.003, 0.004, 0.02), (200, 0.006, 0.01, 0.03)
# Four standard errors of 4,096 samples, and the error of first order.
RANDOM = (300, 4 * math.sqrt(0.21 / 4096), 0.02, 0.09)


STEPPERS = {
    "ancestral": (Ancestral(), RANDOM),
    "ddim": (DDIM(), FIRST),
    "ddim 1": (DDIM(1.0), RANDOM),
    "euler": (Euler(), FIRST),
    "heun": (Heun(), EXACT),
    "heun with churn": (Heun(10.0), RANDOM),
    "midpoint": (RungeKutta(2), EXACT),
    "rk4": (RungeKutta(4), EXACT),
    "dpm++1": (DPMSolver(1), FIRST),
    "dpm++2m": (DPMSolver(2), EXACT),
    "dpm++3m": (DPMSolver(3), EXACT),
    "dpm++2s": (SinglestepDPMSolver(), EXACT),
    "dpm++2m-sde": (SDEDPMSolver(), (100, *RANDOM[1:])),
    "unipc": (UniPC(2), EXACT),
    "unipc-bh1": (UniPC(2, "bh1"), EXACT),
    "unipc3": (UniPC(3), EXACT),
    "adaptive": (AdaptiveODE(), (5, *EXACT[1:])),
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [(name, label) for name in CHAINS for label in STEPPERS],
)
def test_every_sampler_makes_a_mixture_of_pure_noise(name, sampler):
    chain = CHAINS[name]
    stepper, (K, of_weight, of_mean, of_variance) = STEPPERS[sampler]
    if name == "flow":
        assert float(chain.levels.alpha[-1]) == 0
    generator = torch.Generator().manual_seed(1)
    start = evenly_normal(4096) * float(chain.prior_variance.sqrt())
    *_, state = sampling_states(
        ExactDenoiser(MIXTURE, chain, FixedSmall()),
        lambda: torch.randn(4096, 2, generator=generator, dtype=torch.float64),
        log_snr(chain, K),
        stepper,
        start,
    )
    found = list(parts(state.x, chain))
    for (weight, mean, variance), *truth in zip(found, WEIGHTS, MIXTURE.means, VARIANCES, strict=True):
        assert weight == pytest.approx(truth[0], abs=of_weight)
        torch.testing.assert_close(mean, truth[1], rtol=0, atol=of_mean)
        assert variance == pytest.approx(truth[2], rel=of_variance)
