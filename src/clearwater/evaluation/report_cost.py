"""Of a run's report: what training took."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from clearwater.evaluation.report_series import Log
from clearwater.evaluation.report_svg import figures, with_power

__all__ = ["cost", "duration"]

_UNMEASURED = "not measured: the machine does not say what it uses, and nothing is guessed"


def cost(log: Log, seconds: float, images: int, checkpoint: Path | None) -> str:
    """Time, images, parameters, memory, energy, and the machine, as far as they are known.

    Args:
        log: of the run.
        seconds: of training.
        images: seen in training.
        checkpoint: the folder of the newest; None if there is none.
    """
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd>{_soft(note)}</div>"
        for name, value, note in _facts(log, seconds, images, checkpoint)
    )
    return f'<dl class="facts">{rows}</dl>'


def _soft(note: str) -> str:
    return f'<dd class="soft">{escape(note)}</dd>' if note else ""


def duration(seconds: float) -> tuple[str, str]:
    """A duration in the largest unit that it has one of: the number and the unit."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g}", name
    return f"{seconds:.0f}", "s"


def _facts(log: Log, seconds: float, images: int, checkpoint: Path | None) -> Iterator[tuple[str, str, str]]:
    """What each is, how much, and a note."""
    speed = f"{figures(images / seconds)} images/s, with all that was looked at on the way" if seconds > 0 else ""
    yield "Time", " ".join(duration(seconds)), speed
    yield "Images seen", f"{images:,}", "each as often as it was seen"
    parameters = None if checkpoint is None else _parameters(checkpoint)
    if parameters is not None:
        yield "Parameters", f"{parameters:,}", ""
        yield (
            "Images × parameters",
            with_power(float(f"{images * parameters:.2g}")),
            "the work grows with it, on any machine",
        )
    memory = log.column("memory_mb")
    if np.isfinite(memory).any():
        yield "Memory", f"{np.nanmax(memory):,.0f} MB", "the most at once, of the GPU or of the process"
    devices = log.words("device")
    if devices:
        yield "Machine", "; then ".join(devices), ""
    # Of a run that went on where nothing is counted, the sum until then is not what it took.
    newest = Log.of(log.entries[-1:])
    joules = newest.last("energy_joules")
    if joules is None:
        yield "Energy", "–", _UNMEASURED
    else:
        of = newest.word("energy_of") or "the machine"
        alone = ", of the first process's machine" if any("processes" in device for device in devices) else ""
        yield "Energy", " ".join(_energy(joules)), f"counted by the {of}{alone}; whatever else ran there is in it"


def _energy(joules: float) -> tuple[str, str]:
    for unit, name in ((3.6e6, "kWh"), (3600, "Wh")):
        if joules >= unit:
            return f"{joules / unit:.3g}", name
    return f"{joules:.3g}", "J"


def _parameters(checkpoint: Path) -> int | None:
    """How many numbers the averaged weights are, by the head of their file."""
    try:
        with safe_open(checkpoint / "model.safetensors", framework="np") as file:
            names = file.keys()
            return sum(int(np.prod(file.get_slice(name).get_shape())) for name in names)
    except (OSError, SafetensorError):
        return None
