"""Of a run's report: how far the run is, by its log and its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clearwater.config import Config
from clearwater.errors import ClearwaterError, InputError
from clearwater.evaluation.report_series import Log
from clearwater.training.budget import budget
from clearwater.training.checkpoint import Place, TornError, read_place

__all__ = ["Progress"]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: the last one that was reported or kept.
        seconds: training time until then.
        images: seen until then.
        fraction: of the way to the end, 0 to 1; None if the settings name none.
        kept: the newest checkpoint's place, or None.
        checkpoint: its folder, or None.
    """

    step: int
    seconds: float
    images: int
    fraction: float | None
    kept: Place | None
    checkpoint: Path | None

    @classmethod
    def of(cls, path: Path, config: Config, log: Log) -> Progress:
        """The progress of the run at `path`, which may itself be a checkpoint. No weights are read."""
        checkpoint, kept = _newest(path)
        step, seconds = (int(log.steps[-1]), log.last("seconds") or 0.0) if len(log.steps) else (0, 0.0)
        if kept is not None and kept.step >= step:
            step, seconds = kept.step, kept.seconds
        before, images = (0, 0) if kept is None else (kept.step, kept.images)
        images += (step - before) * config.training.batch
        return cls(step, seconds, images, _fraction(config, log, step, seconds), kept, checkpoint)

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.fraction is not None and self.fraction >= 1

    @property
    def kept_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return None if self.kept is None else self.kept.step


def _fraction(config: Config, log: Log, step: int, seconds: float) -> float | None:
    """How far a run is: as it said itself, since of its minutes it keeps some back for the end, or as it seems."""
    said = Log.of(log.entries[-1:]).last("fraction")
    if said is not None:
        return min(max(said, 0.0), 1.0)
    try:
        return budget(config.training).fraction(step, seconds)
    except InputError:  # a configuration that was written by hand
        return None


def _newest(path: Path) -> tuple[Path | None, Place | None]:
    """The newest checkpoint that can be read, and its place."""
    folders = [folder for folder in (path / "checkpoints").glob("[0-9]*") if folder.name.isdecimal()]
    for folder in [path, *sorted(folders, reverse=True)]:
        try:
            return folder, read_place(folder)
        except (TornError, ClearwaterError):
            continue
    return None, None
