"""DDIM: the reverse process with any share of its noise (Song et al. 2021, arXiv:2010.02502)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.sampling.steps import AtLogSNR, LinearStep, Step, Stepper

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM(Stepper):
    """x_s = alpha_s x̂_0 + √(sigma_s² - η² v) ε̂ + η √v z, v the posterior variance (eqs. 12 and 16).

    eta = 0 is deterministic, of first order, and the same step on every schedule: Euler's method for the
    probability-flow ODE in sigma / alpha, and, on a flow, for its velocity. eta = 1 on all levels is ancestral
    sampling with the small variance.

    Attributes:
        eta: the share of the noise, 0 to 1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise InputError(f"DDIM's eta goes from 0, no noise, to 1, as much as ancestral sampling; not {self.eta}.")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return [self._step(path[i], path[i + 1]) for i in range(len(path) - 1)]

    def _step(self, t: Level, s: Level) -> LinearStep:
        # Without noise the step goes either way: to data, or, in inversion, from it.
        added = self.eta * math.sqrt(float(Pair(s, t).posterior_variance)) if self.eta else 0.0
        direction = math.sqrt(float(s.sigma) ** 2 - added**2)
        a = direction / float(t.sigma)
        return LinearStep(t, a, (float(s.alpha) - a * float(t.alpha),), added)
