"""The forward and the reverse process as strips and as frames of an animation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor

from clearwater.chains import Chain
from clearwater.pictures.images import enlarged, grid, to_uint8
from clearwater.sampling import StepState

__all__ = ["columns_of", "forward_frames", "forward_strip", "reverse_frames", "reverse_strip"]


_LONGEST_FRAME = 600  # noise does not compress: a larger animation would be many megabytes
_COLUMNS, _COLUMNS_OF_LARGE, _LARGE = 11, 6, 64  # of a strip, and of one of images that are wider than that


def columns_of(width: int) -> int:
    """How many levels a strip shows of images this wide, if nothing is said."""
    return _COLUMNS if width <= _LARGE else _COLUMNS_OF_LARGE


def _shown(T: int, count: int) -> list[int]:
    """About `count` of the levels 0..T, both ends among them, evenly spread, rising."""
    return sorted({round(i * T / (count - 1)) for i in range(count)}) if count <= T else list(range(T + 1))


def forward_strip(x_0: Tensor, eps: Tensor, chain: Chain, count: int | None = None) -> Image.Image:
    """One row an image, from data on the left to level T on the right. `x_0` and `eps`: (B, C, H, W)."""
    shown = _shown(chain.T, count or columns_of(x_0.shape[-1]))
    columns = [chain.levels[k].noise(x_0, eps) for k in shown]
    return enlarged(grid(to_uint8(torch.stack(columns, 1).flatten(0, 1)), len(columns)), 1200)


def forward_frames(x_0: Tensor, eps: Tensor, chain: Chain, count: int = 48) -> list[Image.Image]:
    """The images sinking into noise."""
    frames = [grid(to_uint8(chain.levels[k].noise(x_0, eps))) for k in _shown(chain.T, count)]
    return [enlarged(frame, _LONGEST_FRAME) for frame in frames]


def _columns(states: Iterable[StepState], T: int, count: int | None, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(x_t, the prediction of x_0 that it was made from), both uint8, for the states to be shown."""
    for state in states:
        if state.k in _shown(T, count or columns_of(state.x.shape[-1])):
            x = state.x[:images]
            # Nothing was predicted yet at level T: show the mean of the data's range.
            x_0 = torch.zeros_like(x) if state.prediction is None else state.prediction.x_0[:images]
            yield to_uint8(x), to_uint8(x_0)


def reverse_strip(states: Iterable[StepState], T: int, count: int | None = None, images: int = 6) -> Image.Image:
    """Two rows an image, from noise on the left to the sample on the right: x_t, and below it x̂_0."""
    pairs = [torch.stack(pair, 1) for pair in _columns(states, T, count, images)]  # (B, 2, C, H, W) each
    return enlarged(grid(torch.stack(pairs, 2).flatten(0, 2), len(pairs)), 1200)


def reverse_frames(states: Iterable[StepState], T: int, count: int = 48, images: int = 16) -> list[Image.Image]:
    """The samples appearing: x_t on the left half of each frame, x̂_0 on the right."""
    frames = []
    for x, x_0 in _columns(states, T, count, images):
        left, right = grid(x), grid(x_0)
        frame = Image.new(left.mode, (left.width + right.width + 6, left.height), "white")
        frame.paste(left, (0, 0))
        frame.paste(right, (left.width + 6, 0))
        frames.append(enlarged(frame, _LONGEST_FRAME))
    return frames
