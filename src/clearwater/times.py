"""Which levels a batch is trained at, and the weights that keep the mean over all levels what it was.

A sampler returns its levels and their weights, so one that prefers some levels stays unbiased.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.levels import shifted_share

__all__ = ["LogNormal", "LogitNormal", "LossAware", "LowDiscrepancy", "Mode", "Shifted", "TimeSampler", "Uniform"]


class TimeSampler(ABC):
    """Draws integer levels k in 1..T for a batch."""

    @abstractmethod
    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` levels, int64, and what their losses are to be multiplied by, float64; both (n,), on the CPU."""

    def observe(self, k: Tensor, loss: Tensor) -> None:  # noqa: B027 - most need no telling
        """Is told the losses that were seen at levels `k`, both (n,), before their weights."""

    def state(self) -> dict[str, Tensor]:
        """What it remembers: a checkpoint keeps it, so that a resumed run draws the same levels."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most remember nothing
        """Goes on from what `state` gave."""


class Uniform(TimeSampler):
    """Independent and uniform (Ho et al. 2020, algorithm 1)."""

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randint(1, T + 1, (n,), generator=generator), torch.ones(n, dtype=torch.float64)


def _evenly(n: int, generator: torch.Generator) -> Tensor:
    """n numbers evenly spread over [0, 1) from one random offset: each alone is uniform. float64, shape (n,)."""
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    return (offset + torch.arange(n, dtype=torch.float64) / n) % 1


def _level(u: Tensor, T: int) -> Tensor:
    """The level 1..T of a number in [0, 1]."""
    return (u * T).long().clamp(max=T - 1) + 1


class LowDiscrepancy(TimeSampler):
    """Uniform, but spread evenly over a batch: one random offset for all (Kingma et al. 2021, appendix I.1).

    Each level alone is uniform, so the objective is the same; the gradient's variance is smaller.
    """

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return _level(_evenly(n, generator), T), torch.ones(n, dtype=torch.float64)


@dataclass(frozen=True)
class LogitNormal(TimeSampler):
    """k/T with a normal logit, so the middle levels come most often (Esser et al. 2024, section 3.1).

    The density is meant as a weight of the levels, as in the paper, so it is not divided out again: the weights
    are 1, and the objective is another than with `Uniform`.

    Attributes:
        mean: of the logit; above zero for more noise.
        std: of the logit, above zero.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise InputError(f"The standard deviation of a logit-normal is above zero, not {self.std}.")

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        logit = self.mean + self.std * torch.randn(n, generator=generator, dtype=torch.float64)
        return _level(torch.sigmoid(logit), T), torch.ones(n, dtype=torch.float64)


