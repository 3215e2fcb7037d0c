r"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095): exponential integrators for the predicted data.

With lambda = log(alpha / sigma) and h = lambda_s - lambda_t the reverse ODE is solved by

    x_s = sigma_s / sigma_t · x_t + sigma_s ∫ exp(lambda) x̂_0(lambda) dlambda,

exactly in what is linear, with a polynomial for x̂_0. The step to data is of first order: there h is infinite, and
x_s is x̂_0. So is the step from a level without signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.sampling.steps import AtLogSNR, LinearStep, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["DPMSolver", "SDEDPMSolver", "SinglestepDPMSolver"]


_SHORT = 15


def half_log_snr(path: Level) -> list[float]:
    """lambda of each level: +inf at data."""
    values: list[float] = (path.log_snr / 2).tolist()
    return values


def usable(order: int, i: int, lambdas: Sequence[float]) -> int:
    """The order that step i of a multistep method can have.

    Bounded by the steps behind it (from a level with signal), and on short paths, so that their end is stable, by those
    before it (Lu et al. 2022, appendix B); 1 where the step is infinitely long in lambda.
    """
    behind = 0
    while behind < i and math.isfinite(lambdas[i - behind - 1]):
        behind += 1
    if not (math.isfinite(lambdas[i]) and math.isfinite(lambdas[i + 1])):
        return 1
    steps = len(lambdas) - 1
    return max(1, min(order, behind + 1, steps - i if steps < _SHORT else order))


@dataclass(frozen=True)
class DPMSolver(Stepper):
    """DPM-Solver++, multistep: one evaluation a step, deterministic.

    Attributes:
        order: 1 (which is DDIM), 2 or 3.
    """

    order: Literal[1, 2, 3] = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"DPM-Solver++ has order 1, 2 or 3, not {self.order}.")

    @property
    def multistep(self) -> bool:
        return self.order > 1

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        lambdas = half_log_snr(path)
        return [self._step(path, lambdas, i) for i in range(len(path) - 1)]

    def _step(self, path: Level, lambdas: Sequence[float], i: int) -> LinearStep:
        t, s = path[i], path[i + 1]
        order = usable(self.order, i, lambdas)
        h = lambdas[i + 1] - lambdas[i]
        if not math.isfinite(h):
            a, b = first_order(t, s)
            return LinearStep(t, a, (b,), remembered=self.order - 1)
        decay = math.expm1(-h)
        first = -float(s.alpha) * decay  # of x̂_0 itself
        weights = [first]
        if order == 2:
            # D1 = (m_0 - m_1) / r, half of it weighted as x̂_0 is (eq. 14 with r = h_0 / h).
            r = (lambdas[i] - lambdas[i - 1]) / h
            weights = [first * (1 + 0.5 / r), -first * 0.5 / r]
        elif order == 3:
            r_0, r_1 = (lambdas[i] - lambdas[i - 1]) / h, (lambdas[i - 1] - lambdas[i - 2]) / h
            of_d1 = float(s.alpha) * (decay / h + 1)
            # Of the second derivative, which is twice the divided difference D2. The authors' code and its copies leave
            # the 2 out, and are of second order (docs/mathematics/samplers.md).
            of_d2 = -2 * float(s.alpha) * ((decay + h) / h**2 - 0.5)
            # D1 and D2 are made up of a = (m_0 - m_1) / r_0 and b = (m_1 - m_2) / r_1.
            of_a = of_d1 * (1 + r_0 / (r_0 + r_1)) + of_d2 / (r_0 + r_1)
            of_b = -of_d1 * r_0 / (r_0 + r_1) - of_d2 / (r_0 + r_1)
            weights = [first + of_a / r_0, -of_a / r_0 + of_b / r_1, -of_b / r_1]
        return LinearStep(t, float(s.sigma) / float(t.sigma), tuple(weights), remembered=self.order - 1)


@dataclass(frozen=True)
class SDEDPMSolver(Stepper):
    """SDE-DPM-Solver++ 2M: the second-order solver of the reverse SDE; one evaluation a step, stochastic."""

    @property
    def stochastic(self) -> bool:
        return True

    @property
    def multistep(self) -> bool:
        return True

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        lambdas = half_log_snr(path)
        return [self._step(path, lambdas, i) for i in range(len(path) - 1)]

    def _step(self, path: Level, lambdas: Sequence[float], i: int) -> LinearStep:
        t, s = path[i], path[i + 1]
        h = lambdas[i + 1] - lambdas[i]
        renewed = -math.expm1(-2 * h)
        first = float(s.alpha) * renewed
        weights = [first]
        if usable(2, i, lambdas) == 2:
            r = (lambdas[i] - lambdas[i - 1]) / h
            weights = [first * (1 + 0.5 / r), -first * 0.5 / r]
        kept = float(s.sigma) / float(t.sigma) * math.exp(-h)
        return LinearStep(t, kept, tuple(weights), float(s.sigma) * math.sqrt(renewed), remembered=1)


@dataclass(frozen=True)
class _TwoStages:
    """A first-order step to a level between, and a step with the slope that was found there."""

    first: LinearStep
    middle: Level
    x: float
    data: float
    slope: float

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        x_middle, prediction, _ = self.first(denoiser, x_t, (), noise)
        there = denoiser(x_middle, self.middle).x_0
        x_s = self.x * x_t + self.data * (prediction.x_0 + self.slope * (there - prediction.x_0))
        return x_s, prediction, ()


@dataclass(frozen=True)
class SinglestepDPMSolver(Stepper):
    """DPM-Solver++ 2S: second order from two evaluations a step, without memory; deterministic.

    Attributes:
        r: where in the step, in lambda, the second evaluation lies, between 0 and 1.
    """

    r: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.r < 1:
            raise InputError(f"The second evaluation of DPM-Solver++ 2S lies between 0 and 1, not at {self.r}.")

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        lambdas = half_log_snr(path)
        return [self._step(path[i], path[i + 1], lambdas[i], lambdas[i + 1], at_log_snr) for i in range(len(path) - 1)]

    def _step(self, t: Level, s: Level, lambda_t: float, lambda_s: float, at_log_snr: AtLogSNR) -> Step:
        x, data = first_order(t, s)
        if not (math.isfinite(lambda_t) and math.isfinite(lambda_s)):
            return LinearStep(t, x, (data,))
        middle = at_log_snr(torch.tensor(2 * (lambda_t + self.r * (lambda_s - lambda_t)), dtype=torch.float64))
        to_x, to_data = first_order(t, middle)
        return _TwoStages(LinearStep(t, to_x, (to_data,)), middle, x, data, 1 / (2 * self.r))


def first_order(t: Level, s: Level) -> tuple[float, float]:
    """(a, b) of x_s = a x_t + b x̂_0."""
    a = float(s.sigma) / float(t.sigma)
    return a, float(s.alpha) - a * float(t.alpha)
