"""Explicit methods of Runge and Kutta for the probability-flow ODE, along the straight line between two levels.

The ODE's solution depends on the path of (alpha, sigma) by a known factor alone, so a step may take the path it likes
best: the straight one from level t to level s,

    alpha = alpha_t + c (alpha_s - alpha_t),    sigma = sigma_t + c (sigma_s - sigma_t),    0 ≤ c ≤ 1,

along which dx/dc = (alpha_s - alpha_t) x̂_0 + (sigma_s - sigma_t) ε̂. It is finite at data and at pure noise on every
schedule; on a rectified flow it is the path itself, and these are the usual methods for its velocity. Euler's method on
it is DDIM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.probability_flow import norm_of
from clearwater.sampling.steps import AtLogSNR, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["RungeKutta"]

# Of each stage after the first: where it is, and the weight of the slope before it; then the weights of all slopes.
_TABLEAUS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    2: ((0.5,), (0.0, 1.0)),
    4: ((0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


@dataclass(frozen=True)
class _RungeKuttaStep:
    """A step t → s.

    Attributes:
        t, s: where it begins and ends.
        nodes: where the stages after the first are, each of which follows the slope of the one before it to there.
        known: the levels there that the network knows, of the same log-SNR.
        factors: x at those, over x on the line.
        weights: of the slopes of all stages.
    """

    t: Level
    s: Level
    nodes: tuple[float, ...]
    known: tuple[Level, ...]
    factors: tuple[float, ...]
    weights: tuple[float, ...]

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        first = denoiser(x_t, self.t)
        slope = self._slope(first)
        x_s = x_t + self.weights[0] * slope
        for node, level, factor, weight in zip(self.nodes, self.known, self.factors, self.weights[1:], strict=True):
            slope = self._slope(denoiser(factor * (x_t + node * slope), level))
            x_s = x_s + weight * slope
        return x_s, first, ()

    def _slope(self, prediction: Prediction) -> Tensor:
        of_data, of_noise = float(self.s.alpha - self.t.alpha), float(self.s.sigma - self.t.sigma)
        return of_data * prediction.x_0 + of_noise * prediction.eps


@dataclass(frozen=True)
class RungeKutta(Stepper):
    """The midpoint method (order 2) or the classical one of four stages (order 4): as many evaluations a step.

    The network knows no level at data, so the step there takes the midpoint method; and Euler's from the chain's first
    level, or from pure noise to its last one with signal, since it knows none between.

    Attributes:
        order: 2 or 4.
    """

    order: int = 4

    def __post_init__(self) -> None:
        if self.order not in _TABLEAUS:
            raise InputError(f"There are methods of Runge and Kutta of the orders 2 and 4 here, not of {self.order}.")

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return [self._step(path[i], path[i + 1], at_log_snr) for i in range(len(path) - 1)]

    def _step(self, t: Level, s: Level, at_log_snr: AtLogSNR) -> Step:
        for order in (self.order, 2):
            nodes, weights = _TABLEAUS[order]
            if nodes[-1] == 1 and float(s.sigma) == 0:
                continue
            on_line = [_between(t, s, c) for c in nodes]
            try:
                known = [s if c == 1 else at_log_snr(level.log_snr) for c, level in zip(nodes, on_line, strict=True)]
            except InputError:  # next to data, or to pure noise, the network knows no level between the two
                continue
            factors = tuple(float(norm_of(level) / norm_of(line)) for level, line in zip(known, on_line, strict=True))
            return _RungeKuttaStep(t, s, nodes, tuple(known), factors, weights)
        return _RungeKuttaStep(t, s, (), (), (), (1.0,))


def _between(t: Level, s: Level, c: float) -> Level:
    """On the line from t, where c is 0, to s, where it is 1."""
    return Level((1 - c) * t.alpha + c * s.alpha, (1 - c) * t.sigma + c * s.sigma, t.time)
