"""The last step of the reverse process, which ends in 8-bit images: values 2·pixel/255 - 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from clearwater.gaussians import Gaussian

__all__ = ["Decoder", "DensityDecoder", "DiscretizedDecoder"]

_HALF_BIN = 1 / 255


class Decoder(ABC):
    """log p(x_0 | x_1) of 8-bit data."""

    @abstractmethod
    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        """Per element, in nats, shape of `x_0`, whose values are on the grid 2·pixel/255 - 1."""


class DiscretizedDecoder(Decoder):
    """The mass of the Gaussian on the pixel's bin, the two end bins open (Ho et al. 2020, eq. 13)."""

    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        deviation = reverse.variance.sqrt()
        upper = (x_0 + _HALF_BIN - reverse.mean) / deviation
        lower = (x_0 - _HALF_BIN - reverse.mean) / deviation
        # Reflected, where need be, into the lower tail: there log Φ keeps its digits however far out.
        flip = upper + lower > 0
        high = torch.where(flip, -lower, upper)
        low = torch.where(flip, -upper, lower)
        log_high = torch.special.log_ndtr(high)
        inside = log_high + (-torch.expm1(torch.special.log_ndtr(low) - log_high)).log()
        open_below, open_above = x_0 < -1 + _HALF_BIN, x_0 > 1 - _HALF_BIN
        ends = torch.where(open_below, torch.special.log_ndtr(upper), torch.special.log_ndtr(-lower))
        return torch.where(open_below | open_above, ends, inside)


class DensityDecoder(Decoder):
    """The density times the bin's width, 2/255: what the discretized decoder tends to for small bins."""

    def __call__(self, x_0: Tensor, reverse: Gaussian) -> Tensor:
        return reverse.log_prob(x_0) + math.log(2 * _HALF_BIN)
