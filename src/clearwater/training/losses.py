"""The losses of training as the guard looks at them: their means over some steps and all processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clearwater.training.checkpoint import Place
from clearwater.training.guard import CHECK_STEPS, Guard
from clearwater.world import World

__all__ = ["Losses"]


class Losses:
    """The losses since the guard last looked at them, and the guard.

    Attributes:
        measured: what they are of; those of an earlier part of the run that are of something else are forgotten.

    Args:
        measured: what they are of.
        device: where they are.
        world: the processes, each of which has the losses of its part of every batch.
    """

    def __init__(self, measured: str, device: torch.device, world: World) -> None:
        self.measured, self._world = measured, world
        self._guard = Guard()
        self._sum, self._steps = torch.zeros((), device=device), 0

    @property
    def history(self) -> list[float]:
        """The last means, oldest first."""
        return self._guard.history

    def add(self, loss: Tensor) -> None:
        """Takes in the loss of a step, shape ()."""
        self._sum += loss
        self._steps += 1

    def due(self, step: int) -> bool:
        """Whether they are to be looked at after this step."""
        return self._steps > 0 and (step == 1 or step % CHECK_STEPS == 0)

    def fault(self) -> str | None:
        """What is wrong with them, in words that end with "after step 7"; or None. All processes ask together."""
        return self._guard.fault(self._total() / max(self._steps, 1), self._steps)

    def remember(self) -> None:
        """Takes their mean for a good one, and begins the next; all processes together."""
        self._guard.remember(self._total() / self._steps)
        self._sum.zero_()
        self._steps = 0

    def state(self) -> dict[str, Any]:
        """What a `Place` says of them; all processes ask together."""
        return {
            "losses": tuple(self._guard.history),
            "window": self._total(),
            "windowed": self._steps,
            "suspect": self._guard.suspect,
            "measured": self.measured,
        }

    def load(self, place: Place) -> None:
        """Goes on from those of a checkpoint, if they are of the same."""
        same = place.measured == self.measured
        self._guard = Guard(place.losses, suspect=place.suspect) if same else Guard()
        # Sums over the processes are of the first one's, who has all of it.
        self._sum.fill_(place.window * self._world.size if same and self._world.first else 0.0)
        self._steps = place.windowed if same else 0

    def _total(self) -> float:
        return float(self._world.sum(self._sum)) / self._world.size
