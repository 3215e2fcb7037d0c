"""What every kind of source is: images by number, still encoded."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["Labels", "Numbers", "Opener", "RandomAccess", "Source", "from_bytes", "hash_of", "stamp"]

Opener = Callable[[], Image.Image]
Labels = tuple[Tensor, tuple[str, ...]]
Numbers = npt.NDArray[np.int64]


class Source(ABC):
    """Images by number, 0 ≤ i < N, in an order that is always the same; nothing is decoded before it is asked for.

    Attributes:
        title: what the user called it, for messages.
        place: where it is, however it was called: "" if it is nowhere but in memory.
    """

    title: str
    place: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, i: int) -> str:
        """Image i, as a message calls it."""

    @abstractmethod
    def each(self, first: int = 0) -> Iterator[Opener]:
        """A function for each image from this one on, which opens it: in any thread, and more than once.

        It raises whatever the file system and Pillow raise for an image that is broken, and InputError for what is no
        image at all.
        """

    @abstractmethod
    def labels(self, kept: Numbers) -> Labels:
        """The classes of these images: int64, shape (len(kept),), and their names in the order of the numbers.

        Raises:
            InputError: there are no classes, or one of these images has none.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash by which the images are known again without decoding them; the place is no part of it."""


class RandomAccess(Source):
    """A source whose images can be opened in any order."""

    @abstractmethod
    def open(self, i: int) -> Image.Image:
        """Image i, in any thread; raises whatever the file system and Pillow raise if it is broken."""

    def each(self, first: int = 0) -> Iterator[Opener]:
        """See `Source.each`."""
        return (partial(self.open, i) for i in range(first, len(self)))


def from_bytes(content: bytes) -> Image.Image:
    """The image in an encoded file's content."""
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # whose message would name a place in memory
        raise ValueError("it is no image that Pillow knows") from None


def hash_of(parts: Iterable[str]) -> str:
    """A hash of texts and where each of them ends, 32 hexadecimal digits."""
    content = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = os.fsencode(part)  # names of files need not be valid text
        content.update(b"%d " % len(encoded))
        content.update(encoded)
    return content.hexdigest()


def stamp(path: Path) -> str:
    """A file's name, size and time of change, by which it is known again without being read."""
    found = path.stat()
    return f"{path.name} {found.st_size} {found.st_mtime_ns}"
