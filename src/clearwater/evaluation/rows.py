"""Sets of feature vectors, a row an image, that may be larger than the memory: checked and read in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from clearwater.errors import InputError

__all__ = ["BLOCK", "Rows", "blocks", "check_alike", "check_rows"]

BLOCK = 1024
"""Rows that are read at once; of pairs, that many by that many: 8 MiB, and a few of them at a time."""


class Rows(Protocol):
    """Vectors by number: a tensor of shape (N, D), or what reads or makes them as they are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, D)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Some of them, shape (B, D)."""


def blocks(rows: Rows, size: int = BLOCK) -> Iterator[tuple[slice, Tensor]]:
    """Each block of rows in turn: where it is, and its float64 values; no more of a mapped file is read at once."""
    for first in range(0, len(rows), size):
        at = slice(first, min(first + size, len(rows)))
        yield at, rows[at].double()


def check_rows(rows: Rows, whose: str, *, least: int = 2) -> None:
    """Raises InputError unless `rows` is of shape (N, D) with N ≥ `least` and has finite numbers only.

    Args:
        rows: the features.
        whose: in words, such as "the samples".
        least: how many images the figure takes.
    """
    if len(rows.shape) != 2:
        raise InputError(
            f"The features of {whose} are of shape {tuple(rows.shape)}, not (images, features): give a row per image."
        )
    if len(rows) < least:
        raise InputError(f"This figure takes at least {least} images of {whose}, not {len(rows)}: give more of them.")
    if not isinstance(rows, Tensor) or not rows.dtype.is_floating_point:
        return
    for first in range(0, len(rows), BLOCK):
        finite = rows[first : first + BLOCK].isfinite().all(1)
        if not bool(finite.all()):
            image = first + int(finite.logical_not().nonzero()[0])
            raise InputError(
                f"Image {image} of {whose}, counted from 0, has features that are not finite numbers: "
                "leave it out, or mend the extractor."
            )


def check_alike(samples: Rows, data: Rows, *, least: int = 2, whose: str = "the samples") -> None:
    """Raises InputError unless both are features of one extractor, of at least `least` images each."""
    check_rows(samples, whose, least=least)
    check_rows(data, "the data", least=least)
    if samples.shape[1] != data.shape[1]:
        raise InputError(
            f"There are {samples.shape[1]} features of {whose} and {data.shape[1]} of the data: "
            "take both from one extractor."
        )
