"""The log as columns of numbers, averaged and thinned for drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from types import NoneType

import numpy as np
import numpy.typing as npt

__all__ = ["LARGEST", "Array", "Log", "extremes", "number_of", "numbers_of", "running_mean"]

Array = npt.NDArray[np.float64]

LARGEST = 1e100
"""Whatever is not below this is no value of a run: axes have ends with room beyond them."""


@dataclass(frozen=True)
class Log:
    """The reports of a run, in the order of the steps.

    Attributes:
        entries: one mapping a report, as they were logged.
        steps: after which step each was made, shape (N,).
    """

    entries: Sequence[Mapping[str, object]]
    steps: Array

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, object]]) -> Log:
        """The log with these entries; those without a step are left out."""
        steps = numbers_of([entry.get("step") for entry in entries])
        placed = np.isfinite(steps)
        return cls(list(compress(entries, placed)), steps[placed])

    def column(self, name: str) -> Array:
        """One value a report, shape (N,); NaN where there is none, or no finite number."""
        return numbers_of([entry.get(name) for entry in self.entries])

    def table(self, name: str, width: int) -> Array:
        """`width` values a report, shape (N, width); NaN where there are none, or not as many, or no finite number."""
        rows = np.full((len(self.entries), width), np.nan)
        whole: dict[int, list[object]] = {}
        for i, entry in enumerate(self.entries):
            values = entry.get(name)
            if isinstance(values, list) and len(values) == width:
                whole[i] = values
        rows[list(whole)] = numbers_of(list(chain.from_iterable(whole.values()))).reshape(-1, width)
        return rows

    def last(self, name: str) -> float | None:
        """The newest finite value of this name, or None."""
        values = (number_of(entry.get(name)) for entry in reversed(self.entries))
        return next((value for value in values if value is not None), None)

    def words(self, name: str) -> list[str]:
        """The different texts of this name, in the order in which they came."""
        return list(dict.fromkeys(value for entry in self.entries if isinstance(value := entry.get(name), str)))

    def word(self, name: str) -> str | None:
        """The newest text of this name, or None."""
        return next((value for entry in reversed(self.entries) if isinstance(value := entry.get(name), str)), None)


def running_mean(values: Array, window: int) -> Array:
    """The mean of the finite values among the `window` around each; at the ends, of those that are there.

    At the beginning it reaches no further ahead than back, since there a loss falls steeply.

    Args:
        values: shape (N,).
        window: how many, at least 1.

    Returns:
        Shape (N,); NaN where the value itself is not finite.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    each = np.arange(len(values))
    first = np.maximum(each - (window - 1) // 2, 0)
    after = np.minimum(each + np.minimum(window // 2, each) + 1, len(values))
    return np.where(finite, (sums[after] - sums[first]) / np.maximum(counts[after] - counts[first], 1), np.nan)


def extremes(x: Array, y: Array, bins: int) -> npt.NDArray[np.intp]:
    """Which points to draw: the lowest and the highest in each of some equal parts of the x axis.

    Args:
        x: rising, shape (N,).
        y: shape (N,); points that are not finite are left out.
        bins: how many parts.

    Returns:
        Indices, rising. All finite points if they are few enough.
    """
    kept = np.flatnonzero(np.isfinite(y))
    if len(kept) <= 2 * bins:
        return kept
    x, y = x[kept], y[kept]
    part = np.minimum((x - x[0]) / (x[-1] - x[0]) * bins, bins - 1).astype(int)
    begins = np.diff(part, prepend=-1) > 0
    rank = np.cumsum(begins) - 1  # among the parts that have points
    starts = np.flatnonzero(begins)

    def first_at(of_part: Array) -> npt.NDArray[np.intp]:
        """Where each part has this value first: a level stretch has it everywhere."""
        found = np.flatnonzero(y == of_part[rank])
        return found[np.diff(rank[found], prepend=-1) > 0]

    both = (first_at(np.minimum.reduceat(y, starts)), first_at(np.maximum.reduceat(y, starts)))
    return kept[np.unique(np.concatenate(both))]


def numbers_of(values: Sequence[object]) -> Array:
    """The values as numbers that can be drawn, or NaN."""
    if not set(map(type, values)) <= {float, NoneType}:  # numpy takes None for NaN, and is quick
        values = [number_of(value) for value in values]
    numbers = np.array(values, dtype=np.float64)
    return np.where(np.abs(numbers) < LARGEST, numbers, np.nan)


def number_of(value: object) -> float | None:
    """The value as a number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        return None
    return float(value)
