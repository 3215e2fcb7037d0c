"""Augmentation that does not leak into the samples (Karras et al. 2022, appendix F.2).

Images are mirrored, scaled, turned, stretched and moved at random, and the network is told how. At zeros, which is what
it is told when it samples, it draws images as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from clearwater.randomness import RowStreams

__all__ = ["AUGMENTED", "augmented", "warped"]

AUGMENTED = 9
"""How many numbers say what was done: mirrored (2), scaled, turned (cosine - 1, sine), stretched (2), moved (2)."""

_SCALE, _SHIFT = 0.2, 0.125  # standard deviations: of log2 of a factor, and of a shift in widths of the image


def augmented(x: Tensor, probability: float, source: RowStreams) -> tuple[Tensor, Tensor]:
    """Images with every change made at random, and what was done.

    Mirroring left to right has probability ½, upside down half of `probability`, each other change `probability`.

    Args:
        x: 8-bit images, values in [-1, 1], shape (B, C, H, W).
        probability: of a change, 0.1 to 0.3 for photographs.
        source: of the rows' random numbers.

    Returns:
        The images, again on the grid of 8 bits, and shape (B, AUGMENTED), float32, both on the device of `x`.
    """
    n = len(x)
    zeros = torch.zeros(n, dtype=torch.float64)

    def normal() -> Tensor:
        return source.normal(zeros)

    def made(probability: float) -> Tensor:
        return (source.uniform() < probability).double()

    mirrored, upside_down = made(0.5), made(probability / 2)
    scaled = made(probability) * normal()
    angle = made(probability) * (2 * source.uniform() - 1) * math.pi
    stretch, along = made(probability) * normal(), (2 * source.uniform() - 1) * math.pi
    moved = made(probability)[:, None] * torch.stack([normal(), normal()], 1)

    for axis, done in ((-1, mirrored), (-2, upside_down)):
        x = torch.where(done.bool().to(x.device)[:, None, None, None], x.flip(axis), x)
    factors = 2 ** (_SCALE * stretch[:, None] * torch.tensor([1.0, -1.0], dtype=torch.float64))
    stretched = _turn(along) @ torch.diag_embed(factors) @ _turn(-along)
    matrix = stretched @ (2 ** (_SCALE * scaled)[:, None, None] * _turn(angle))
    numbers = [mirrored, upside_down, scaled, angle.cos() - 1, angle.sin()]
    numbers += [stretch * along.cos(), stretch * along.sin(), moved[:, 0], moved[:, 1]]
    told = torch.stack(numbers, 1)
    changed = told[:, 2:].any(1).nonzero()[:, 0]  # the others keep their pixels to the bit
    if len(changed):
        out = warped(x[changed.to(x.device)], matrix[changed], _SHIFT * moved[changed])
        out = ((out.clamp(-1, 1) + 1) * 127.5).round().div_(127.5).sub_(1)
        x = x.index_copy(0, changed.to(x.device), out.to(x.dtype))
    return x, told.to(x.device, torch.float32)


def warped(x: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Images changed about their middle: what was at p comes to ``matrix p + shift``, in units of half the longer side.

    Bicubic; the image goes on beyond its edge as its reflection.

    Args:
        x: shape (B, C, H, W).
        matrix: float64, shape (B, 2, 2), of (x, y).
        shift: float64, shape (B, 2), in widths of the longer side.
    """
    height, width = x.shape[-2:]
    aspect = torch.tensor([width, height], dtype=torch.float64) / max(height, width)
    back = torch.linalg.inv(matrix)
    # From where each pixel comes, in the coordinates of each side from -1 to 1.
    theta = torch.cat([back, -back @ (2 * shift)[:, :, None]], 2)
    theta = theta / aspect[:, None] * torch.cat([aspect, torch.ones(1, dtype=torch.float64)])
    places = F.affine_grid(theta.to(x.device, torch.float32), list(x.shape), align_corners=False)
    return F.grid_sample(x.float(), places, mode="bicubic", padding_mode="reflection", align_corners=False)


def _turn(angle: Tensor) -> Tensor:
    """Rotations by these angles, shape (B,) to (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
