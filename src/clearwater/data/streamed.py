"""Images that are decoded when they are needed, for those who have no room for a cache."""

from __future__ import annotations

import copy
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clearwater.data.decoding import Pixels, Shape, decode
from clearwater.data.image_set import digest_of_part, digest_with_labels, renumbered
from clearwater.data.sources import Labels, RandomAccess, hash_of
from clearwater.errors import InputError

__all__ = ["StreamedImages"]


class StreamedImages:
    """Images of one size, each decoded whenever it is taken.

    A broken one is replaced by the next that can be read, of the same class, and named in `skipped` once it was met.

    Args:
        source: the images.
        shape: (C, H, W) to decode to.
        labels: the class of each image of the source and the names of the classes, or None.
        rows: which images of the source these are, int64, shape (N,); None for all.
        held_out: how many of the source are held out, in this part or in the other one; None of a source that has a
            part for that by itself.
    """

    def __init__(
        self,
        source: RandomAccess,
        shape: Shape,
        labels: Labels | None,
        rows: Tensor | None = None,
        *,
        held_out: int | None = 0,
    ) -> None:
        self.shape, self.held_out, self._rows = shape, held_out, rows
        self.labels: Tensor | None = None
        self.classes: tuple[str, ...] = ()
        if labels is not None:
            self.labels, self.classes = labels
            self.labels = self.labels if rows is None else self.labels[rows]
        # Counted here, where no thread asks at the same time.
        self._source, self._n = source, len(source) if rows is None else len(rows)
        self._broken: dict[int, str] = {}
        self._pool = ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return self._n

    def with_classes(self, classes: tuple[str, ...]) -> StreamedImages:
        """The same with their classes numbered in this order, if all of them are in it."""
        again = copy.copy(self)
        again.labels, again.classes = renumbered(self.labels, self.classes, classes)
        return again

    @property
    def skipped(self) -> tuple[str, ...]:
        """A sentence for each image that could not be read so far."""
        return tuple(said for _, said in sorted(self._broken.items()))

    def take(self, index: Tensor) -> Tensor:
        """The images of these numbers, int64 of shape (B,): uint8, shape (B, C, H, W), on the CPU.

        Raises:
            InputError: no image, or none of a class, can be read.
        """
        images = np.empty((len(index), *self.shape), np.uint8)
        # Each is decoded straight into its place; the list is what waits for all, and raises what one of them did.
        list(self._pool.map(partial(self._into, images), range(len(index)), index.tolist()))
        return torch.from_numpy(images)

    def digest(self, *, labels: bool = False) -> str:
        """A hash by which a run knows its data again without reading it; an ImageSet of the same images has another."""
        of_images = hash_of(["streamed", self._source.fingerprint(), repr(self.shape)])
        if self._rows is not None:
            of_images = digest_of_part(of_images, self._rows)
        return digest_with_labels(of_images, self.labels, self.classes) if labels else of_images

    def _into(self, images: Pixels, place: int, i: int) -> None:
        for candidate in ((i + step) % self._n for step in range(self._n)):
            if candidate in self._broken or (self.labels is not None and self.labels[candidate] != self.labels[i]):
                continue
            found = decode(partial(self._source.open, self._number(candidate)), self.shape)
            if not isinstance(found, str):
                images[place] = found
                return
            self._broken[candidate] = f"{self._source.name(self._number(candidate))}: {found}"
        raise InputError(
            f"No image of '{self._source.title}' that could stand for {self._source.name(self._number(i))} can be "
            f"read: {self._broken.get(i)}."
        )

    def _number(self, i: int) -> int:
        """Of image i in the source."""
        return i if self._rows is None else int(self._rows[i])
