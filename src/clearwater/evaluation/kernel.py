"""The kernel distance: the squared maximum mean discrepancy of features under a cubic kernel (Bińkowski et al. 2018).

MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(x, y) = (xᵀy/D + 1)³, each mean over pairs of different images. It
compares the first three moments, supposes no Gaussians, and its estimate is not biased at any number of images, so it
may come out below zero. With features of the standard Inception network it is the KID.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.rows import BLOCK, blocks, check_alike
from clearwater.randomness import generator

__all__ = ["SubsetDistance", "kernel_distance", "kernel_distance_of_subsets"]


def kernel_distance(samples: Tensor, data: Tensor, *, block: int = BLOCK) -> Estimate:
    """MMD² of all samples and all data, exactly, with the standard error of such a U-statistic.

    With a and c the means of k over the other images of an image's own set and over those of the other set, it varies
    as 4 Var(a - c) / n, likewise for the data, and to second order, which alone is left where both sets are of one
    distribution, as 2 V_xx / n² + 2 V_yy / m² + 4 V_xy / nm, V the variance of what in k is no sum of a function of x
    and one of y (Serfling 1980, section 5.2). As measured, the first contains the second twice.

    Args:
        samples: features, shape (N, D).
        data: features, shape (M, D).
        block: rows of either that are compared at once.
    """
    check_alike(samples, data)
    n, m = len(samples), len(data)
    own_x, squares_xx = _own(samples, block)
    own_y, squares_yy = _own(data, block)
    cross_x, cross_y, squares_xy = _cross(samples, data, block)
    value = float(own_x.mean() + own_y.mean() - 2 * cross_x.mean())
    rest_xx = squares_xx - own_x.mean().square() - 2 * own_x.var()
    rest_yy = squares_yy - own_y.mean().square() - 2 * own_y.var()
    rest_xy = squares_xy - cross_x.mean().square() - cross_x.var() - cross_y.var()
    second = 2 * (_positive(rest_xx) / n**2 + _positive(rest_yy) / m**2 + 2 * _positive(rest_xy) / (n * m))
    both = 4 * float((own_x - cross_x).var() / n + (own_y - cross_y).var() / m)
    return Estimate.normal(value, math.sqrt(max(both - second, second)))


@dataclass(frozen=True)
class SubsetDistance:
    """The kernel distance as other programs report it: over random subsets.

    Attributes:
        mean: over the subsets.
        deviation: between the subsets, of which there are N in the divisor. It is no standard error of the mean: it
            says what another subset of that size may give.
        subsets: how many.
        size: images in each.
    """

    mean: float
    deviation: float
    subsets: int
    size: int


def kernel_distance_of_subsets(
    samples: Tensor, data: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> SubsetDistance:
    """The mean MMD² of random subsets of `size` samples and as many of the data, as torch-fidelity and torchmetrics do.

    Args:
        samples: features, shape (N, D), N ≥ size.
        data: features, shape (M, D), M ≥ size.
        subsets: how many.
        size: images of each set in each.
        seed: of the choice.
    """
    check_alike(samples, data)
    if not (subsets >= 1 and 2 <= size <= min(len(samples), len(data))):
        raise InputError(
            f"There are no {subsets} subsets of {size} images in {len(samples)} samples and {len(data)} of the data: "
            f"take at least 1, of 2 to {min(len(samples), len(data))} images."
        )
    found = torch.zeros(subsets, dtype=torch.float64)
    for i in range(subsets):
        x, y = (_subset(of, size, generator(seed, name, i)) for of, name in ((samples, "samples"), (data, "data")))
        own = _own(x, size)[0].mean() + _own(y, size)[0].mean()
        found[i] = own - 2 * _kernel(x, y).mean()
    return SubsetDistance(float(found.mean()), float(found.std(correction=0)), subsets, size)


def _subset(of: Tensor, size: int, chance: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(of), generator=chance)[:size].to(of.device)
    return of[chosen].double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)


def _own(features: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The mean of k over the other images, for each, shape (N,), and the mean of k² over pairs of different ones."""
    n = len(features)
    sums = torch.zeros(n, dtype=torch.float64, device=features.device)
    squares = sums.new_zeros(())
    for at, x in blocks(features, block):
        for there, y in blocks(features[: at.stop], block):  # each pair of blocks once, as k(x, y) = k(y, x)
            values = _kernel(x, y)
            if there.start == at.start:
                values.fill_diagonal_(0)
                sums[at] += values.sum(1)
                squares += values.square_().sum()
            else:
                sums[at] += values.sum(1)
                sums[there] += values.sum(0)
                squares += 2 * values.square_().sum()
    return sums / (n - 1), squares / (n * (n - 1))


def _cross(samples: Tensor, data: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of k over the other set, for each sample and for each of the data, and the mean of k²."""
    n, m = len(samples), len(data)
    of_samples, of_data = (torch.zeros(len(of), dtype=torch.float64, device=samples.device) for of in (samples, data))
    squares = of_samples.new_zeros(())
    for at, x in blocks(samples, block):
        for there, y in blocks(data, block):
            values = _kernel(x, y)
            of_samples[at] += values.sum(1)
            of_data[there] += values.sum(0)
            squares += values.square_().sum()
    return of_samples / m, of_data / n, squares / (n * m)


def _positive(variance: Tensor) -> float:
    return max(0.0, float(variance))
