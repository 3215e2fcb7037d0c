"""Training objectives: a target's squared error, a weight per level, and a rule that draws the levels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clearwater.denoisers import NetworkDenoiser
from clearwater.levels import scale
from clearwater.weights import Unweighted, Weight

__all__ = ["LowDiscrepancy", "Objective", "TimeSampler", "Uniform"]


class TimeSampler(ABC):
    """Draws integer levels k in 1..T for a batch."""

    @abstractmethod
    def __call__(self, n: int, T: int, generator: torch.Generator) -> Tensor:
        """`n` levels, int64, shape (n,), on the CPU."""


class Uniform(TimeSampler):
    """Independent and uniform (Ho et al. 2020, algorithm 1)."""

    def __call__(self, n: int, T: int, generator: torch.Generator) -> Tensor:
        return torch.randint(1, T + 1, (n,), generator=generator)


class LowDiscrepancy(TimeSampler):
    """Uniform, but spread evenly over a batch: one random offset for all (Kingma et al. 2021, appendix I.1).

    Each level alone is uniform, so the objective is the same; the gradient's variance is smaller.
    """

    def __call__(self, n: int, T: int, generator: torch.Generator) -> Tensor:
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        u = (offset + torch.arange(n, dtype=torch.float64) / n) % 1
        return (u * T).long().clamp(max=T - 1) + 1


@dataclass(frozen=True)
class Objective:
    """E over levels and noise of ``weight(t) · ‖y - y_θ(x_t, t)‖² / D``.

    Attributes:
        weight: the weight by level.
        times: how the levels of a batch are drawn.
    """

    weight: Weight = field(default_factory=Unweighted)
    times: TimeSampler = field(default_factory=Uniform)

    def __call__(self, denoiser: NetworkDenoiser, x_0: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of each image, shape (B,), at one random level and noise each.

        Args:
            denoiser: the network in training, with its chain and target.
            x_0: data, shape (B, ...).
            generator: a CPU generator; the noise is seeded from it on the device of `x_0`.
        """
        t = denoiser.chain.levels[self.times(len(x_0), denoiser.chain.T, generator)]
        noise_seed = int(torch.randint(2**62, (), generator=generator))
        on_device = torch.Generator(x_0.device).manual_seed(noise_seed)
        eps = torch.randn(x_0.shape, generator=on_device, device=x_0.device, dtype=x_0.dtype)
        error = denoiser.output(t.noise(x_0, eps), t) - denoiser.target.value(x_0, eps, t)
        return scale(self.weight(denoiser.target, t), error.square().flatten(1).mean(1))
