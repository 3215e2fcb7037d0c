"""Of a run's report: the pictures in its folder, as parts of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from clearwater.config import Config
from clearwater.evaluation.report_commands import forward_strip, how, previews, reverse_strip
from clearwater.pictures import step_of

__all__ = ["nearest", "processes", "samples"]

_EARLIER = 9  # pictures of samples beside the newest
_LARGE, _SMALL, _WIDE = 560, 360, 1112  # largest sides of the newest, of the earlier ones, and of one by itself, pixels
_BYTES, _BYTES_WIDE = 40_000, 400_000  # an earlier one, or a strip, beyond this is made small


def samples(folder: Path, config: Config) -> str:
    """The newest of the run's previews large, and earlier ones from the first on beside it."""
    paths = sorted(path for path in (folder / "previews").glob("*.png") if path.stem.isdecimal())
    while paths:
        newest = paths.pop()
        picture = _picture(newest, _LARGE, _after(newest))
        if picture is not None:
            break
    else:
        return '<p class="soft">No samples were drawn on the way yet.</p>'
    earlier = ((path, _picture(path, _SMALL, _after(path), most=_BYTES)) for path in _spread(paths))
    items = "".join(f"<li>{_figure(shown, f'step {int(path.stem):,}')}</li>" for path, shown in earlier if shown)
    strip = f'<ol class="strip">{items}</ol>' if items else ""
    note = "; all are drawn out of the same noise" if items else ""
    caption = f"step {int(newest.stem):,}, the newest, with averaged weights{note}"
    return f'<div class="samples">{_figure(picture, caption)}{strip}</div>{previews(folder, config)}'


def nearest(folder: Path, step: int | None) -> str:
    """The picture of samples beside the training images nearest to them, or "" if there is none."""
    path = folder / "nearest.png"
    picture = _picture(path, _WIDE, "Samples beside training images")
    if picture is None:
        return ""
    caption = "Samples, under each the training image nearest to it: two that are the same are a copy."
    return _figure(picture, caption + _aged(path, step)) + how([["report", str(folder)]])


def processes(folder: Path, config: Config, step: int | None) -> str:
    """The strips of the forward and of the reverse process, as far as they are there."""
    forward, reverse = folder / "forward.png", folder / "reverse.png"
    into, out_of = (
        _picture(path, _WIDE, name, most=_BYTES_WIDE)
        for path, name in ((forward, "Images sinking into noise"), (reverse, "Samples coming out of noise"))
    )
    parts = []
    if into is not None:
        caption = (
            "Forward, q(x_t | x_0): training images with ever more noise from left to right, evenly over the levels."
        )
        parts.append(_figure(into, caption) + forward_strip(folder))
    if out_of is not None:
        caption = (
            "Reverse: samples, from noise on the left to the finished image on the right; under each what the network "
            "takes the finished image to be at that moment."
        )
        parts.append(_figure(out_of, caption + _aged(reverse, step)) + reverse_strip(folder, config))
    return "".join(f'<div class="process">{part}</div>' for part in parts)


def _after(path: Path) -> str:
    return f"Samples after step {int(path.stem):,}"


def _aged(path: Path, step: int | None) -> str:
    """A word if a picture is not of the newest checkpoint."""
    of = step_of(path)
    return "" if of is None or step is None or of == step else f" Of step {of:,}."


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _spread(paths: Sequence[Path]) -> list[Path]:
    """As many as are shown, evenly spread, the first among them."""
    shown = min(len(paths), _EARLIER)
    return [paths[i * len(paths) // shown] for i in range(shown)]


def _picture(path: Path, side: int, name: str, *, most: int | None = None) -> str | None:
    """The picture as it is in the file, enlarged by a whole factor as far as `side` goes; None if it cannot be read.

    A file of more than `most` bytes is made anew, no larger than `side`: what is in a page is read with all of it.
    """
    try:
        content, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if most is not None and len(content) > most:
                content, kind = _made_small(image, side), "jpeg"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises of a broken PNG
        return None
    factor = max(1, side // max(width, height))
    style = ' class="pixels"' if max(width, height) <= side else ""
    return (
        f'<img{style} alt="{name}" width="{factor * width}" height="{factor * height}" '
        f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
    )


def _made_small(image: Image.Image, side: int) -> bytes:
    small = image.convert("L" if image.mode in ("1", "L") else "RGB")
    small.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
