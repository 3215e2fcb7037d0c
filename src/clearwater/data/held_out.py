"""Which images of a source are held out: chosen once by their numbers, whatever is trained and with whatever seed."""

from __future__ import annotations

import torch
from torch import Tensor

from clearwater.data.built_in import Split
from clearwater.data.order import permuted
from clearwater.data.sources import Numbers
from clearwater.errors import InputError

__all__ = ["part_of", "usual"]

_FEWEST, _SHARE, _MOST = 200, 20, 1000
_SEED = 0x68656C64  # of the choice: not one that a person gives to a run, and never to be changed


def usual(n: int) -> int:
    """How many of n images are held out if nobody says: one in twenty, at most 1,000; none of fewer than 200."""
    return min(n // _SHARE, _MOST) if n >= _FEWEST else 0


def part_of(kept: Numbers, n: int, held_out: int, split: Split, title: str) -> Tensor:
    """Where the images of one part are among those that could be read.

    The choice is of numbers in the source, so that it is the same where a broken image was found before, or was not;
    and of more images all those are held out that are of fewer.

    Args:
        kept: the numbers of the images that could be read, rising.
        n: how many images the source has.
        held_out: how many of them are held out.
        split: which part.
        title: what the user called the source.

    Returns:
        int64, rising.

    Raises:
        InputError: there is no such part, or nothing of it could be read.
    """
    if held_out >= n:
        raise InputError(
            f"'{title}' has {n} image(s), of which {held_out} cannot be held out: set data.held_out to fewer, or to 0."
        )
    if split == "held_out" and held_out == 0:
        raise InputError(f"Of the {n} image(s) of '{title}' none are held out: name other images instead.")
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[permuted(torch.arange(held_out), n, _SEED)] = True
    rows = (chosen if split == "held_out" else ~chosen)[torch.from_numpy(kept)].nonzero().flatten()
    if not len(rows):
        part = "held out" if split == "held_out" else "trained on"
        raise InputError(f"None of the images of '{title}' that are {part} can be read: set data.held_out to another.")
    return rows
