"""Of a run's report: the pictures in its folder, as parts of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

__all__ = ["nearest", "samples"]

_EARLIER = 9  # pictures of samples beside the newest
_LARGE, _SMALL, _WIDE = 560, 360, 1112  # largest sides of the newest, of the earlier ones, and of one by itself, pixels
_BYTES = 40_000  # an earlier one beyond this is made small


def samples(folder: Path) -> str:
    """The newest of the run's previews large, and earlier ones from the first on beside it."""
    paths = sorted(path for path in (folder / "previews").glob("*.png") if path.stem.isdecimal())
    while paths:
        newest = paths.pop()
        picture = _picture(newest, _LARGE)
        if picture is not None:
            break
    else:
        return '<p class="soft">No samples were drawn on the way yet.</p>'
    earlier = ((path, _picture(path, _SMALL, thumbnail=True)) for path in _spread(paths))
    items = "".join(f"<li>{_figure(shown, f'step {int(path.stem):,}')}</li>" for path, shown in earlier if shown)
    strip = f'<ol class="strip">{items}</ol>' if items else ""
    note = "; all are drawn out of the same noise" if items else ""
    return f'<div class="samples">{_figure(picture, f"step {int(newest.stem):,}, the newest{note}")}{strip}</div>'


def nearest(folder: Path) -> str:
    """The picture of samples beside the training images nearest to them, or "" if there is none."""
    picture = _picture(folder / "nearest.png", _WIDE)
    if picture is None:
        return ""
    return _figure(picture, "Samples, under each the training image nearest to it: two that are the same are a copy.")


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _spread(paths: Sequence[Path]) -> list[Path]:
    """As many as are shown, evenly spread, the first among them."""
    shown = min(len(paths), _EARLIER)
    return [paths[i * len(paths) // shown] for i in range(shown)]


def _picture(path: Path, side: int, *, thumbnail: bool = False) -> str | None:
    """The picture as it is in the file, enlarged by a whole factor as far as `side` goes; None if it cannot be read.

    A thumbnail of a large file is made anew, no larger than `side`: what is in a page is read with all of it.
    """
    try:
        content, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if thumbnail and len(content) > _BYTES:
                content, kind = _made_small(image, side), "jpeg"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises of a broken PNG
        return None
    factor = max(1, side // max(width, height))
    style = ' class="pixels"' if max(width, height) <= side else ""
    name = f"Samples after step {int(path.stem):,}" if path.stem.isdecimal() else "Samples beside training images"
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
