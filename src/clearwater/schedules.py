"""Continuous noise schedules: a time t in [0, 1] to a `Level`, 0 = data.

A schedule is a plain callable, never a module: nothing can cast it, average it or put it into a
checkpoint. Any function of this type works wherever a schedule is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.levels import Level

__all__ = [
    "VE",
    "VP",
    "Bridge",
    "CosineSchedule",
    "RectifiedFlow",
    "Schedule",
    "SineSquared",
    "StochasticInterpolant",
    "from_log_snr",
    "level_at_log_snr",
    "slopes",
]

_FURTHEST_LOGIT = 40.0  # of a time: 4e-18, and 1 in float64
_ROUNDING = 1e-12  # of the square of a gamma, which is exactly zero at the ends in theory
_MOST_EVALUATIONS = 64  # by halving alone float64 has no number between two others after as many


class Schedule(Protocol):
    """t in [0, 1], float64, any shape, to the level at that time: each time's by itself."""

    def __call__(self, t: Tensor, /) -> Level: ...


def slopes(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """d alpha / dt and d sigma / dt at the times `t`, exact, float64, of its shape: the velocity of a path.

    Not finite where a path is vertical, as sigma = √t is at 0.
    """
    return _slope(lambda time: schedule(time).alpha, t), _slope(lambda time: schedule(time).sigma, t)


def _slope(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    # Also within a sampler, which works in inference mode, where there is no derivative.
    with torch.inference_mode(False), torch.enable_grad():
        time = t.detach().to(torch.float64, copy=True).requires_grad_()
        value = function(time)
        if not value.requires_grad:  # a constant, as alpha = 1
            return torch.zeros_like(time)
        (slope,) = torch.autograd.grad(value.sum(), time)
    return slope.detach()


def level_at_log_snr(schedule: Schedule, log_snr: Tensor) -> Level:
    """The levels of the schedule that have these log-SNR, to rounding.

    Where the schedule has no time with so much signal the time is next to 0, where it has none with so little it is 1.

    Args:
        schedule: its log-SNR falls with time.
        log_snr: any shape; +inf is data, -inf the end of a path to pure noise.
    """
    wanted = log_snr.to(torch.float64)
    time = torch.sigmoid(_logit_at(schedule, wanted))
    time = time.where(wanted != math.inf, 0.0).where(wanted != -math.inf, 1.0)
    found = schedule(time)
    norm = (found.alpha.square() + found.sigma.square()).sqrt()
    # By the log-SNR that is asked for: next to pure noise that of the time has few digits.
    return Level(norm * torch.sigmoid(wanted).sqrt(), norm * torch.sigmoid(-wanted).sqrt(), time)


def _logit_at(schedule: Schedule, wanted: Tensor) -> Tensor:
    """The logit of the time with this log-SNR, which on the straight path is -½ times it, by the Illinois method."""
    low, high = torch.full_like(wanted, -_FURTHEST_LOGIT), torch.full_like(wanted, _FURTHEST_LOGIT)
    at_low, at_high = (schedule(torch.sigmoid(end)).log_snr - wanted for end in (low, high))
    side, x = torch.zeros_like(wanted), low
    for _ in range(_MOST_EVALUATIONS):
        share = at_low / (at_low - at_high)
        x = low + (high - low) * share.where((share > 0) & (share < 1), 0.5)
        found = schedule(torch.sigmoid(x)).log_snr - wanted
        if bool((found.abs() <= 4e-15 * (1 + wanted.abs())).all()):
            break
        early = found > 0
        # An end that stays twice is weighed half, or it would stay for ever.
        at_high = torch.where(early, torch.where(side > 0, at_high / 2, at_high), found)
        at_low = torch.where(early, found, torch.where(side < 0, at_low / 2, at_low))
        low, high = torch.where(early, x, low), torch.where(early, high, x)
        side = torch.where(early, 1.0, -1.0)
    return x


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
    """The straight path: alpha = 1 - t, sigma = sigma_min + (1 - sigma_min) t, and 0 at t = 0.

    With sigma_min = 0 it is Liu et al. 2022; in general the optimal-transport path of Lipman et al. 2022, eq. 20, whose
    time is 1 - t. Level 0 is data itself, so sigma leaps from 0 to sigma_min there, as that of `VE` does.

    Attributes:
        sigma_min: the noise that the data keeps on the path, at least 0 and below 1; 0 for none.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise InputError(f"The sigma_min of a straight path is at least 0 and below 1, not {self.sigma_min}.")

    def __call__(self, t: Tensor) -> Level:
        if not self.sigma_min:
            return Level(1 - t, t.clone(), t)
        return Level(1 - t, torch.where(t > 0, self.sigma_min + (1 - self.sigma_min) * t, 0.0), t)


@dataclass(frozen=True)
class Bridge:
    """gamma² = a · t (1 - t): the variance of a Brownian bridge; its gamma is vertical at both ends."""

    a: float = 2.0

    def __post_init__(self) -> None:
        if not self.a >= 0:
            raise InputError(f"The variance of a bridge is not below zero, and its rate is {self.a}.")

    def __call__(self, t: Tensor) -> Tensor:
        return self.a * t * (1 - t)


@dataclass(frozen=True)
class SineSquared:
    """gamma = a · sin²(πt), whose slope is 0 at both ends. With a up to 2 the log-SNR falls everywhere."""

    a: float = 1.0

    def __call__(self, t: Tensor) -> Tensor:
        # By 1 - t after the middle, so that gamma is exactly zero at t = 1.
        return (self.a * (math.pi * torch.minimum(t, 1 - t)).sin().square()).square()


@dataclass(frozen=True)
class StochasticInterpolant:
    """x_t = (1 - t) x_0 + t z + gamma(t) z', with two independent noises (Albergo, Boffi & Vanden-Eijnden 2023).

    Noise is one of its ends here, so t z + gamma z' is one noise: alpha = 1 - t, sigma = √(t² + gamma²). The objective
    that keeps the two apart is `TwoNoises`.

    Attributes:
        gamma_squared: gamma(t)², zero at t = 0 and at t = 1, differentiable by torch; the square, since it is smooth
            also where gamma is vertical.
    """

    gamma_squared: Callable[[Tensor], Tensor] = Bridge()

    def __post_init__(self) -> None:
        times = torch.linspace(0, 1, 1001, dtype=torch.float64)
        found = self.gamma_squared(times)
        ends = found[[0, -1]]
        if not bool((ends.abs() <= _ROUNDING).all()):
            raise InputError(
                f"The gamma of a stochastic interpolant is zero at both ends, and its square is {ends.tolist()}."
            )
        wrong = (~(found >= -_ROUNDING)).nonzero()
        if len(wrong):
            i = int(wrong[0])
            raise InputError(
                "The square of the gamma of a stochastic interpolant is nowhere below zero, and at t = "
                f"{float(times[i]):.3g} it is {float(found[i]):.4g}."
            )

    def __call__(self, t: Tensor) -> Level:
        return Level(1 - t, (t.square() + self._squared(t)).sqrt(), t)

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and d gamma / dt at the times `t`, float64, of its shape; the slope is NaN or infinite at gamma = 0."""
        gamma = self._squared(t).sqrt()
        return gamma, _slope(self.gamma_squared, t) / (2 * gamma)

    def _squared(self, t: Tensor) -> Tensor:
        """gamma² without what rounding leaves where it is zero."""
        return self.gamma_squared(t).clamp(min=0).where(t > 0, 0.0)
