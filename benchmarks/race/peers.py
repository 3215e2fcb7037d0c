"""What a peer of the race is, and what all of them share: the images, the clock, the annealing of the learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Clock", "Images", "Peer", "Rate", "Trained", "answers_in_float32"]

_SHORT = 5.0  # minutes
_ENDING = 1.5  # seconds kept back for writing the weights and leaving


@dataclass(frozen=True)
class Clock:
    """The budget of a training process.

    Attributes:
        began: when the process was started, on the monotonic clock.
        minutes: that it has, its imports included.
    """

    began: float
    minutes: float

    @property
    def part(self) -> float:
        """How much of the budget is spent: from 0 to 1, where training ends."""
        return min((time.monotonic() - self.began) / (60 * self.minutes - _ENDING), 1.0)

    @property
    def short(self) -> bool:
        """Whether steps are so few that a network of half as many channels, which makes more of them, is better."""
        return self.minutes < _SHORT


@dataclass(frozen=True)
class Rate:
    """A learning rate.

    Attributes:
        value: the highest.
        warm_up: steps in which it rises to that.
        annealed: whether it falls to zero over the budget, as half a cosine.
    """

    value: float
    warm_up: int = 100
    annealed: bool = True

    def give(self, optimizer: Optimizer, step: int, clock: Clock) -> None:
        """Sets the rate of the step that comes after `step` others."""
        value = self.value * min((step + 1) / self.warm_up, 1.0)
        if self.annealed:
            value *= (1 + math.cos(math.pi * clock.part)) / 2
        for group in optimizer.param_groups:
            group["lr"] = value


class Images:
    """Images of a .npy file, uint8 of shape (N, C, H, W), mapped into memory.

    Attributes:
        stored: all of them.
        shape: (C, H, W) of one.
    """

    def __init__(self, path: Path) -> None:
        self.stored = np.load(path, mmap_mode="r")
        _, C, H, W = self.stored.shape
        self.shape: tuple[int, int, int] = (C, H, W)
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, n: int) -> Tensor:
        """The next n of an order that is drawn anew when all have been seen: (n, C, H, W), in [-1, 1]."""
        if len(self._order) < n:
            self._order = torch.randperm(len(self.stored))
        index, self._order = self._order[:n], self._order[n:]
        return torch.from_numpy(self.stored[index.numpy()]).float().div(127.5).sub(1)


@dataclass(frozen=True)
class Trained:
    """What came of training.

    Attributes:
        steps: of the optimiser.
        images: that were trained on, each as often as it was.
        parameters: of the network.
    """

    steps: int
    images: int
    parameters: int


class Peer(Protocol):
    """Another way to train and to sample."""

    @property
    def bf16(self) -> bool:
        """Whether its network computes in bf16 where it can."""
        ...

    def train(self, images: Images, clock: Clock, out: Path) -> Trained:
        """Trains until the clock has run out, and writes the weights that are sampled with."""
        ...

    def load(self, out: Path, shape: tuple[int, int, int]) -> nn.Module:
        """The network with these weights, which answers in float32."""
        ...

    def sampler(self, network: nn.Module, shape: tuple[int, int, int], evaluations: int) -> Callable[[int], Tensor]:
        """What makes n images, (n, C, H, W) in [-1, 1], with at most so many evaluations of the network each."""
        ...


def answers_in_float32(network: nn.Module) -> nn.Module:
    """Lets a network that computes in bf16 answer in float32, so that samplers compute in that."""
    network.register_forward_hook(lambda module, given, answer: answer.float() if torch.is_tensor(answer) else answer)
    return network
