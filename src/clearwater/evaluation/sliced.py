"""The sliced Wasserstein distance of images, in pixels: no network says what matters.

Projected on one direction θ, two sets are two sets of numbers, whose Wasserstein distance is that of their sorted
values: W₂² = ∫ (F⁻¹(u) - G⁻¹(u))² du. Its mean over directions, SW₂² (Rabin et al. 2012, Bonneel et al. 2015), is zero
only for equal distributions. As θ is a unit vector of D numbers, E (θᵀδ)² = |δ|²/D: a shift of all pixels by c grey
values is a distance of c. It sees colour, contrast and coarse shape; of what a person sees it misses most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.pixels import Pixels, size_of, taken
from clearwater.evaluation.rows import BLOCK
from clearwater.randomness import generator

__all__ = ["sliced_wasserstein"]

_KEPT = 2**22  # projections of a set that are kept at once, 32 MiB: for more directions the images are read again
_DRAWN = 2**24  # numbers of all directions that are kept at once, 128 MiB: likewise
_READ = 2**22  # values of images that are read at once, 32 MiB
_SORTED = 2**19  # projections of both sets that are compared at once, 4 MiB, and a few times that


def sliced_wasserstein(
    samples: Pixels | Tensor, data: Pixels | Tensor, *, directions: int = 256, seed: int = 0, block: int = BLOCK
) -> Estimate:
    """SW₂ of two sets of images in grey values, with its error for these directions.

    The influence of an image is the mean over directions of the dual potential at its projection, φ with
    φ' = 2 (x - T(x)), T the map from one set to the other.

    Args:
        samples: N ≥ 2 of them, by number, or uint8, shape (N, C, H, W).
        data: M ≥ 2 of them, likewise; N need not be M.
        directions: over how many the mean is.
        seed: of the directions. They are the same for any two sets of this seed, so that figures can be compared.
        block: images that are read at once; fewer of large ones.
    """
    size, other = size_of(samples), size_of(data)
    if size != other:
        raise InputError(
            f"The samples are of {_said(size)} and the data of {_said(other)}: pixels are compared at one size."
        )
    if min(len(samples), len(data)) < 2:
        raise InputError(f"Sets of {len(samples)} and {len(data)} images are too few to compare: give two at least.")
    if directions < 1:
        raise InputError(f"A mean over {directions} directions is none: take at least 1.")
    at_once = max(1, min(_KEPT // max(len(samples), len(data)), _DRAWN // math.prod(size)))
    block = max(1, min(block, _READ // math.prod(size)))
    total = 0.0
    of_samples, of_data = (torch.zeros(len(of), dtype=torch.float64) for of in (samples, data))
    compared = max(1, _SORTED // (len(samples) + len(data)))
    pieces, back = _pieces(len(samples), len(data)), _pieces(len(data), len(samples))
    for first in range(0, directions, at_once):
        theta = _directions(math.prod(size), range(first, min(first + at_once, directions)), seed)
        projected = (_projected(of, theta, block) for of in (samples, data))
        for x, y in zip(*(torch.split(of, compared) for of in projected), strict=True):
            x, order_x = x.sort(1)
            y, order_y = y.sort(1)
            which_x, which_y, width = pieces
            total += float((width * (x[:, which_x] - y[:, which_y]).square()).sum())
            of_samples.index_add_(0, order_x.flatten(), _potentials(x, y, pieces).flatten())
            of_data.index_add_(0, order_y.flatten(), _potentials(y, x, back).flatten())
    square = total / directions
    variance = sum(float(of.var()) / len(of) for of in (of_samples, of_data)) / directions**2
    of_square = Estimate.normal(square, math.sqrt(variance), least=0)
    value = math.sqrt(square)
    low, high = (math.sqrt(end) for end in of_square.interval)
    error = of_square.error / (2 * value) if value > 0 else 0.0
    return Estimate(value, error, (low, high))


def _said(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))


def _directions(features: int, which: range, seed: int) -> Tensor:
    """Unit vectors, shape (D, L), spread evenly over the sphere; each is a function of its number."""
    drawn = [torch.randn(features, dtype=torch.float64, generator=generator(seed, "direction", i)) for i in which]
    return torch.stack([each / each.norm() for each in drawn], 1)


def _projected(images: Pixels | Tensor, theta: Tensor, block: int) -> Tensor:
    """Shape (L, N): one row a direction."""
    projected = torch.empty(theta.shape[1], len(images), dtype=torch.float64)
    for first in range(0, len(images), block):
        at = slice(first, first + block)
        projected[:, at] = theta.T @ taken(images, at).flatten(1).double().T
    return projected


_Pieces = tuple[Tensor, Tensor, Tensor]


def _pieces(n: int, m: int) -> _Pieces:
    """Where the quantile functions of n and of m numbers are constant: number of either, and width, of each piece.

    In units of 1/nm the first steps at multiples of m and the second at multiples of n.
    """
    steps = torch.cat([torch.arange(n) * m, torch.arange(m) * n]).sort().values
    steps = steps[torch.diff(steps, prepend=torch.tensor([-1])) > 0]
    widths = torch.diff(steps, append=torch.tensor([n * m])).double() / (n * m)
    return steps // m, steps // n, widths


def _potentials(x: Tensor, y: Tensor, pieces: _Pieces) -> Tensor:
    """φ at the sorted x of each direction, up to a constant, shape (count, N): Σ ∫ 2 (u - y(i/n)) du over the gaps.

    y(i/n) is the quantile between x_i and x_{i+1}; where y steps there as well, the middle of the step.
    """
    which_x, which_y, _ = pieces
    steps = torch.diff(which_x).nonzero()[:, 0]  # the last piece of each x but the last
    between = (y[:, which_y[steps]] + y[:, which_y[steps + 1]]) / 2
    gaps = torch.diff(x, dim=1)
    rise = gaps * (x[:, 1:] + x[:, :-1] - 2 * between)
    potentials = torch.cat([x.new_zeros(len(x), 1), rise.cumsum(1)], 1)
    return potentials - potentials.mean(1, keepdim=True)
