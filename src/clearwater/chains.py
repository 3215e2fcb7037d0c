"""Discrete chains: T + 1 levels, 0 = data, T = the prior. A DDPM is defined on one.

A chain is made of a table of beta (`Chain.from_betas`), of any continuous schedule
(`Chain.from_schedule`), or by name (`chain`). All are float64, built with ``cumsum(log1p(-beta))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.interpolation import interpolated
from clearwater.levels import Level, Pair
from clearwater.schedules import VP, RectifiedFlow, Schedule, level_at_log_snr

__all__ = ["Chain", "ChainName", "chain", "cosine", "half_linear", "linear", "sigmoid"]

ChainName = Literal["linear", "half_linear", "cosine", "sigmoid", "vp", "flow"]


@dataclass(frozen=True)
class Chain:
    """T + 1 noise levels, from data to the prior.

    Attributes:
        levels: the levels, shape (T + 1,); level 0 is data.
        schedule: the continuous path that they lie on, each at its `time`; None for a table.
        prior: the variance of the prior, shape (); None for what `prior_variance` says.
    """

    levels: Level
    schedule: Schedule | None = None
    prior: Tensor | None = None

    def __post_init__(self) -> None:
        if self.levels.alpha.ndim != 1 or len(self.levels) < 2:
            raise InputError("A chain needs at least two levels, in one dimension: data and the prior.")
        if bool(self.levels.sigma[0] != 0):
            raise InputError(
                f"Level 0 of a chain is data, with sigma = 0, but sigma there is {float(self.levels.sigma[0])}."
            )
        if not bool((self.levels.time.diff() > 0).all()):
            raise InputError("The times of a chain's levels rise from data to the prior, and these do not.")
        Pair(self.levels[:-1], self.levels[1:])  # refuses levels that are not in order

    @classmethod
    def from_betas(cls, beta: Tensor) -> Chain:
        """The variance-preserving chain whose step k adds noise of variance beta[k - 1]; `beta` has shape (T,)."""
        beta = beta.to(torch.float64)
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise InputError(
                f"Every beta of a chain lies between 0 and 1, but these go from {float(beta.min()):.4g} "
                f"to {float(beta.max()):.4g}: use more levels, or smaller betas."
            )
        log_alpha_bar = torch.cat([beta.new_zeros(1), torch.log1p(-beta).cumsum(0)])
        time = torch.linspace(0, 1, len(beta) + 1, dtype=torch.float64)
        return cls(Level((log_alpha_bar / 2).exp(), (-torch.expm1(log_alpha_bar)).abs().sqrt(), time))

    @classmethod
    def from_schedule(cls, schedule: Schedule, T: int) -> Chain:
        """A continuous schedule cut into T steps of equal time."""
        return cls(schedule(torch.linspace(0, 1, _steps(T) + 1, dtype=torch.float64)), schedule)

    @property
    def T(self) -> int:
        """The number of steps, one less than the number of levels."""
        return len(self.levels) - 1

    @property
    def beta(self) -> Tensor:
        """beta_k for k = 1..T, shape (T,): the variance that step k adds."""
        return self.pairs.transition_variance

    @property
    def alpha_bar(self) -> Tensor:
        """alpha² for k = 0..T, shape (T + 1,)."""
        return self.levels.alpha.square()

    @property
    def prior_variance(self) -> Tensor:
        """The prior, which sampling starts from, is N(0, prior_variance · I); shape ().

        1 for variance-preserving chains and flows (Ho et al. 2020), sigma_T² where the variance explodes; of a chain
        along another path what makes the same images.
        """
        return self.levels.sigma[-1].square().clamp(min=1) if self.prior is None else self.prior

    def with_levels(self, levels: Level) -> Chain:
        """The chain of these levels on the same path, with the same prior."""
        return replace(self, levels=levels)

    @property
    def pairs(self) -> Pair:
        """The pairs of neighbours (k - 1, k) for k = 1..T, shape (T,)."""
        return self.pair(torch.arange(1, self.T + 1))

    def pair(self, k: Tensor | int) -> Pair:
        """The pair (k - 1, k), with the paper's reverse variance at k = 1.

        Args:
            k: integer levels in 1..T, shape () or (B,).
        """
        k = torch.as_tensor(k)
        if k.is_floating_point() or (k.numel() and (int(k.min()) < 1 or int(k.max()) > self.T)):
            raise InputError(f"A step of this chain is a whole number from 1 to {self.T}, not {k.tolist()}.")
        # The posterior variance of step 1 is zero; Ho's code uses that of step 2 there.
        decoder = Pair(self.levels[1], self.levels[2]).posterior_variance if self.T > 1 else None
        return Pair(self.levels[k - 1], self.levels[k], decoder_variance=decoder)

    def index(self, t: Level) -> Tensor:
        """The integers k in 1..T of these levels, int64, of `t`'s shape.

        Raises:
            InputError: `t` is not one of this chain's levels above data.
        """
        k = torch.searchsorted(self.levels.time, t.time.contiguous() - 1e-9).clamp(1, self.T)
        known = self.levels[k]
        if not (torch.allclose(known.alpha, t.alpha) and torch.allclose(known.sigma, t.sigma)):
            raise InputError(
                "A level is not one of the levels 1..T of the chain that is asked for its step: use that chain, "
                "strided if need be."
            )
        return k

    def at_log_snr(self, log_snr: Tensor) -> Level:
        """The levels with these log-SNR, which may lie between the chain's own.

        On a schedule they are the schedule's. Without one the time and the logarithm of alpha² + sigma² are
        interpolated in log-SNR between two neighbours.

        Args:
            log_snr: any shape, within what the levels above data have that have any signal.
        """
        known = self.levels[1:]
        known = known[known.alpha > 0]  # a level without signal is infinitely far away
        if not len(known):
            raise InputError("This chain has no level with signal above data, so none between its levels: use more.")
        rising = -known.log_snr.contiguous()
        wanted = -torch.as_tensor(log_snr, dtype=torch.float64)
        slack = 1e-9 * (1 + wanted.abs())
        if not bool(((wanted >= rising[0] - slack) & (wanted <= rising[-1] + slack)).all()):
            raise InputError(
                f"This chain's levels have a log-SNR from {-float(rising[-1]):.4g} to {-float(rising[0]):.4g}, and "
                f"levels from {float(-wanted.max()):.4g} to {float(-wanted.min()):.4g} were asked for."
            )
        if self.schedule is not None:
            return level_at_log_snr(self.schedule, -wanted)
        log_norm = 0.5 * (known.alpha.square() + known.sigma.square()).log()
        norm = interpolated(wanted, rising, log_norm).exp()
        time = interpolated(wanted, rising, known.time)
        return Level(norm * torch.sigmoid(-wanted).sqrt(), norm * torch.sigmoid(wanted).sqrt(), time)

    def along(self, schedule: Schedule) -> Chain:
        """The chain on another path that has this one's signal-to-noise ratios, level by level.

        A denoiser of this chain is one of that chain too (`OnChain`), and the prior is this one's at the other scale.

        Raises:
            InputError: the path has not all of them.
        """
        wanted = self.levels.log_snr
        levels = level_at_log_snr(schedule, wanted)
        if not torch.allclose(schedule(levels.time).log_snr, wanted, rtol=1e-6, atol=1e-6):
            ends = schedule(torch.tensor([1e-9, 1.0], dtype=torch.float64)).log_snr
            raise InputError(
                f"This chain's log-SNR falls from {float(wanted[1]):.4g} to {float(wanted[-1]):.4g}, and that of the "
                f"path from {float(ends[0]):.4g} to {float(ends[1]):.4g}: use a path that begins with less noise and "
                "ends with more."
            )
        of_norm = [end.alpha.square() + end.sigma.square() for end in (levels[-1], self.levels[-1])]
        return Chain(levels, schedule, self.prior_variance * of_norm[0] / of_norm[1])

    def strided(self, K: int) -> Chain:
        """K steps over this chain's own levels, evenly spread, from level T to data.

        The levels keep their `time`, so a network trained on this chain knows them.
        """
        if not 1 <= K <= self.T:
            raise InputError(f"This chain has {self.T} steps, so from 1 to {self.T} can be taken, not {K}.")
        index = torch.linspace(0, self.T, K + 1, dtype=torch.float64).round().long()
        return self.with_levels(self.levels[index])


def _steps(T: int) -> int:
    if T < 1:
        raise InputError(f"A chain needs at least one step, not {T}.")
    return T


def linear(T: int = 1000) -> Chain:
    """beta from 1e-4 to 0.02 in equal steps (Ho et al. 2020, section 4).

    For another T both ends are scaled by 1000 / T, so that the chain ends at about the same noise
    (Nichol & Dhariwal 2021).
    """
    rate = 1000 / _steps(T)
    # From the end, so that one step alone would be the last: too large, and refused.
    return Chain.from_betas(torch.linspace(0.02 * rate, 1e-4 * rate, T, dtype=torch.float64).flip(0))


def half_linear(T: int = 1000) -> Chain:
    """beta_k = 0.02 k/T; scaled by 1000 / T for another T, as `linear`."""
    k = torch.arange(1, _steps(T) + 1, dtype=torch.float64)
    return Chain.from_betas(0.02 * (1000 / T) * k / T)


def _from_alpha_bar(alpha_bar: Callable[[Tensor], Tensor], T: int) -> Chain:
    """beta_k = 1 - alpha_bar(k/T) / alpha_bar((k-1)/T), at most 0.999."""
    values = alpha_bar(torch.linspace(0, 1, _steps(T) + 1, dtype=torch.float64))
    return Chain.from_betas((1 - values[1:] / values[:-1]).clamp(max=0.999))


def cosine(T: int = 1000, offset: float = 0.008) -> Chain:
    """alpha_bar(t) ∝ cos²((t + s) / (1 + s) · π/2), beta clipped at 0.999 (Nichol & Dhariwal 2021, eq. 17)."""
    return _from_alpha_bar(lambda t: ((t + offset) / (1 + offset) * math.pi / 2).cos().square(), T)


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> Chain:
    """alpha_bar(t) a falling sigmoid between `start` and `end` (Jabri et al. 2022), beta clipped at 0.999."""

    def alpha_bar(t: Tensor) -> Tensor:
        ends = torch.tensor([start, end], dtype=torch.float64) / temperature
        high, low = torch.sigmoid(-ends)
        falling: Tensor = torch.sigmoid(-(start + t * (end - start)) / temperature)
        fraction: Tensor = (falling - low) / (high - low)
        return fraction

    return _from_alpha_bar(alpha_bar, T)


_NAMED: dict[ChainName, Callable[[int], Chain]] = {
    "linear": linear,
    "half_linear": half_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "vp": partial(Chain.from_schedule, VP()),
    "flow": partial(Chain.from_schedule, RectifiedFlow()),
}


def chain(name: str, T: int = 1000) -> Chain:
    """The chain of this name with T steps: linear, half_linear, cosine, sigmoid, vp or flow."""
    for known in get_args(ChainName):
        if name == known:
            return _NAMED[known](T)
    raise InputError(f"There is no chain named '{name}': choose one of {', '.join(_NAMED)}.")
