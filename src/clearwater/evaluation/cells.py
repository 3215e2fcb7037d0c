"""Parts of the training images that lie together, so that a figure can be made in each part of the space."""

from __future__ import annotations

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.neighbours import squared_distances
from clearwater.evaluation.rows import BLOCK, blocks, check_rows
from clearwater.randomness import generator

__all__ = ["cells_of"]


def cells_of(training: Tensor, cells: int, *, seed: int = 0, rounds: int = 50, block: int = BLOCK) -> Tensor:
    """The number of the cell of each training image, int64, shape (N,): k-means (Lloyd 1982) of their features.

    Begun with images far from one another (Arthur & Vassilvitskii 2007), ended when no image changes its cell.

    Args:
        training: features, shape (N, D).
        cells: how many there may be, 1 to N; a cell may come out empty.
        seed: of the images that it begins with.
        rounds: at most.
        block: rows that are read at once.
    """
    check_rows(training, "the training set", least=1)
    if not 1 <= cells <= len(training):
        raise InputError(
            f"{len(training)} training images cannot be divided into {cells} cells: take 1 to {len(training)}."
        )
    centres = _first_centres(training, cells, generator(seed, "cells"), block)
    found = torch.full((len(training),), -1, dtype=torch.int64, device=training.device)
    for _ in range(rounds):
        sums, counts = torch.zeros_like(centres), centres.new_zeros(cells)
        before = found.clone()
        for at, rows in blocks(training, block):
            found[at] = squared_distances(rows, centres)[0].argmin(1)
            sums.index_add_(0, found[at], rows)
            counts.index_add_(0, found[at], rows.new_ones(len(rows)))
        if torch.equal(found, before):
            break
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return found


def _first_centres(training: Tensor, cells: int, chance: torch.Generator, block: int) -> Tensor:
    """Each drawn with odds of its squared distance from those before it."""
    chosen = int(torch.randint(len(training), (), generator=chance))
    centres = [training[chosen].double()]
    distances = torch.full((len(training),), torch.inf, dtype=torch.float64, device=training.device)
    for _ in range(cells - 1):
        for at, rows in blocks(training, block):
            distances[at] = torch.minimum(distances[at], (rows - centres[-1]).square().sum(1))
        until = distances.cumsum(0)
        wanted = torch.rand((), generator=chance, dtype=torch.float64).to(until.device) * until[-1]
        chosen = min(int(torch.searchsorted(until, wanted, right=True)), len(training) - 1)
        centres.append(training[chosen].double())
    return torch.stack(centres)
