"""What a sampler is: a `Stepper`, which turns a path of levels into steps that are ready to be taken.

A sampler's own coefficients are computed once, in float64, before the first evaluation of the network. (What the target
needs of a level is a few numbers on the CPU at each step; nothing waits for the device.) A step is pure: what it must
remember for the next one it returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.levels import Level
from clearwater.targets import Prediction

__all__ = ["AtLogSNR", "LinearStep", "Memory", "Noise", "Step", "Stepper", "combined", "no_noise"]

Memory = tuple[Tensor, ...]

AtLogSNR = Callable[[Tensor], Level]
"""log-SNR, float64, to the level that the network knows there: `Chain.at_log_snr`."""


class Noise(Protocol):
    """Gives standard normal noise of the shape of x_t, new at each call."""

    def __call__(self) -> Tensor: ...


def no_noise() -> Tensor:
    """The noise of a sampler that draws none."""
    raise AssertionError("a deterministic sampler draws no noise")


class Step(Protocol):
    """One step t → s."""

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise, /
    ) -> tuple[Tensor, Prediction, Memory]:
        """x_s, the prediction at x_t, and what the next step must be told. The first step is told nothing: ()."""


class Stepper(ABC):
    """A sampler."""

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise on the way, so that it goes from noise to data alone."""
        return False

    @property
    def multistep(self) -> bool:
        """Whether a step is made with what earlier steps found, so that it means nothing alone."""
        return False

    @abstractmethod
    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        """The steps along a path.

        Args:
            path: the levels in the order in which they are visited, shape (K + 1,).
            at_log_snr: gives the levels that lie between those, if the stepper needs any.
        """


@dataclass(frozen=True)
class LinearStep:
    """x_s = a · x_t + Σ_j b_j · x̂_0 of j steps ago + c · z: the form of most samplers.

    Attributes:
        t: the level of x_t.
        x: a.
        data: b_j; b_0 multiplies the prediction at x_t.
        noise: c; no noise is drawn if it is 0.
        remembered: how many earlier predictions the next step is told.
    """

    t: Level
    x: float
    data: tuple[float, ...]
    noise: float = 0.0
    remembered: int = 0

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        prediction = denoiser(x_t, self.t)
        known = (prediction.x_0, *memory)
        x_s = combined(self.x, x_t, self.data, known)
        if self.noise:
            x_s = x_s + self.noise * noise()
        return x_s, prediction, known[: self.remembered]


def combined(a: float, x: Tensor, weights: Sequence[float], predictions: Sequence[Tensor]) -> Tensor:
    """a · x + Σ_j weights_j · predictions_j, of as many as there are weights."""
    # A step to data has a = 0: then x has no part, whatever it is.
    total = a * x if a else torch.zeros_like(x)
    for weight, prediction in zip(weights, predictions, strict=False):
        total = total + weight * prediction
    return total
