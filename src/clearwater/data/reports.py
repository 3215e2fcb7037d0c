"""What is told to whoever waits for images."""

from __future__ import annotations

import warnings
from pathlib import Path

__all__ = ["LoadReport"]


class LoadReport:
    """What is told while images are loaded. Override what you want to show; this one tells only what went wrong."""

    def building(self, folder: Path, size: int) -> None:
        """A cache of so many bytes will now be made, or gone on with, in this folder."""

    def waiting(self, folder: Path) -> None:
        """Another process is making the cache in this folder: this one waits until it is done."""

    def progress(self, fraction: float) -> None:
        """So much is decoded, 0 to 1."""

    def warn(self, sentence: str) -> None:
        """A cache is damaged, and is made again."""
        warnings.warn(sentence, stacklevel=2)
