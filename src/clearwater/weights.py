"""Weights on the squared error of a target, by level.

What is published for one target is given here for all: an error of 1 in what a network says, y, is an
error of sigma / det in x_0 and of alpha / det in eps (targets.py), so a weight on the error of x_0 or of
eps becomes one on that of y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.targets import Target
from clearwater.variances import LevelVariance

__all__ = ["P2", "BoundWeight", "EDMWeight", "MinSNR", "SigmoidWeight", "Unweighted", "Weight"]


class Weight(ABC):
    """The weight on the squared error of a target, by level."""

    @abstractmethod
    def __call__(self, target: Target, t: Level) -> Tensor:
        """float64, of `t`'s shape."""


class Unweighted(Weight):
    """1: with the target Eps it is L_simple (Ho et al. 2020, eq. 14)."""

    def __call__(self, target: Target, t: Level) -> Tensor:
        return torch.ones_like(t.alpha)


def _of_x_0(weight: Tensor, target: Target, t: Level) -> Tensor:
    """A weight on the squared error of x_0 as one on that of y."""
    _, _, det = target.system(t)
    return weight * (t.sigma / det).square()


def _of_eps(weight: Tensor, target: Target, t: Level) -> Tensor:
    """A weight on the squared error of eps as one on that of y."""
    _, _, det = target.system(t)
    return weight * (t.alpha / det).square()


@dataclass(frozen=True)
class MinSNR(Weight):
    """min(SNR, gamma) on the error of x_0, whatever the target (Hang et al. 2023).

    For Eps it is min(1, gamma / SNR) on the target's error; gamma = ∞ is L_simple.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError(f"The gamma of min-SNR weighting is above zero, not {self.gamma}.")

    def __call__(self, target: Target, t: Level) -> Tensor:
        return _of_x_0(t.snr.clamp(max=self.gamma), target, t)


@dataclass(frozen=True)
class EDMWeight(Weight):
    """(σ² + σ_data²) / (σ σ_data)² on the error of x_0, σ = sigma / alpha (Karras et al. 2022, table 1)."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise InputError(f"The data's standard deviation is above zero, not {self.sigma_data}.")

    def __call__(self, target: Target, t: Level) -> Tensor:
        return _of_x_0(t.snr + self.sigma_data**-2, target, t)


@dataclass(frozen=True)
class P2(Weight):
    """(k + SNR)^-gamma on the error of eps (Choi et al. 2022, eq. 8)."""

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.k > 0):
            raise InputError(f"The gamma of P2 is not below zero and its k above, not {self.gamma} and {self.k}.")

    def __call__(self, target: Target, t: Level) -> Tensor:
        return _of_eps((self.k + t.snr) ** -self.gamma, target, t)


@dataclass(frozen=True)
class SigmoidWeight(Weight):
    """sigmoid(bias - log SNR) on the error of eps, in an integral over log SNR (Kingma & Gao 2023).

    Over levels that are drawn evenly in time this takes the density of log SNR on top of it, which is the chain's: T
    times the fall of log SNR from level k - 1 to k. Where that is infinite, at either end, the step beside it serves.

    Attributes:
        bias: the log SNR below which levels count in full.
        chain: the levels that are trained on; None leaves the density out.
    """

    bias: float = 2.0
    chain: Chain | None = None

    def __call__(self, target: Target, t: Level) -> Tensor:
        weight = torch.sigmoid(self.bias - t.log_snr)
        if self.chain is not None:
            falls = -self.chain.levels.log_snr.diff()
            falls[0], falls[-1] = falls[1], falls[-1] if falls[-1].isfinite() else falls[-2]
            density = self.chain.T * falls
            weight = weight * density[self.chain.index(t) - 1]
        return _of_eps(weight, target, t)


@dataclass(frozen=True)
class BoundWeight(Weight):
    """What makes the squared error the bound's own term, KL(q(x_{k-1} | x_k, x_0) ‖ p), up to a constant.

    With the targets Mean, X0 and Eps these are the first three of the four approaches (Ho et al. 2020,
    eqs. 8, 12): c_0² / (2 σ_q²) on the error of x_0. At k = 1 it is the density decoder's.

    Attributes:
        chain: the chain that the targets' levels are of.
        variance: the fixed reverse variance σ_q².
    """

    chain: Chain
    variance: LevelVariance

    def __call__(self, target: Target, t: Level) -> Tensor:
        pair = self.chain.pair(self.chain.index(t))
        return _of_x_0(pair.c_0.square() / (2 * self.variance(pair)), target, t)
