"""The runs that `clearwater compare` compares, and the moments of their training that it looks at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clearwater.cli.progress import say

if TYPE_CHECKING:
    from clearwater.training import Place, RunFolder

__all__ = ["Moment", "Subject", "names_of", "subject"]

_MOMENTS = 5  # at most


@dataclass(frozen=True)
class Moment:
    """A moment of training at which an average was kept.

    Attributes:
        step: after which.
        seconds: of training up to there.
    """

    step: int
    seconds: float


@dataclass(frozen=True)
class Subject:
    """A run that is compared with others.

    Attributes:
        name: what it is called here.
        folder: of the run.
        place: how far it is.
        parameters: how many its model has.
        weights: a hash of its averaged weights.
        moments: of training, before its end, of which averages were kept; some of them.
    """

    name: str
    folder: RunFolder
    place: Place
    parameters: int
    weights: str
    moments: tuple[Moment, ...]

    @property
    def length(self) -> float:
        """Of the averages that are taken at the moments.

        Of those that were kept the one that is nearest to the run's own average: so the curve ends at the checkpoint
        without a leap.
        """
        from clearwater.training.posthoc import LENGTHS, length_of

        own = length_of(self.folder.config().training.ema_gamma)
        return min(LENGTHS, key=lambda length: abs(length - own))


def names_of(runs: Sequence[Path]) -> list[str]:
    """Names of the runs that tell them apart: their folders', with the folder around it or a number where needed."""
    paths = [run.resolve() for run in runs]
    often = Counter(path.name for path in set(paths))
    names = [path.name if often[path.name] == 1 else "/".join(path.parts[-2:]) for path in paths]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]


def subject(name: str, folder: RunFolder) -> Subject:
    """A run, as it is now."""
    from clearwater.evaluation.extractors import key_of

    weights, place = folder.model()
    for warning in folder.warnings:
        say(warning)
    parameters = sum(value.numel() for value in weights.values())
    return Subject(name, folder, place, parameters, key_of("weights", weights), _moments(folder, place))


def _moments(folder: RunFolder, place: Place) -> tuple[Moment, ...]:
    """Some moments of which averages were kept, evenly spread over the run."""
    steps = [step for step in folder.snapshots.steps() if step < place.step]
    parts = range(1, _MOMENTS + 1)
    wanted = [place.step * part / (_MOMENTS + 1) for part in parts] if steps else []
    chosen = {min(steps, key=lambda step: abs(step - each)) for each in wanted}
    return tuple(Moment(step, _seconds(folder, place, step)) for step in sorted(chosen))


def _seconds(folder: RunFolder, place: Place, step: int) -> float:
    """Training time up to a step, between the reports of the log before it and after it."""
    import numpy as np

    logged = {0: 0.0}
    for entry in folder.entries():
        seconds = entry.get("seconds")
        if isinstance(seconds, int | float) and entry["step"] < place.step:
            logged[entry["step"]] = float(seconds)
    logged[place.step] = place.seconds
    return float(np.interp(step, list(logged), list(logged.values())))
