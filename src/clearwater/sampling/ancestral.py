"""Ancestral sampling (Ho et al. 2020, algorithm 2), on any levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.levels import Level, Pair
from clearwater.sampling.steps import AtLogSNR, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["Ancestral"]


@dataclass(frozen=True)
class _AncestralStep:
    pair: Pair
    to_data: bool

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        prediction = denoiser(x_t, self.pair.t)
        reverse = denoiser.reverse_from(prediction, x_t, self.pair)
        return (reverse.mean if self.to_data else reverse.sample(noise())), prediction, ()


class Ancestral(Stepper):
    """x_s ~ p(x_s | x_t), with the denoiser's variance; where s is data, the mean of it (z = 0)."""

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        to_data = float(path.sigma[-1]) == 0
        # The paper's variance where s is data, as a chain has it: that of the step before.
        decoder = Pair(path[-2], path[-3]).posterior_variance if to_data and len(path) > 2 else None
        pairs = [Pair(path[i + 1], path[i], decoder_variance=decoder) for i in range(len(path) - 1)]
        return [_AncestralStep(pair, float(pair.s.sigma) == 0) for pair in pairs]
