"""Pictures as files, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image, PngImagePlugin

from clearwater.files import write_atomically

__all__ = ["png_of", "step_of", "write_animation", "write_picture"]

_STEP = "step"


def write_picture(path: Path, picture: Image.Image | Figure) -> None:
    """Writes a PNG."""
    write_atomically(path, png_of(picture))


def png_of(picture: Image.Image | Figure, *, step: int | None = None) -> bytes:
    """A PNG that says in its file, where nobody sees it, after which step of training the model was that made it."""
    buffer, told = io.BytesIO(), PngImagePlugin.PngInfo()
    if step is not None:
        told.add_text(_STEP, str(step))
    if isinstance(picture, Figure):
        picture.savefig(buffer, format="png", dpi=150)
    else:
        picture.save(buffer, "PNG", pnginfo=told)
    return buffer.getvalue()


def step_of(path: Path) -> int | None:
    """The step that a PNG says; None if it says none, or is none."""
    try:
        with Image.open(path) as image:
            told = image.info.get(_STEP)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises of a broken PNG
        return None
    return int(told) if isinstance(told, str) and told.isascii() and told.isdecimal() else None


def write_animation(path: Path, frames: Sequence[Image.Image], *, frame_ms: int = 60, hold_ms: int = 2000) -> None:
    """Writes a GIF that repeats for ever and holds its last frame."""
    buffer = io.BytesIO()
    durations = [frame_ms] * (len(frames) - 1) + [hold_ms]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomically(path, buffer.getvalue())
