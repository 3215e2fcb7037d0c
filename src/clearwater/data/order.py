"""An order of any number of numbers that takes no memory: a permutation that is computed where it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.randomness import derived_seed

__all__ = ["permuted"]

_ROUNDS = 6
_MIX = (0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64)  # odd, as signed 64-bit numbers


def permuted(index: Tensor, n: int, seed: int) -> Tensor:
    """Where a permutation of 0..n-1 that the seed chooses takes these numbers.

    A Feistel network (Luby & Rackoff 1988) on the next power of four, gone through again by what falls outside
    (Black & Rogaway 2002): a bijection for every seed, at a few operations a number and no list of n.

    Args:
        index: int64, from 0 to n - 1, of any shape.
        n: how many numbers, up to 2^62.
        seed: of the permutation.

    Raises:
        InputError: there are no numbers, or too many.
    """
    if not 0 < n <= 2**62:
        raise InputError(f"An order is of 1 to 2^62 numbers, not {n}.")
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    low = 2**half - 1
    keys = [derived_seed(seed, "round", i) for i in range(_ROUNDS)]

    def once(x: Tensor) -> Tensor:
        left, right = x >> half, x & low
        for key in keys:
            left, right = right, left ^ (_hash(right, key) & low)
        joined: Tensor = (left << half) | right
        return joined

    x = once(index)
    outside = x >= n
    while bool(outside.any()):
        x = torch.where(outside, once(x), x)
        outside = x >= n
    return x


def _hash(x: Tensor, key: int) -> Tensor:
    """Numbers that look random, of 64 bits that wrap around."""
    for mix in _MIX:
        x = (x ^ (key & (2**62 - 1))) * mix
        x = x ^ ((x >> 31) & (2**33 - 1))
    return x
