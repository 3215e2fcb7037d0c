"""The log of a run: a file with one JSON object a line, one line a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append", "reports"]

_STEPS = 2**53  # up to here floats have all whole numbers


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds a line."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # a line that was torn when the machine went down
                file.write(b"\n")
        file.write(json.dumps(dict(entry)).encode() + b"\n")


def reports(path: Path) -> list[dict[str, Any]]:
    """The reports, in the order of the steps; what an interruption made obsolete is left out.

    A line is a report if it has a whole number as its "step" and a finite one as its "loss". Others are damaged, and
    left out. What else a report has may be anything: who draws it leaves out what is no number.
    """
    kept: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = _report(line)
            if entry is None:
                continue
            # A resumed run logs steps again from where it took up; they replace what came after.
            while kept and kept[-1]["step"] >= entry["step"]:
                kept.pop()
            kept.append(entry)
    return kept


def _report(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
        step, loss = entry["step"], entry["loss"]
        whole = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < _STEPS
        number = isinstance(loss, int | float) and not isinstance(loss, bool) and math.isfinite(loss)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None  # torn when the machine went down, or changed since
    return entry if whole and number else None
