"""What a trainer says while it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Event", "NotSaved", "Progress", "Saved", "Stopped", "WentBack"]


@dataclass(frozen=True)
class Progress:
    """How training goes.

    Attributes:
        step: steps done.
        seconds: training time, over all its parts if it was interrupted.
        fraction: of the way to the end, 0 to 1.
        loss: mean over the steps since the last report.
        learning_rate: of the last step.
        images_per_second: since the last report, of all processes together.
        gradient_norm: mean over the steps since the last report, before clipping.
        level_losses: the mean loss of each tenth of the levels, from data to noise, before the weights that keep a
            preference for some levels unbiased; NaN where no image was.
    """

    step: int
    seconds: float
    fraction: float
    loss: float
    learning_rate: float
    images_per_second: float
    gradient_norm: float = 0.0
    level_losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    folder: Path
    step: int


@dataclass(frozen=True)
class NotSaved:
    """A checkpoint could not be written; the last one is kept, and the next attempt is made when it is due.

    Attributes:
        step: steps done.
        error: what the system said.
    """

    step: int
    error: OSError


@dataclass(frozen=True)
class WentBack:
    """Training failed and goes on from an earlier step, with other images and noise from there.

    Attributes:
        step: the one that it goes on from.
        failed: the one at which the failure was seen.
        reason: what was seen.
        attempt: how often this happened, in the whole run.
    """

    step: int
    failed: int
    reason: str
    attempt: int


@dataclass(frozen=True)
class Stopped:
    """Training is over; a trainer with a run folder has saved its state there.

    Attributes:
        step, seconds: steps done and training time, over all parts of the run.
        finished: whether it came to its end, or was asked to stop.
    """

    step: int
    seconds: float
    finished: bool


Event = Progress | Saved | NotSaved | WentBack | Stopped
