"""Heun's method with churn (Karras et al. 2022, algorithm 2), in sigma / alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.sampling.steps import AtLogSNR, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["Euler", "Heun"]


@dataclass(frozen=True)
class _ChurnedStep:
    """More noise first, up to level `t`; then a step of the ODE in sigma / alpha.

    Attributes:
        scale: x at level t is `scale` times the x before, and noise.
        added: standard deviation of that noise.
        t, s: where the ODE's step begins and ends.
        end: the weight of the slope at s beside that at t; 0 for Euler's step.
    """

    scale: float
    added: float
    t: Level
    s: Level
    end: float

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        t, s = self.t, self.s
        if self.added:
            x_t = self.scale * x_t + self.added * noise()
        prediction = denoiser(x_t, t)
        x_s = float(s.alpha) * prediction.x_0 + float(s.sigma) * prediction.eps
        if self.end:
            difference = float(s.sigma) - float(s.alpha) * float(t.sigma) / float(t.alpha)
            x_s = x_s + self.end * difference * (denoiser(x_s, s).eps - prediction.eps)
        return x_s, prediction, ()


@dataclass(frozen=True)
class Euler(Stepper):
    """Euler's method for the ODE dx̃/dς = ε̂, x̃ = x / alpha and ς = sigma / alpha; one evaluation a step.

    Without churn it is deterministic, and DDIM with eta = 0. With churn, noise is added before each step, and the step
    starts from the level that has it.

    Attributes:
        churn: how much noise is added, S_churn: ς grows by a factor of at most √2 a step. 0 adds none.
        churn_range: the lowest and the highest ς at which noise is added, S_tmin and S_tmax.
        noise: standard deviation of the noise, S_noise.
    """

    churn: float = 0.0
    churn_range: tuple[float, float] = (0.0, math.inf)
    noise: float = 1.0

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and self.noise >= 0):
            raise InputError(f"Churn and its noise are not below zero: {self.churn} and {self.noise} were given.")
        if not 0 <= self.churn_range[0] <= self.churn_range[1]:
            raise InputError(
                f"Noise is added between two sigma / alpha from 0 on, the lower one first, not {self.churn_range}."
            )

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return [self._step(path, i, at_log_snr) for i in range(len(path) - 1)]

    def _step(self, path: Level, i: int, at_log_snr: AtLogSNR, corrected: bool = False) -> Step:
        t, s = path[i], path[i + 1]
        ratio = float(t.sigma) / float(t.alpha) if float(t.alpha) else math.inf
        gamma = min(self.churn / (len(path) - 1), math.sqrt(2) - 1)
        # Noise is added up to the highest level with signal that is on the path.
        top = float((path.sigma / path.alpha)[path.alpha > 0].max())
        outside = not self.churn_range[0] <= ratio <= self.churn_range[1]
        if not gamma or outside or ratio * (1 + gamma) > top:
            return _ChurnedStep(1.0, 0.0, t, s, _weight_of_end(t, s) if corrected else 0.0)
        higher = ratio * (1 + gamma)
        start = at_log_snr(torch.tensor(-2 * math.log(higher), dtype=torch.float64))
        added = float(start.alpha) * math.sqrt(higher**2 - ratio**2) * self.noise
        end = _weight_of_end(start, s) if corrected else 0.0
        return _ChurnedStep(float(start.alpha) / float(t.alpha), added, start, s, end)


def _weight_of_end(t: Level, s: Level) -> float:
    """½, the trapezoid's; less on a step so long that the mean of the slopes would leave the path.

    From ς_t down to ς_s, a change of x̂_0 by d on the way changes x̃_s by weight · (ς_t / ς_s - 1) · d. No more than d is
    meant; with ½ it is hundreds of it on a coarse grid from a level of hardly any signal. 0 from a level without
    signal, whose slope is infinite in ς, and where s is data, whose slope is not needed.
    """
    if float(t.alpha) == 0 or float(s.sigma) == 0:
        return 0.0
    ratio = float((t.sigma / t.alpha) / (s.sigma / s.alpha))
    return 0.5 if ratio <= 3 else 1 / (ratio - 1)


@dataclass(frozen=True)
class Heun(Euler):
    """Second order: the slope is averaged with that at the step's end; two evaluations a step, the last one."""

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return [self._step(path, i, at_log_snr, corrected=True) for i in range(len(path) - 1)]
