"""The end of training, and the learning rate on the way there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from clearwater.config import TrainingConfig
from clearwater.errors import InputError

__all__ = ["Budget", "Minutes", "Steps", "budget", "learning_rate_factor"]


class Budget(Protocol):
    """How far training has come: 0 at the start, 1 at the end."""

    def fraction(self, step: int, seconds: float) -> float:
        """The fraction done after `step` steps and `seconds` of training time."""


@dataclass(frozen=True)
class Steps:
    """Ends after a number of steps. Resuming reproduces the unbroken run to the bit."""

    steps: int

    def fraction(self, step: int, seconds: float) -> float:
        return min(step / self.steps, 1.0)


@dataclass(frozen=True)
class Minutes:
    """Ends after a time, in which pauses do not count. The clock decides, so two runs differ."""

    minutes: float

    def fraction(self, step: int, seconds: float) -> float:
        return min(seconds / (60 * self.minutes), 1.0)


def budget(training: TrainingConfig) -> Budget:
    """The budget that a configuration names."""
    if training.steps is not None:
        return Steps(training.steps)
    if training.minutes is not None:
        return Minutes(training.minutes)
    raise InputError("Training needs an end: give --steps or --minutes.")


def learning_rate_factor(training: TrainingConfig, step: int, fraction: float) -> float:
    """What the learning rate is multiplied by in this step: a linear warm-up, and a half cosine to zero at the end."""
    warm = min(1.0, (step + 1) / training.warmup) if training.warmup else 1.0
    return warm * (0.5 + 0.5 * math.cos(math.pi * fraction) if training.anneal == "cosine" else 1.0)
