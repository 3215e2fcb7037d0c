"""Of a run's report: what its log says over the steps, as charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clearwater.config import Config
from clearwater.evaluation.report_series import Log, running_mean
from clearwater.evaluation.report_svg import Dots, Line, Ramp, chart

__all__ = ["charts", "of_which_images", "window"]

_TENTHS = 10
_LEVEL_BINS = 75  # ten lines need less of each


def charts(log: Log, config: Config) -> str:
    """All that the log has values for, as HTML figures."""
    found = (
        _loss(log),
        _by_level(log),
        _bound(log),
        chart("Learning rate", "a step", [_plain(log, "learning_rate")], zero=True),
        _gradient_norm(log, config.training.clip),
        chart("Speed", "images a second", _smoothed(log, "images_per_second"), zero=True),
        chart("Memory", "MB", [_plain(log, "memory_mb")], zero=True),
    )
    return "".join(found)


def window(log: Log) -> int:
    """How many reports a running mean is of: a twentieth of them."""
    return max(1, len(log.steps) // 20)


def of_which_images(log: Log) -> str:
    """What the figures of unseen images are of."""
    return "training images (none are held out)" if log.word("unseen_images") == "train" else "images held out"


def _loss(log: Log) -> str:
    unseen = Dots(of_which_images(log), "other", log.steps, log.column("unseen_loss"))
    return chart("Loss", "of the objective", [*_smoothed(log, "loss"), unseen], log=True)


def _by_level(log: Log) -> str:
    table = log.table("level_losses", _TENTHS)
    lines = [
        Line(
            f"levels {10 * i}–{10 * i + 10}%",
            f"level-{i}",
            log.steps,
            running_mean(table[:, i], window(log)),
            bins=_LEVEL_BINS,
        )
        for i in range(_TENTHS)
    ]
    unit = f"mean of {window(log):,}"
    return chart("Loss by level", unit, [Ramp("data", "noise", lines)], log=True)


def _bound(log: Log) -> str:
    points = Dots(
        f"{of_which_images(log)}, ± standard error",
        "other",
        log.steps,
        log.column("bits_per_dim"),
        errors=log.column("bits_per_dim_error"),
    )
    return chart("Bound on -log p", "bits/dim", [points])


def _gradient_norm(log: Log, clip: float) -> str:
    lines = _smoothed(log, "gradient_norm")
    norms = lines[0].thinned().y
    if len(norms) and norms.min() <= clip <= norms.max():
        ends = np.array([0.0, log.steps[-1]])
        lines = [*lines, Line(f"clipped above {clip:g}", "limit", ends, np.full(2, clip), told=False)]
    return chart("Gradient norm", "before clipping", lines, log=True)


def _plain(log: Log, name: str) -> Line:
    return Line("reports", "main", log.steps, log.column(name))


def _smoothed(log: Log, name: str) -> Sequence[Line]:
    """The reports, faint, and their running mean, strong."""
    values, of = log.column(name), window(log)
    if of == 1:
        return [_plain(log, name)]
    reports = Line("reports", "faint", log.steps, values, told=False)
    return [reports, Line(f"mean of {of:,}", "main", log.steps, running_mean(values, of))]
