"""The last step of the reverse process, which ends in 8-bit images: values 2·pixel/255 - 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from clearwater.gaussians import Gaussian

__all__ = ["HALF_BIN", "Decoder", "DensityDecoder", "DiscretizedDecoder"]

HALF_BIN = 1 / 255  # of the grid 2·pixel/255 - 1


class Decoder(ABC):
    """log p(x_0 | x_1) of 8-bit data."""

    @abstractmethod
    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        """Per element, in nats, shape of `x_0`, whose values are on the grid 2·pixel/255 - 1."""


class _LogNdtr(torch.autograd.Function):
    """log Φ, whose derivative keeps its digits in the tail: torch's own subtracts two numbers of the size of z²."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        values: Tensor = torch.special.log_ndtr(z)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        slope: Tensor = math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))
        return gradient * slope


def _log_ndtr(z: Tensor) -> Tensor:
    values: Tensor = _LogNdtr.apply(z)  # type: ignore[no-untyped-call]
    return values


class DiscretizedDecoder(Decoder):
    """The mass of the Gaussian on the pixel's bin, the two end bins open (Ho et al. 2020, eq. 13)."""

    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        deviation = reverse.variance.sqrt()
        upper = (x_0 + HALF_BIN - reverse.mean) / deviation
        lower = (x_0 - HALF_BIN - reverse.mean) / deviation
        # Reflected, where need be, into the lower tail: there log Φ keeps its digits however far out.
        flip = upper + lower > 0
        high = torch.where(flip, -lower, upper)
        low = torch.where(flip, -upper, lower)
        log_high = _log_ndtr(high)
        inside = log_high + (-torch.expm1(_log_ndtr(low) - log_high)).log()
        open_below, open_above = x_0 < -1 + HALF_BIN, x_0 > 1 - HALF_BIN
        ends = torch.where(open_below, _log_ndtr(upper), _log_ndtr(-lower))
        return torch.where(open_below | open_above, ends, inside)


class DensityDecoder(Decoder):
    """The density times the bin's width, 2/255: what the discretized decoder tends to for small bins."""

    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        return reverse.log_prob(x_0) + math.log(2 * HALF_BIN)
