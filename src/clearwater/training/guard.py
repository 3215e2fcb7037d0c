"""What notices that training has failed: a loss that is no number, or that leaps."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

__all__ = ["CHECK_STEPS", "Guard"]

CHECK_STEPS = 50
"""Losses are looked at as means over so many steps: a GPU is waited for once in as many."""

_LEAP = 10.0
_REMEMBERED = 20
_FEWEST = 10  # steps whose mean can be said to leap


class Guard:
    """Remembers the last means of the loss, and says what is wrong with the next.

    A leap is a mean of more than ten times the median of those before it. No objective of this library leaps so from
    the noise of its levels; a run that has lost its way does, and weights that are infinite or no numbers follow.

    Args:
        history: the means that an earlier part of the run has seen, oldest first.
    """

    def __init__(self, history: Sequence[float] = ()) -> None:
        self._history = deque(history, maxlen=_REMEMBERED)

    @property
    def history(self) -> list[float]:
        """The last means, oldest first."""
        return list(self._history)

    def fault(self, loss: float, steps: int) -> str | None:
        """What is wrong with this mean of the loss over `steps`, in words that end with "after step 7"; or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        usual = statistics.median(self._history) if self._history else loss
        if steps >= _FEWEST and loss > _LEAP * abs(usual) > 0:
            return f"the loss leapt to {loss:.4g} from about {usual:.4g}"
        return None

    def remember(self, loss: float) -> None:
        """Takes in a mean that is sound."""
        self._history.append(loss)
