"""Cheap figures of a model in training, on images that it does not train on: its own loss, and the bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clearwater.bound_estimate import estimate_bound
from clearwater.data import pixel_values
from clearwater.data.batches import Images
from clearwater.data.order import permuted
from clearwater.denoisers import Clipped, NetworkDenoiser
from clearwater.objectives import Objective
from clearwater.optimal_variance import fit_optimal_variance
from clearwater.randomness import RowStreams, generator
from clearwater.times import LowDiscrepancy

__all__ = ["CheapBound", "cheap_bound", "objective_loss", "some"]

_BATCH = 64
_FITTED_LEVELS, _FITTED_IMAGES = 32, 32  # of the variance: a thousand evaluations
_EVALUATIONS = 40  # of the bound, an image


def some(images: Images, n: int) -> tuple[Tensor, Tensor | None]:
    """Some of the images, the same ones each time, and their classes: of all kinds, though sources give class by class.

    Returns:
        uint8, shape (at most n, C, H, W), and int64 or None.
    """
    index = permuted(torch.arange(min(n, len(images))), len(images), 0).sort().values
    return images.take(index), None if images.labels is None else images.labels[index]


@torch.no_grad()
def objective_loss(
    model: NetworkDenoiser,
    objective: Objective,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    passes: int = 1,
    report: Callable[[float], None] | None = None,
) -> float:
    """The mean of an objective over images and evenly spread levels: the same levels and noise for every model.

    Args:
        model: in evaluation mode.
        objective: what is averaged, without the weights of a sampler that prefers some levels.
        images: uint8, shape (N, C, H, W).
        labels: of the images, int64, shape (N,), if the model is to be told.
        passes: how many levels an image is seen at.
        report: is told the fraction done.
    """
    device = next(model.network.parameters()).device
    total = 0.0
    for i in range(passes):
        k, _ = LowDiscrepancy()(len(images), model.chain.T, generator(0, "levels", i))
        for first in range(0, len(images), _BATCH):
            rows = range(first, min(first + _BATCH, len(images)))
            at = slice(rows.start, rows.stop)
            told = model if labels is None else replace(model, labels=labels[at].to(device))
            total += float(objective.at(told, pixel_values(images[at]).to(device), k[at], RowStreams(i, rows)).sum())
        if report is not None:
            report((i + 1) / passes)
    return total / (passes * len(images))


@dataclass(frozen=True)
class CheapBound:
    """An unbiased estimate of the bound on -log p.

    Attributes:
        bits: in bits per dimension.
        error: its standard error for these images.
    """

    bits: float
    error: float


def cheap_bound(
    model: NetworkDenoiser, seen: Tensor, images: Tensor, *, report: Callable[[float], None] | None = None
) -> CheapBound:
    """The bound of `images` with the optimal variance, which is measured on images that the model has `seen`.

    About 1,000 evaluations of the network for the variance, and 40 an image; both uint8, shape (N, C, H, W). `report`
    is told the fraction done.
    """
    device = next(model.network.parameters()).device
    clipped = Clipped(replace(model, autocast=None))  # a figure to be compared: in the precision of the weights
    optimal = fit_optimal_variance(
        clipped, pixel_values(seen).to(device), images=_FITTED_IMAGES, levels=_FITTED_LEVELS, batch=_BATCH
    )
    measured = Clipped(replace(model, autocast=None, variance=optimal))
    x_0 = pixel_values(images).to(device)
    found = estimate_bound(measured, x_0, _EVALUATIONS * len(x_0), batch=_BATCH, progress=report)
    return CheapBound(found.total, found.stderr)
