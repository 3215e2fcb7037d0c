"""Images that a Python object holds: a list of Pillow's, a dataset of torchvision's."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from operator import index
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np
from PIL import Image, ImageOps

from clearwater.data.labels import labels_of_numbers
from clearwater.data.sources import Labels, Numbers, RandomAccess, hash_of
from clearwater.errors import InputError

__all__ = ["Pictures", "PicturesSource"]

_FORMS = "Pillow images, or pairs of a Pillow image and a whole number (leave transform=ToTensor() out)"


class Pictures(Protocol):
    """A sequence of Pillow images, or of pairs of one and the number of its class; it may have `.classes`, their names.

    Datasets of torchvision's without a transform are such.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> object: ...


@runtime_checkable
class _Named(Protocol):
    classes: Sequence[str]


class PicturesSource(RandomAccess):
    """See `Pictures`. It is asked for one image at a time, since nothing is known of threads in it."""

    def __init__(self, pictures: Pictures) -> None:
        self.title, self.place = f"a {type(pictures).__name__} of {len(pictures):,}", ""
        self._pictures = pictures
        self._lock = threading.Lock()
        if not len(pictures):
            raise InputError(f"There is no image in an empty {type(pictures).__name__}: give one with images in it.")

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return f"image {i}"

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        with self._lock:
            # A copy, as it should be seen: who opens an image also closes it.
            return ImageOps.exif_transpose(self._picture(i)[0])

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`: the numbers in the pairs."""
        with self._lock:
            numbers = [self._picture(i)[1] for i in kept.tolist()]
        without = next((i for i, number in zip(kept.tolist(), numbers, strict=True) if number is None), None)
        if without is not None:
            raise InputError(
                f"Image {without} of {self.title} has no class: give pairs of an image and a whole number, or train "
                "without labels."
            )
        classes = self._pictures.classes if isinstance(self._pictures, _Named) else None
        return labels_of_numbers(self.title, np.array(numbers, np.int64), classes)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of all the pixels, since nothing else is known of them."""
        return hash_of(self._content(i) for i in range(len(self)))

    def _content(self, i: int) -> str:
        try:
            with self.open(i) as image:
                pixels = image.convert("RGBA") if image.has_transparency_data else image
                content = hashlib.blake2b(pixels.tobytes()).hexdigest()
                return f"{pixels.mode} {pixels.size} {content} {image.getpalette()}"
        except InputError:
            raise
        except Exception as error:  # as `decode` has it
            return f"broken: {error}"

    def _picture(self, i: int) -> tuple[Image.Image, int | None]:
        item = self._pictures[i]
        picture, number = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
        if not isinstance(picture, Image.Image):
            raise InputError(f"Item {i} holds a {type(picture).__name__}, and only {_FORMS} can be read.")
        if not isinstance(number, SupportsIndex | None):
            raise InputError(f"The class of item {i} is a {type(number).__name__}, and only {_FORMS} can be read.")
        return picture, None if number is None else index(number)