@dataclass(frozen=True)
class Mode(TimeSampler):
    """k/T = 1 - u - scale · (cos²(πu/2) - 1 + u), u uniform: the middle more often, and the ends never left out.

    (Esser et al. 2024, eq. 20.) As with `LogitNormal` the density is meant as a weight.

    Attributes:
        scale: -1, where the ends come most often, to 2 / (π - 2) ≈ 1.75; 0 is uniform. 1.29 in the paper.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise InputError(f"The scale of mode goes from -1 to 2 / (π - 2) = 1.75, and {self.scale} was given.")

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u = torch.rand(n, generator=generator, dtype=torch.float64)
        t = 1 - u - self.scale * ((math.pi / 2 * u).cos().square() - 1 + u)
        return _level(t, T), torch.ones(n, dtype=torch.float64)


@dataclass(frozen=True)
class Shifted(TimeSampler):
    """The levels of another sampler moved towards noise: of each the log-SNR falls by 2 log(shift).

    On the chain flow t becomes shift · t / (1 + (shift - 1) · t). An image of m times as many pixels is as hard to make
    out under shift = √m times the noise, if its neighbours are alike (Esser et al. 2024, eq. 23). What would lie beyond
    the chain's last level is drawn there.

    Attributes:
        times: the other one.
        chain: whose levels are drawn.
        shift: above 1 for more noise.
    """

    times: TimeSampler
    chain: Chain
    shift: float

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise InputError(f"The shift of times is above zero, not {self.shift}.")

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        k, weight = self.times(n, T, generator)
        # It rises from 0 to at most 1, evenly within a step; on the chain flow it is t.
        share = self.chain.levels.noise_share
        within = torch.rand(n, generator=generator, dtype=torch.float64)
        drawn = torch.lerp(share[k - 1], share[k], within)
        return torch.searchsorted(share[1:].contiguous(), shifted_share(drawn, self.shift)).clamp(max=T - 1) + 1, weight


@dataclass(frozen=True)
class LogNormal(TimeSampler):
    """log(sigma / alpha) normal, and the level next to it (Karras et al. 2022, table 1).

    As with `LogitNormal` the density is meant as a weight, so the weights are 1. What lies beyond the chain's ends
    is drawn at the ends.

    Attributes:
        chain: whose levels are drawn.
        mean: of log(sigma / alpha).
        std: of it, above zero.
    """

    chain: Chain
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise InputError(f"The standard deviation of a log-normal is above zero, not {self.std}.")

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        wanted = self.mean + self.std * torch.randn(n, generator=generator, dtype=torch.float64)
        known = -self.chain.levels.log_snr[1:] / 2
        middles = (known[1:] + known[:-1]) / 2
        return torch.searchsorted(middles, wanted) + 1, torch.ones(n, dtype=torch.float64)


class LossAware(TimeSampler):
    """Importance sampling: a level's probability is about √E[loss²] there (Nichol & Dhariwal 2021, eq. 18).

    The mean square is that of the last losses seen at the level. Until every level was seen `history` times,
    levels are uniform. The weights are 1 / (T · probability), so the mean stays that of `Uniform`.

    Args:
        T: the number of levels.
        history: how many losses a level remembers; 10 in the paper.
        uniform: the share of the probability that is spread evenly, so that no weight exceeds 1 / uniform.
    """

    def __init__(self, T: int, history: int = 10, uniform: float = 0.001) -> None:
        if T < 1 or history < 1 or not 0 < uniform <= 1:
            raise InputError(
                f"Importance sampling needs levels, a history of at least 1 and an even share above 0 and up to 1, "
                f"not {T}, {history} and {uniform}."
            )
        self._uniform = uniform
        self._recent = torch.zeros(T, history, dtype=torch.float64)
        self._seen = torch.zeros(T, dtype=torch.int64)

    @property
    def probabilities(self) -> Tensor:
        """Of the levels 1..T, float64, shape (T,)."""
        T, history = self._recent.shape
        even = torch.full((T,), 1 / T, dtype=torch.float64)
        size = self._recent.square().mean(1).sqrt()
        if int(self._seen.min()) < history or not float(size.sum()) > 0:
            return even
        return (1 - self._uniform) * size / size.sum() + self._uniform * even

    def __call__(self, n: int, T: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if len(self._recent) != T:
            raise InputError(f"This importance sampler was made for {len(self._recent)} levels, not for {T}.")
        probabilities = self.probabilities
        cumulative = probabilities.cumsum(0)
        # Evenly spread numbers, pulled through the distribution: each is a draw from it.
        index = torch.searchsorted(cumulative, _evenly(n, generator) * cumulative[-1], right=True).clamp(max=T - 1)
        return index + 1, 1 / (T * probabilities[index])

    def observe(self, k: Tensor, loss: Tensor) -> None:
        for index, value in zip((k - 1).tolist(), loss.detach().cpu().double(), strict=True):
            self._recent[index, int(self._seen[index]) % self._recent.shape[1]] = value
            self._seen[index] += 1

    def state(self) -> dict[str, Tensor]:
        return {"recent": self._recent.clone(), "seen": self._seen.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        if state["recent"].shape != self._recent.shape:
            raise InputError(
                f"What was remembered is of {tuple(state['recent'].shape)} levels and losses, not of "
                f"{tuple(self._recent.shape)}."
            )
        self._recent.copy_(state["recent"])
        self._seen.copy_(state["seen"])
