"""The nearest neighbours of feature vectors, exactly, over all pairs in blocks.

|x - y|² = |x|² + |y|² - 2 xᵀy is one matrix product, but where x is near y its digits cancel, and what is left depends
on how the product was divided. So it only chooses candidates: the distances that are returned are of the differences.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clearwater.evaluation.rows import BLOCK, Rows, blocks

__all__ = ["neighbours", "squared_distances"]

_SPARE = 3  # candidates beyond those wanted, as the product may put near ones in the wrong order


def squared_distances(x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """|x - y|² of all pairs, shape (B, C), of float64 rows (B, D) and (C, D); and how far off one may be at most."""
    farthest = max(float(rows.square().sum(1).max()) for rows in (x, y))
    origin = y.mean(0)  # what all have in common would only take digits
    x, y = x - origin, y - origin
    norm_x, norm_y = (rows.square().sum(1, keepdim=True) for rows in (x, y))
    one_x, one_y = torch.ones_like(norm_x), torch.ones_like(norm_y)
    # One product, with the norms as two more columns, instead of three passes over the pairs.
    squared = torch.cat([-2 * x, norm_x, one_x], 1) @ torch.cat([y, one_y, norm_y], 1).T
    largest = max(float(norm_x.max()), float(norm_y.max()))
    of_product, of_origin = 4 * (x.shape[1] + 8) * largest, 16 * math.sqrt(farthest * largest)
    return squared, torch.finfo(torch.float64).eps * (of_product + of_origin)


def neighbours(
    queries: Rows, points: Rows, k: int = 1, *, same: bool = False, block: int = BLOCK
) -> tuple[Tensor, Tensor]:
    """The k nearest points of each query, the nearest first.

    Args:
        queries: shape (N, D).
        points: shape (M, D), M ≥ k, and more than k if they are the same.
        k: how many.
        same: whether both are the same set, in which no row is its own neighbour.
        block: rows of either that are compared at once.

    Returns:
        Squared Euclidean distances, float64, and numbers of rows of `points`, int64; both of shape (N, k). Of points
        at the same distance, which one is named may depend on the block.
    """
    parts = [_of_block(at, x, points, k, same, block) for at, x in blocks(queries, block)]
    squared, indices = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return squared, indices


def _of_block(at: slice, x: Tensor, points: Rows, k: int, same: bool, block: int) -> tuple[Tensor, Tensor]:
    best = x.new_full((len(x), 0), 0.0)
    indices = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    for there, y in blocks(points, block):
        squared, _ = squared_distances(x, y)
        if same and there == at:
            squared.fill_diagonal_(torch.inf)
        near, which = squared.topk(min(k + _SPARE, len(y)), 1, largest=False)
        best, order = torch.cat([best, near], 1).sort(1)
        indices = torch.cat([indices, which + there.start], 1).gather(1, order)[:, : k + _SPARE]
        best = best[:, : k + _SPARE]
    exact = torch.stack([(x - points[column].double()).square().sum(1) for column in indices.T], 1)
    exact = torch.where(best.isinf(), torch.inf, exact)  # a row itself, if there are hardly more than k
    exact, order = exact.sort(1)
    return exact[:, :k], indices.gather(1, order)[:, :k]
