"""All averages of the weights that a run keeps: the one it is sampled with, and those of which others are made."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from clearwater.config import TrainingConfig
from clearwater.training.checkpoint import Checkpoint
from clearwater.training.ema import EMA
from clearwater.training.parameters import whole
from clearwater.training.posthoc import LENGTHS, Snapshots, gamma_of

__all__ = ["Averages"]


class Averages:
    """The averages in training.

    Attributes:
        main: the one that the run is sampled with.

    Args:
        parameters: what is averaged, by name.
        training: which averages.
        snapshots: where copies of those of fixed length are kept; None for nowhere, and then there are none.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], training: TrainingConfig, snapshots: Snapshots | None
    ) -> None:
        self.main = EMA(parameters, training.ema_decay, training.ema_gamma)
        self._snapshots, self._often = snapshots, training.ema_snapshots
        lengths = LENGTHS if snapshots is not None and self._often else ()
        self._lengths = {length: EMA(parameters, 1.0, gamma_of(length)) for length in lengths}

    def update(self, n: int) -> None:
        """Takes in the parameters after their n-th step."""
        for average in (self.main, *self._lengths.values()):
            average.update(n)

    def due(self, before: float, now: float) -> bool:
        """Whether copies are due between these two parts of the run."""
        return bool(self._lengths) and int(now * self._often) > int(before * self._often)

    def keep(self, step: int, *, first: bool) -> None:
        """The first process keeps copies of the averages of fixed length."""
        averages = {length: whole(average.parameters) for length, average in self._lengths.items()}
        if self._snapshots is not None and first:
            self._snapshots.keep(step, averages)

    def state(self) -> dict[str, Tensor]:
        """The averages of fixed length, "length/parameter name"."""
        return {
            f"{length}/{name}": value
            for length, average in self._lengths.items()
            for name, value in whole(average.parameters).items()
        }

    def begin(self, *, first: bool) -> None:
        """Begins with a run that has no checkpoint: the first process removes copies that an earlier try has left."""
        if self._snapshots is not None and first:
            self._snapshots.forget_after(0)

    def load(self, checkpoint: Checkpoint, *, first: bool) -> None:
        """Goes on from those of a checkpoint; the first process removes the copies of later steps."""
        self.main.load(checkpoint.averaged)
        for length, average in self._lengths.items():
            # A run that did not keep them before has the average that it has to begin with.
            average.load(
                {name: checkpoint.lengths.get(f"{length}/{name}", value) for name, value in checkpoint.averaged.items()}
            )
        if self._snapshots is not None and first:
            self._snapshots.forget_after(checkpoint.place.step)
