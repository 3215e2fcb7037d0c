"""The Fréchet distance between two sets of images, in the features of an extractor, and what it may be off by.

It compares means and covariances alone. Of finitely many images it is too large: two sets of n and m images of one
Gaussian are about (1/n + 1/m) · (tr C + …) apart (`frechet_floor`), and with fewer images than features a covariance
has no width at all in most directions. So one compares figures of the same number of images, or extrapolates
(extrapolation.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.rows import BLOCK, blocks, check_alike, check_rows

__all__ = [
    "Moments",
    "distance_by_root",
    "frechet_distance",
    "frechet_estimate",
    "frechet_floor",
    "images_needed",
    "root_of",
]


@dataclass(frozen=True)
class Moments:
    """The mean and the covariance of features; those of two sets add up to those of both.

    Attributes:
        n: how many there were.
        mean: shape (D,), float64.
        scatter: Σ (f - mean)(f - mean)ᵀ, shape (D, D), float64.
    """

    n: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor, *, block: int = BLOCK) -> Moments:
        """Those of features of shape (N, D), of which a block is read at a time."""
        total = cls._of(features[:block].double())
        for _, rows in blocks(features[block:], block):
            total += cls._of(rows)
        return total

    @classmethod
    def _of(cls, features: Tensor) -> Moments:
        mean = features.sum(0) / max(len(features), 1)  # of none: zero, which adds nothing
        return cls(len(features), mean, (features - mean).T @ (features - mean))

    def __add__(self, other: Moments) -> Moments:
        n, apart = self.n + other.n, other.mean - self.mean
        share = other.n / max(n, 1)
        mean = self.mean + apart * share
        between = torch.outer(apart, apart) * (self.n * share)  # Chan, Golub & LeVeque 1979
        return Moments(n, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased estimate, shape (D, D)."""
        if self.n < 2:
            raise InputError(f"A covariance takes at least two images, not {self.n}.")
        return self.scatter / (self.n - 1)


def images_needed(features: int) -> int:
    """The fewest images whose covariance of that many features has a width in every direction: one more than that.

    With fewer the Fréchet distance still is that of the two Gaussians, but these are flat, and it says little.
    """
    return features + 1


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖mean_a - mean_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½): the squared Wasserstein distance of two Gaussians.

    (Dowson & Landau 1982; of images, Heusel et al. 2017.) Only with the standard Inception network is it the FID.
    """
    _check_moments(a, b)
    few, many = (a, b) if a.n <= b.n else (b, a)
    return distance_by_root(many, few, root_of(few))


def distance_by_root(a: Moments, b: Moments, root: Tensor) -> float:
    """The Fréchet distance, of many a to one b whose `root_of` is known: finding that takes the most time."""
    _check_moments(a, b)
    # The eigenvalues of C_a C_b are those of a symmetric matrix, which has none below zero but for rounding.
    cross = torch.linalg.eigvalsh(root.T @ a.covariance @ root).clamp(min=0).sqrt().sum()
    return _distance(a, b, float(cross))


def root_of(moments: Moments) -> Tensor:
    """R of shape (D, rank) with R Rᵀ = C: what is zero but for rounding is left out, as roots would make it large."""
    values, vectors = torch.linalg.eigh(moments.covariance)
    kept = values > len(values) * torch.finfo(torch.float64).eps * values[-1:].clamp(min=0)
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root


def frechet_estimate(samples: Tensor, data: Tensor | Moments, *, block: int = BLOCK) -> Estimate:
    """The Fréchet distance of two sets with its error, for which a bootstrap would take a thousand matrix roots.

    With z = x - mean_a, δ = mean_a - mean_b and G = C_b^½ (C_b^½ C_a C_b^½)^-½ C_b^½, the map that carries one Gaussian
    into the other, the influence of an image x of set a is 2 δᵀz + |z|² - zᵀ G z less its mean; of an image of set b
    likewise. So the error takes one decomposition. It is right where the sets differ, however their features are
    distributed, and √2 times too large where they do not; the interval is of the distance at this number of images.

    Args:
        samples: features, shape (N, D).
        data: features, shape (M, D), or their moments, which are then taken as exactly known.
        block: rows that are read at once.
    """
    if isinstance(data, Tensor):
        check_alike(samples, data)
    else:
        check_rows(samples, "the samples")
    a, b = Moments.of(samples, block=block), data if isinstance(data, Moments) else Moments.of(data, block=block)
    _check_moments(a, b)
    few, many = (a, b) if a.n <= b.n else (b, a)
    root = root_of(few)
    covariance = many.covariance
    squares, axes = torch.linalg.eigh(root.T @ covariance @ root)
    value = _distance(a, b, float(squares.clamp(min=0).sqrt().sum()))
    # Directions in which a product has no width but rounding move nothing: no image lies there.
    kept = squares > len(squares) * torch.finfo(torch.float64).eps * squares[-1:].clamp(min=0)
    singular, carried = squares[kept].sqrt(), root @ axes[:, kept]
    of_many = carried * singular**-0.5  # G = of_many of_manyᵀ for an image of the set with more of them
    of_few = covariance @ carried * singular**-1.5
    form_a, form_b = (of_few, of_many) if few is a else (of_many, of_few)
    variance = _variance(samples, a, b, form_a, block) / a.n
    if isinstance(data, Tensor):
        variance += _variance(data, b, a, form_b, block) / b.n
    return Estimate.normal(value, math.sqrt(variance), least=0)


def frechet_floor(real: Moments, n: float, m: float) -> float:
    """About how far two sets of n and of m images of one distribution are apart; either may be infinite.

    The second order of the distance in what a mean and a covariance are off by, expected for a Gaussian with the
    eigenvalues λ of `real`: (1/n + 1/m) (Σ λ_i + Σ_ij λ_i λ_j / 2(λ_i + λ_j) + Σ λ_i / 4). For n, m well above D.
    """
    values = torch.linalg.eigvalsh(real.covariance).clamp(min=0)
    values = values[values > 0]
    pairs = torch.outer(values, values) / (2 * (values[:, None] + values))
    return (1 / n + 1 / m) * float(1.25 * values.sum() + pairs.sum())


def _check_moments(a: Moments, b: Moments) -> None:
    if a.mean.shape != b.mean.shape:
        raise InputError(
            f"The Fréchet distance takes features of one extractor, not {len(a.mean)} of one set and {len(b.mean)} "
            "of the other."
        )
    if not bool(a.scatter.isfinite().all() & b.scatter.isfinite().all()):
        raise InputError("The features of some image are not finite numbers, so there is no distance.")


def _distance(a: Moments, b: Moments, cross: float) -> float:
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def _variance(features: Tensor, of: Moments, other: Moments, form: Tensor, block: int) -> float:
    """Of the influences of the images of a set, where G is form formᵀ."""

    def influences() -> Iterator[Tensor]:
        for _, rows in blocks(features, block):
            z = rows - of.mean
            of_covariance = (z.square().sum(1) - (z @ form).square().sum(1)) * of.n / (of.n - 1)  # as that is unbiased
            yield 2 * z @ (of.mean - other.mean) + of_covariance

    return float(torch.cat(list(influences())).var())
