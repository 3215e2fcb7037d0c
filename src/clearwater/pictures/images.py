"""Tensors as Pillow images."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor

__all__ = ["enlarged", "grid", "to_image", "to_uint8"]

_GAP = 2  # pixels between the images of a grid


def to_uint8(x: Tensor) -> Tensor:
    """Values in [-1, 1], those outside clipped, as uint8 on the CPU: the inverse of ``2·pixel/255 - 1``."""
    return ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_image(x: Tensor) -> Image.Image:
    """One uint8 image, shape (C, H, W) with 1 or 3 channels."""
    array = x.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(images: Tensor, columns: int | None = None, gap: int = _GAP) -> Image.Image:
    """uint8 images of shape (N, C, H, W) in rows on white; as square as it goes if `columns` is None."""
    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = images.new_full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return to_image(sheet)


def enlarged(image: Image.Image, longest: int = 800) -> Image.Image:
    """The image by a whole factor, pixels kept square, with no side longer than `longest`."""
    factor = max(1, longest // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
