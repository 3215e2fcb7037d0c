"""The Fréchet distance of infinitely many images (Chong & Forsyth 2020, "Effectively unbiased FID").

Of n images the distance is, on average, F + c/n + O(1/n²) with a c that differs from model to model, so that even at
one n a comparison may come out wrong. Here the line is drawn through the distance of all images and the mean distance
of the parts of random partitions of them. Chong & Forsyth take random subsets, whose means and covariances are off in
ways of their own; the parts of a partition are off, to first order, by exactly as much together as the whole is, so
that of the error only what the whole has is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.fidelity import Moments, distance_by_root, frechet_distance, frechet_estimate, root_of
from clearwater.evaluation.rows import BLOCK, blocks
from clearwater.randomness import generator

__all__ = ["Extrapolation", "frechet_at_infinity"]


@dataclass(frozen=True)
class Extrapolation:
    """A figure at infinitely many images, and what it was extrapolated from.

    Attributes:
        estimate: at infinitely many. It is not biased to first order, so it may be below zero.
        raw: at all images that there are.
        n: how many samples that is.
        points: samples a part, and the mean distance of such parts; the first is (n, raw).
    """

    estimate: Estimate
    raw: Estimate
    n: int
    points: tuple[tuple[float, float], ...]


def frechet_at_infinity(
    samples: Tensor,
    data: Tensor | Moments,
    *,
    parts: Sequence[int] = (1, 2),
    partitions: int = 4,
    seed: int = 0,
    block: int = BLOCK,
) -> Extrapolation:
    """The Fréchet distance that infinitely many samples would have.

    Args:
        samples: features, shape (N, D).
        data: their moments: the distance to exactly these, as Chong & Forsyth have it, which contains what the data
            are off by from their own distribution. Or features, shape (M, D): the distance to the distribution that
            they are from, extrapolated with the samples, each part of these against as great a part of the data.
        parts: into how many parts the images are divided, 1 among them. Halves leave the least bias of order 1/n².
        partitions: how many random ones for each number of parts.
        seed: of the partitions.
        block: rows that are read at once.
    """
    raw = frechet_estimate(samples, data, block=block)
    _check(samples, data, parts)
    reference = data if isinstance(data, Tensor) else (data, root_of(data))
    means: dict[int, list[float]] = {
        count: [
            _mean_distance(samples, reference, count, (seed, count, i), block) if count > 1 else raw.value
            for i in range(partitions if count > 1 else 1)
        ]
        for count in sorted(parts)
    }
    counts = np.array(list(means), np.float64)
    centred = counts - counts.mean()
    at_zero = 1 / len(counts) - counts.mean() * centred / np.square(centred).sum()  # least squares, at 1/n = 0
    value = float(at_zero @ [np.mean(each) for each in means.values()])
    # What the partitions disagree by comes on top of what all of them share with the whole.
    chance = sum(
        float(weight) ** 2 * float(np.var(each, ddof=1)) / len(each)
        for weight, each in zip(at_zero, means.values(), strict=True)
        if len(each) > 1
    )
    estimate = Estimate.normal(value, math.sqrt(raw.error**2 + chance))
    points = tuple((len(samples) / count, float(np.mean(each))) for count, each in means.items())
    return Extrapolation(estimate, raw, len(samples), points)


def _check(samples: Tensor, data: Tensor | Moments, parts: Sequence[int]) -> None:
    if len(set(parts)) < 2 or min(parts) != 1:
        raise InputError(f"A line takes 1 and at least one more number of parts, not {tuple(parts)}: leave it at 1, 2.")
    features, fewest = samples.shape[1], min(len(of) for of in (samples, data) if isinstance(of, Tensor))
    needed = max(parts) * (features + 1)
    if fewest < needed:
        raise InputError(
            f"To extrapolate the Fréchet distance of {features} features takes at least {needed} images, more than "
            f"features in each of {max(parts)} parts, not {fewest}: give more, or leave this figure out."
        )


def _mean_distance(
    samples: Tensor, data: Tensor | tuple[Moments, Tensor], count: int, purpose: tuple[int, ...], block: int
) -> float:
    seed, *rest = purpose
    of_samples = _moments_of_parts(samples, count, generator(seed, "samples", *rest), block)
    if isinstance(data, Tensor):
        of_data = _moments_of_parts(data, count, generator(seed, "data", *rest), block)
        return float(np.mean([frechet_distance(a, b) for a, b in zip(of_samples, of_data, strict=True)]))
    moments, root = data
    return float(np.mean([distance_by_root(a, moments, root) for a in of_samples]))


def _moments_of_parts(features: Tensor, count: int, chance: torch.Generator, block: int) -> list[Moments]:
    """Of the parts of a random partition, read in the order of the rows, which is that of the file."""
    part = (torch.randperm(len(features), generator=chance) % count).to(features.device)
    none = Moments.of(features[:0])
    moments = [none] * count
    for at, rows in blocks(features, block):
        moments = [total + Moments.of(rows[part[at] == i], block=block) for i, total in enumerate(moments)]
    return moments
