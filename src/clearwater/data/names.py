"""Which paths are images, and in what order they come: the same in folders and in archives."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from pathlib import PurePosixPath

__all__ = ["EXTENSIONS", "is_image", "root_of", "sort_key"]

EXTENSIONS = (
    ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
)  # fmt: skip


def is_image(path: str) -> bool:
    """Whether this relative path, with slashes, ends as an image does and is not hidden, nor in a hidden folder."""
    return path.lower().endswith(EXTENSIONS) and not path.startswith(".") and "/." not in path


def sort_key(path: str) -> str:
    """What sorts relative paths part by part, as `Path` does: nothing sorts before the end of a part."""
    return path.replace("/", "\0")


def root_of(paths: Iterable[str]) -> str:
    """The folder that all of these relative paths lie in, with a slash at its end; "" if there is none.

    An archive often holds one folder with everything in it: that folder is no class.
    """
    parents = sorted({PurePosixPath(path).parent.parts for path in paths})
    # The first and the last in order differ where any two do.
    pairs = zip(parents[0], parents[-1], strict=False) if parents else ()
    return "".join(f"{part}/" for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
