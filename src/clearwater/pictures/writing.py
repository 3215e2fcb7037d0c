"""Pictures as files, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from clearwater.files import write_atomically

__all__ = ["write_animation", "write_picture"]


def write_picture(path: Path, picture: Image.Image | Figure) -> None:
    """Writes a PNG."""
    buffer = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=150)
    else:
        picture.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def write_animation(path: Path, frames: Sequence[Image.Image], *, frame_ms: int = 60, hold_ms: int = 2000) -> None:
    """Writes a GIF that repeats for ever and holds its last frame."""
    buffer = io.BytesIO()
    durations = [frame_ms] * (len(frames) - 1) + [hold_ms]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, buffer.getvalue())
