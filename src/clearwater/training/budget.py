"""The end of training, and the learning rate on the way there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from clearwater.config import TrainingConfig
from clearwater.errors import InputError

__all__ = ["Budget", "Minutes", "Steps", "budget", "learning_rate_factor"]

_TRAPEZOID_END = 0.4


class Budget(Protocol):
    """How far training has come: 0 at the start, 1 at the end."""

    def fraction(self, step: int, seconds: float, reserve: float = 0.0) -> float:
        """The fraction done after `step` steps and `seconds` of training time, if `reserve` seconds are kept back."""

    def spent(self, seconds: float) -> float:
        """The training time of a run that has come to its end after `seconds`."""


@dataclass(frozen=True)
class Steps:
    """Ends after a number of steps. Resuming reproduces the unbroken run to the bit."""

    steps: int

    def fraction(self, step: int, seconds: float, reserve: float = 0.0) -> float:
        return min(step / self.steps, 1.0)

    def spent(self, seconds: float) -> float:
        return seconds


@dataclass(frozen=True)
class Minutes:
    """Ends after a time, from the start of the command; pauses do not count. The clock decides, so two runs differ."""

    minutes: float

    def fraction(self, step: int, seconds: float, reserve: float = 0.0) -> float:
        # However long the rest takes, half of the time is for training.
        return min(seconds / max(60 * self.minutes - reserve, 30 * self.minutes), 1.0)

    def spent(self, seconds: float) -> float:
        # With what was kept back: the same command again finds nothing left of its time.
        return max(seconds, 60 * self.minutes)


def budget(training: TrainingConfig) -> Budget:
    """The budget that a configuration names."""
    if training.steps is not None:
        return Steps(training.steps)
    if training.minutes is not None:
        return Minutes(training.minutes)
    raise InputError("Training needs an end: give --steps or --minutes.")


def learning_rate_factor(training: TrainingConfig, step: int, fraction: float) -> float:
    """What the learning rate is multiplied by in this step.

    A linear warm-up over steps, times what `anneal` says of the fraction done: "trapezoid" is 1 until
    the last 40% and falls to zero in a straight line there (Hägele et al. 2024), "cosine" is a half
    cosine from 1 to zero, "constant" is 1.
    """
    warm = min(1.0, (step + 1) / training.warmup) if training.warmup else 1.0
    match training.anneal:
        case "trapezoid":
            return warm * min(1.0, (1 - fraction) / _TRAPEZOID_END)
        case "cosine":
            return warm * (0.5 + 0.5 * math.cos(math.pi * fraction))
        case "constant":
            return warm
