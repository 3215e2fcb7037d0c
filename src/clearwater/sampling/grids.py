"""Time grids: which levels a sampler visits, as a chain of K steps made from the model's own chain.

Every grid but `leading` starts at level T, and all end at data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.levels import Level, shifted_share

__all__ = ["GRIDS", "Grid", "all_levels", "ends", "karras", "leading", "log_snr", "quadratic", "shifted", "trailing"]

Grid = Callable[[Chain, int], Chain]
"""(chain, K) to a chain of K steps."""


def _of_index(chain: Chain, index: Tensor, K: int) -> Chain:
    """The levels with these numbers, 0 added; a number that is there twice is moved to the next free one."""
    rising = index.round().long().sort().values
    for i in range(K):  # upwards from 1
        rising[i] = max(int(rising[i]), 1 if i == 0 else int(rising[i - 1]) + 1)
    rising[-1] = min(int(rising[-1]), chain.T)
    for i in range(K - 2, -1, -1):  # and back, where the top was reached
        rising[i] = min(int(rising[i]), int(rising[i + 1]) - 1)
    return chain.with_levels(chain.levels[torch.cat([rising.new_zeros(1), rising])])


def _refuse_count(chain: Chain, K: int) -> None:
    if not 1 <= K <= chain.T:
        raise InputError(f"This chain has {chain.T} steps, so from 1 to {chain.T} can be taken, not {K}.")


def all_levels(chain: Chain, K: int) -> Chain:
    """Every level of the chain; K is the chain's own T."""
    if K != chain.T:
        raise InputError(f"The grid of all levels has {chain.T} steps here, not {K}: choose another grid.")
    return chain


def trailing(chain: Chain, K: int) -> Chain:
    """K equal strides from level T down (Lin et al. 2024)."""
    return chain.strided(K)


def ends(chain: Chain) -> Chain:
    """Levels T and 1, and data, for a solver that chooses its own steps; and level T - 1, if T has no signal."""
    numbers = [0, 1, chain.T - 1, chain.T] if float(chain.levels.alpha[-1]) == 0 else [0, 1, chain.T]
    return chain.with_levels(chain.levels[torch.tensor(sorted(set(numbers)))])


def leading(chain: Chain, K: int) -> Chain:
    """1, 1 + T/K, 1 + 2T/K, …: as older samplers do. It never visits level T, so it starts from too much noise."""
    _refuse_count(chain, K)
    return _of_index(chain, 1 + torch.arange(K, dtype=torch.float64) * max(chain.T // max(K, 1), 1), K)


def quadratic(chain: Chain, K: int) -> Chain:
    """Level T (i/K)² for i = 1..K: closer together near data (Song et al. 2021, DDIM, appendix D.2)."""
    _refuse_count(chain, K)
    return _of_index(chain, chain.T * (torch.arange(1, K + 1, dtype=torch.float64) / K).square(), K)


def shifted(chain: Chain, K: int, shift: float = 3.0) -> Chain:
    """Equal strides moved towards noise: the levels nearest to shift · t / (1 + (shift - 1) · t) (Esser et al. 2024).

    t = i/K is sigma / (alpha + sigma) as a fraction of level T's; on the chain flow that is its time (eq. 23).

    Raises:
        InputError: the shift is not above zero, or there are not as many levels.
    """
    if not 0 < shift < math.inf:
        raise InputError(f"The shift of a grid is above zero and finite, not {shift}.")
    _refuse_count(chain, K)
    share = chain.levels.noise_share
    t = torch.arange(1, K + 1, dtype=torch.float64) / K
    wanted = share[-1] * shifted_share(t, shift)
    middles = (share[1:-1] + share[2:]) / 2  # from one of which to the next a level is the nearest
    return _of_index(chain, 1 + torch.searchsorted(middles, wanted), K)


def _of_log_snr(chain: Chain, K: int, spread: Callable[[Tensor, Tensor], Tensor]) -> Chain:
    """Level T, level 1, the levels between at the log-SNR that `spread` makes of (from, to), and data."""
    if K < 1:
        raise InputError(f"A grid has at least 1 step, not {K}.")
    above = chain.levels[1:]
    signal = above[above.alpha > 0]
    if not len(signal):
        raise InputError(
            "This chain has no level with signal between data and pure noise, and steps in log-SNR are between such: "
            "take the grid trailing."
        )
    wanted = spread(signal.log_snr[0], signal.log_snr[-1])  # rising in noise, K of them or K - 1
    parts = [chain.levels[:1]] + ([chain.at_log_snr(wanted)] if len(wanted) else [])
    if len(signal) < len(above):
        parts.append(chain.levels[-1:])  # no signal: infinitely far away in log-SNR
    return chain.with_levels(
        Level(*(torch.cat([getattr(part, name) for part in parts]) for name in ("alpha", "sigma", "time")))
    )


def _count(chain: Chain, K: int) -> int:
    """How many levels with signal a grid of K steps has above data."""
    return K - int(float(chain.levels.alpha[-1]) == 0)


def log_snr(chain: Chain, K: int) -> Chain:
    """Equal steps in log-SNR from level T to level 1, then data (Lu et al. 2022, DPM-Solver)."""
    n = _count(chain, K)
    return _of_log_snr(chain, K, lambda low, high: _even(n, low, high))


def karras(chain: Chain, K: int, rho: float = 7.0) -> Chain:
    """(sigma / alpha)^(1/rho) in equal steps from level T to level 1, then data (Karras et al. 2022, eq. 5)."""
    n = _count(chain, K)

    def spread(low: Tensor, high: Tensor) -> Tensor:
        ends = [(-value / 2 / rho).exp() for value in (low, high)]
        return -2 * rho * _even(n, *ends).log()

    return _of_log_snr(chain, K, spread)


def _even(n: int, first: Tensor, last: Tensor) -> Tensor:
    """n numbers from `first` to `last`, evenly spread; `last` alone if n is 1."""
    if n < 1:
        return first.new_zeros(0)
    fraction = torch.linspace(0, 1, n, dtype=torch.float64) if n > 1 else torch.ones(1, dtype=torch.float64)
    return first + (last - first) * fraction


GRIDS: dict[str, Grid] = {
    "all": all_levels,
    "trailing": trailing,
    "leading": leading,
    "shifted": shifted,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
}
"""The grids that need nothing measured, by name."""
