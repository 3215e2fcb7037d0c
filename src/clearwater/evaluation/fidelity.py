"""Distances between the distributions of two sets of images, in the features of an extractor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["Moments", "frechet_distance"]


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
    def of(cls, features: Tensor) -> Moments:
        """Those of features of shape (N, D)."""
        features = features.double()
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


def frechet_distance(a: Moments, b: Moments) -> float:
    """‖mean_a - mean_b‖² + tr(C_a + C_b - 2 (C_a C_b)^½): the squared Wasserstein distance of two Gaussians.

    (Dowson & Landau 1982; of images, Heusel et al. 2017.) Only with the standard Inception network is it the FID.
    """
    if not bool(a.scatter.isfinite().all() & b.scatter.isfinite().all()):
        raise InputError("The features of some image are not finite numbers, so there is no distance.")
    root = _square_root(a.covariance)
    # The eigenvalues of C_a C_b are those of a symmetric matrix, which has none below zero but for rounding.
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def _square_root(symmetric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
