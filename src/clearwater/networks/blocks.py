"""The parts of the U-Net of Ho et al. 2020 (appendix B)."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearwater.errors import InputError

__all__ = [
    "Attention",
    "Downsample",
    "Dropout",
    "ResidualBlock",
    "TimeEmbedding",
    "Upsample",
    "normalization",
    "zeroed",
]


_PIXELS_WHOLE = 512  # for which the weights of attention, a number a pair of pixels, are held in memory


def normalization(channels: int, group_size: int | None) -> nn.GroupNorm:
    """Group normalisation, eps 1e-6, with groups of `group_size` channels.

    None means 32 groups, as in the paper. Where the channels cannot be divided so, the number of groups
    is the largest common divisor of it and the channels. A group has at least two channels: the embedding adds one
    number to each, which the normalisation of a channel alone would take away.

    Raises:
        InputError: groups of one channel are asked for.
    """
    if group_size is not None and group_size < 2:
        raise InputError(
            f"Groups of {group_size} channel would make the network blind to the level: give group_size 2 or more."
        )
    groups = math.gcd(32 if group_size is None else max(1, channels // group_size), channels)
    return nn.GroupNorm(channels // 2 if groups == channels > 1 else groups, channels, eps=1e-6)


Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def zeroed(module: Layer) -> Layer:
    """The same module with weights of zero: a residual branch that starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class TimeEmbedding(nn.Module):
    """Sines and cosines of ``1000 · time`` (Vaswani et al. 2017), then two layers. (B,) to (B, features)."""

    frequencies: Tensor

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        half = channels // 2
        exponent = torch.arange(half, dtype=torch.float64) / max(half - 1, 1)
        # Ho's levels are whole numbers up to 1000; time runs to 1.
        frequencies = 1000 * torch.exp(-math.log(10000) * exponent)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.layer_1 = nn.Linear(2 * half, features)
        self.layer_2 = nn.Linear(features, features)

    def forward(self, time: Tensor) -> Tensor:
        angle = time[:, None] * self.frequencies
        embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
        out: Tensor = self.layer_2(F.silu(self.layer_1(embedding.to(self.layer_1.weight.dtype))))
        return out


class Dropout(nn.Module):
    """Dropout whose mask costs a quarter of the random numbers.

    On a processor torch draws one 64-bit number an element, which is 7% of a training step of the
    CIFAR-10 network; 16 bits are enough. The rate is `rate` rounded to a multiple of 2⁻¹⁶, and the
    scale is that of the rounded rate, so the mean is kept.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise InputError(f"A dropout rate lies from 0 to below 1, not {rate}.")
        self.threshold = min(round(rate * 2**16), 2**16 - 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.threshold:
            return x
        bits = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64, device=x.device)
        bits.random_(-(2**63), None)
        kept = bits.view(torch.int16)[: x.numel()] >= self.threshold - 2**15
        # The mask has the memory layout of x; the bits have no order, so they are taken as they lie.
        mask = torch.empty_like(x)
        mask.copy_(kept.as_strided(mask.shape, mask.stride()))
        return x * mask.mul_(2**16 / (2**16 - self.threshold))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the embedding is added between, dropout stands before the second."""

    def __init__(self, inputs: int, outputs: int, features: int, dropout: float, group_size: int | None) -> None:
        super().__init__()
        self.norm_1 = normalization(inputs, group_size)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(features, outputs)
        self.norm_2 = normalization(outputs, group_size)
        self.dropout = Dropout(dropout)
        self.conv_2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        h = h + self.embed(embedding)[:, :, None, None]
        h = self.conv_2(self.dropout(F.silu(self.norm_2(h))))
        out: Tensor = self.skip(x) + h
        return out


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of shape (B, heads, pixels, channels)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[-2] <= _PIXELS_WHOLE:
        # On processors torch's kernel takes three to five times as long as products of whole matrices in bf16.
        with torch.autocast("cpu", enabled=False):
            weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1)
            return weights @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention over the pixels, added to its input. (B, C, H, W) to the same."""

    def __init__(self, channels: int, heads: int, group_size: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = normalization(channels, group_size)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        # One row a pixel: in channels-last memory that copies nothing, and elsewhere one copy here
        # spares torch's linear layer its slow path for strided input.
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(B * H * W, C)
        q, k, v = self.qkv(pixels).reshape(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        h = _attend(q, k, v).transpose(1, 2).reshape(B * H * W, C)
        out: Tensor = self.out(h)
        return x + out.reshape(B, H, W, C).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """A convolution of stride 2 that halves height and width; padded below and on the right, as in the paper's code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest neighbours to twice the size, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
