"""Continuous noise schedules: a time t in [0, 1] to a `Level`, 0 = data.

A schedule is a plain callable, never a module: nothing can cast it, average it or put it into a
checkpoint. Any function of this type works wherever a schedule is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clearwater.levels import Level

__all__ = ["VE", "VP", "CosineSchedule", "RectifiedFlow", "Schedule", "from_log_snr"]


class Schedule(Protocol):
    """t in [0, 1], float64, any shape, to the level at that time."""

    def __call__(self, t: Tensor, /) -> Level: ...


def from_log_snr(log_snr: Tensor, time: Tensor) -> Level:
    """The variance-preserving level (alpha² + sigma² = 1) with this log-SNR."""
    return Level(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt(), time)


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE (Song et al. 2021, eq. 11): beta(t) linear from one rate to another.

    With the defaults it is the limit of the linear chain: beta_t = beta(t) / T.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Tensor) -> Level:
        integral = self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()
        return Level((-0.5 * integral).exp(), (-torch.expm1(-integral)).sqrt(), t)


@dataclass(frozen=True)
class CosineSchedule:
    """alpha = cos(πt/2), sigma = sin(πt/2): the cosine schedule without its offset; zero SNR at t = 1."""

    def __call__(self, t: Tensor) -> Level:
        # sin(π(1-t)/2) rather than cos(πt/2), so that alpha is exactly zero at t = 1.
        return Level((math.pi / 2 * (1 - t)).sin(), (math.pi / 2 * t).sin(), t)


@dataclass(frozen=True)
class VE:
    """Variance exploding: alpha = 1, sigma spaced as in Karras et al. 2022, eq. 5, and 0 at t = 0.

    With t in place of the paper's fraction i / (N - 1): cut into a chain, the lowest level above data is one
    step above sigma_min.

    Attributes:
        sigma_min: the smallest sigma above zero, reached as t falls to 0 (at t = 0 sigma is 0).
        sigma_max: sigma at t = 1.
        rho: how strongly small sigmas are favoured; 7 in the paper.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __call__(self, t: Tensor) -> Level:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma = torch.where(t > 0, (low + t * (high - low)) ** self.rho, 0.0)
        return Level(torch.ones_like(t), sigma, t)


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path (Liu et al. 2022; Lipman et al. 2022 with sigma_min = 0): alpha = 1 - t, sigma = t."""

    def __call__(self, t: Tensor) -> Level:
        return Level(1 - t, t.clone(), t)
