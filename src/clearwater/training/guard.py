"""What notices that training has failed: a loss that is no number, or that leaps."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from clearwater.config import TrainingConfig
from clearwater.errors import ClearwaterError

__all__ = ["CHECK_STEPS", "Guard", "diverged"]

CHECK_STEPS = 50
"""Losses are looked at as means over so many steps: a GPU is waited for once in as many."""

_LEAP, _WILD = 10.0, 1e4
_REMEMBERED = 20
_KNOWN = 5  # means before ten times the largest of them is a leap
_FEWEST = 10  # steps whose mean can be said to leap


class Guard:
    """Remembers the last means of the loss, and says what is wrong with the next.

    A leap are two means in a row of more than ten times the largest of the last twenty, or one of ten thousand times
    their median: some losses are rarely, and then very, large (the bound's terms at a few levels of thousands), but
    not twice in a row.

    Args:
        history: the means that an earlier part of the run has seen, oldest first.
        suspect: whether the last one was the first of such two, and is not among them.
    """

    def __init__(self, history: Sequence[float] = (), *, suspect: bool = False) -> None:
        self._history = deque(history, maxlen=_REMEMBERED)
        self.suspect = suspect

    @property
    def history(self) -> list[float]:
        """The last means, oldest first."""
        return list(self._history)

    def fault(self, loss: float, steps: int) -> str | None:
        """What is wrong with this mean of the loss over `steps`, in words that end with "after step 7"; or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not self._history or steps < _FEWEST:
            return None
        usual = abs(statistics.median(self._history))
        if loss > _WILD * usual > 0 or (self.suspect and self._large(loss)):
            return f"the loss leapt to {loss:.4g} from about {usual:.4g}"
        return None

    def remember(self, loss: float) -> None:
        """Takes in a mean that is no fault."""
        self.suspect = self._large(loss)
        if not self.suspect:
            self._history.append(loss)

    def _large(self, loss: float) -> bool:
        return len(self._history) >= _KNOWN and loss > _LEAP * max(map(abs, self._history))


def diverged(
    what: str, attempts: int, *, kept: bool, losses: Sequence[float], training: TrainingConfig
) -> ClearwaterError:
    """The error of a training that cannot go on, with a diagnosis.

    Args:
        what: was seen, and after which step.
        attempts: how often, with other images each time.
        kept: whether there is a checkpoint.
        losses: the last means before, oldest first.
        training: the settings, of which others may help.
    """
    seen = ", ".join(f"{loss:.4g}" for loss in losses[-3:])
    return ClearwaterError(
        f"{what[0].upper()}{what[1:]}, and training has failed so {attempts} times with other images each time, so it "
        f"cannot go on; {'the last checkpoint is kept' if kept else 'nothing was saved yet'}. The loss before was "
        f"{seen or 'none'}. Try a learning rate (training.learning_rate) below {training.learning_rate:g}, a smaller "
        f"training.clip than {training.clip:g}, or training.precision=fp32."
    )
