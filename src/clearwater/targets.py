r"""What a network predicts: one row (a, b) of ``y = a · x_0 + b · eps``.

With ``x_t = alpha · x_0 + sigma · eps`` it is a 2 × 2 system, det = alpha·b - sigma·a:

    x_0 = (b · x_t - sigma · y) / det,      eps = (alpha · y - a · x_t) / det.

So one solve serves every target, and a new target is a class with one method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.levels import Level, scale
from clearwater.schedules import Schedule, slopes

__all__ = [
    "X0",
    "Eps",
    "Mean",
    "PathVelocity",
    "Prediction",
    "Score",
    "Target",
    "V",
    "Velocity",
    "prediction_from_x_0",
    "velocity",
]


@dataclass(frozen=True)
class Prediction:
    """What a network's output says of x_t; both of the shape of x_t.

    Attributes:
        x_0: the data, E[x_0 | x_t] if the network is exact.
        eps: the noise; ``alpha * x_0 + sigma * eps`` is x_t.
        extra: the channels that the network has beyond the image's, for a learned variance; or None.
    """

    x_0: Tensor
    eps: Tensor
    extra: Tensor | None = None


def prediction_from_x_0(x_0: Tensor, x_t: Tensor, t: Level, extra: Tensor | None = None) -> Prediction:
    """The prediction with this x_0: eps is what is left of x_t. For one whose x_0 was changed (clipped, guided)."""
    return Prediction(x_0, scale(1 / t.sigma, x_t) - scale(t.alpha / t.sigma, x_0), extra)


class Target(ABC):
    """A prediction target."""

    @abstractmethod
    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        """(a, b) of ``y = a · x_0 + b · eps`` at level `t`: float64, of `t`'s shape."""

    def value(self, x_0: Tensor, eps: Tensor, t: Level) -> Tensor:
        """y, what the network should say, shape of `x_0`."""
        a, b = self.row(t)
        return scale(a, x_0) + scale(b, eps)

    def system(self, t: Level) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, det) of the 2 × 2 system at level `t`.

        Raises:
            InputError: it has no solution: the target does not determine x_0 there.
        """
        a, b = self.row(t)
        det = t.alpha * b - t.sigma * a
        solved = det.isfinite() & (det != 0)
        if not bool(solved.all()):
            alpha, sigma = (float(part[~solved].flatten()[0]) for part in (t.alpha, t.sigma))
            raise InputError(
                f"The target {type(self).__name__} says nothing about x_0 at a level with alpha = {alpha:.3g}, sigma = "
                f"{sigma:.3g}: use V, or a chain that ends above zero SNR."
            )
        return a, b, det

    def solve(self, x_t: Tensor, y: Tensor, t: Level) -> Prediction:
        """x_0 and eps of a network's output `y` at `x_t`, shape (B, C, ...).

        `y` has the shape of `x_t`; channels that it has beyond those go to the prediction's `extra`.
        """
        y, extra = y[:, : x_t.shape[1]], y[:, x_t.shape[1] :] if y.shape[1] > x_t.shape[1] else None
        a, b, det = self.system(t)
        return Prediction(
            x_0=scale(b / det, x_t) - scale(t.sigma / det, y),
            eps=scale(t.alpha / det, y) - scale(a / det, x_t),
            extra=extra,
        )


class Eps(Target):
    """The noise (Ho et al. 2020, eq. 11)."""

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t.alpha), torch.ones_like(t.alpha)


class X0(Target):
    """The data."""

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t.alpha), torch.zeros_like(t.alpha)


class V(Target):
    """v = alpha · eps - sigma · x_0 (Salimans & Ho 2022, section 4). Defined at every level."""

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        return -t.sigma, t.alpha


class Score(Target):
    """The score of q(x_t | x_0), -eps / sigma (Song et al. 2021)."""

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t.alpha), -1 / t.sigma


class Velocity(Target):
    """eps - x_0: the velocity of the straight path (Lipman et al. 2022; Liu et al. 2022), time from data to noise."""

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t.alpha), torch.ones_like(t.alpha)


@dataclass(frozen=True)
class PathVelocity(Target):
    """alpha' · x_0 + sigma' · eps, the velocity of any path at its own time (Lipman et al. 2022, theorem 3).

    On `RectifiedFlow` it is `Velocity`, on `CosineSchedule` π/2 times `V`, and on alpha = 1, sigma = t it is `Eps`.

    Attributes:
        schedule: the path of the network's training; the target is defined at its levels alone.
    """

    schedule: Schedule

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        path = self.schedule(t.time)
        if not (torch.allclose(path.alpha, t.alpha) and torch.allclose(path.sigma, t.sigma)):
            raise InputError(
                "The target PathVelocity is defined on its own path alone, and a level is asked for that is not of it: "
                "use a chain that is cut from that schedule (Chain.from_schedule), or train another target, such as V."
            )
        a, b = slopes(self.schedule, t.time)
        if not bool((a.isfinite() & b.isfinite()).all()):
            raise InputError(
                f"The path is vertical at a time from {float(t.time.min()):.3g} to {float(t.time.max()):.3g}, where it "
                "has no velocity: use a chain without that level, or train another target, such as V."
            )
        return a, b


def velocity(prediction: Prediction, t: Level, schedule: Schedule) -> Tensor:
    """The velocity of the path at x_t that follows from a prediction of any target, shape of x_t.

    If the prediction is E[· | x_t] it is the marginal velocity, whose ODE dx/dt carries noise to data.

    Args:
        prediction: what a denoiser says of x_t.
        t: the level of x_t, on the path.
        schedule: the path.
    """
    return PathVelocity(schedule).value(prediction.x_0, prediction.eps, t)


@dataclass(frozen=True)
class Mean(Target):
    """The mean of q(x_{k-1} | x_k, x_0) (Ho et al. 2020, eqs. 7 and 8).

    Attributes:
        chain: the chain of the network's training; the target is defined at its levels alone.
    """

    chain: Chain

    def row(self, t: Level) -> tuple[Tensor, Tensor]:
        try:
            pair = self.chain.pair(self.chain.index(t))
        except InputError as error:
            raise InputError(
                f"The target Mean is defined on its own chain alone. {error} Or train another target, such as Eps."
            ) from None
        return pair.c_0 + pair.c_t * t.alpha, pair.c_t * t.sigma
