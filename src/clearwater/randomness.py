"""Random numbers that are a function of a seed and of what they are for.

Nothing draws from a stream whose state must be kept: step n of training, or image i of a sample, has
numbers of its own, so that an interrupted run goes on with the same bits and an image does not depend
on the batch it was made in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = [
    "ImageNoise",
    "KnownNoise",
    "Randomness",
    "RowStreams",
    "derived_seed",
    "generator",
    "normal_like",
    "uniform",
]

_BLOCK = 16


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for this purpose, such as ("image", 7): a hash, so different purposes have unrelated streams."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for this seed and purpose."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *purpose))


class RowStreams:
    """Random numbers for some rows of a batch: a row has the same ones in whatever part of the batch it is.

    So a batch that is divided among processes, or done in parts, is trained on the same noise as in one piece. Rows
    are drawn in blocks of 16 that have a stream each: a stream a row would cost more than the numbers.

    Args:
        seed: of the batch.
        rows: which of its rows.
    """

    def __init__(self, seed: int, rows: range) -> None:
        self._seed, self._rows = seed, rows
        self._draws = 0

    def normal(self, like: Tensor) -> Tensor:
        """The rows' next normal numbers, of the shape, dtype and device of `like`."""

        def block(of_block: torch.Generator) -> Tensor:
            return torch.randn(_BLOCK, *like.shape[1:], generator=of_block, device=like.device, dtype=like.dtype)

        return self._drawn(block, like.device)

    def uniform(self) -> Tensor:
        """One number in [0, 1) for each row, float64, shape (B,), on the CPU."""

        def block(of_block: torch.Generator) -> Tensor:
            return torch.rand(_BLOCK, generator=of_block, dtype=torch.float64)

        return self._drawn(block, torch.device("cpu"))

    def _drawn(self, block: Callable[[torch.Generator], Tensor], device: torch.device) -> Tensor:
        first, last = self._rows.start // _BLOCK, (self._rows.stop - 1) // _BLOCK
        blocks = [block(generator(self._seed, self._draws, i, device=device)) for i in range(first, last + 1)]
        self._draws += 1
        start = self._rows.start - first * _BLOCK
        return torch.cat(blocks)[start : start + len(self._rows)]


class KnownNoise(RowStreams):
    """The numbers of the rows of a batch, of which the first are those that its images were once made of.

    Args:
        images: the seed of the images, and the number of each row's.
        seed: of all further numbers.
        rows: which rows of the batch.
    """

    def __init__(self, images: tuple[int, Sequence[int]], seed: int, rows: range) -> None:
        super().__init__(seed, rows)
        self._images: tuple[int, Sequence[int]] | None = images

    def normal(self, like: Tensor) -> Tensor:
        """The noise of the images at first, then as `RowStreams`."""
        if self._images is None:
            return super().normal(like)
        (seed, numbers), self._images = self._images, None
        return ImageNoise(seed, numbers, like.shape[1:], like.device)().to(like.dtype)


Randomness = torch.Generator | RowStreams
"""Where a batch's random numbers come from: a CPU generator, or the streams of its rows."""


def normal_like(x: Tensor, source: Randomness) -> Tensor:
    """Standard normal noise like `x`, drawn where that is; of a generator, from a seed that it gives."""
    if isinstance(source, RowStreams):
        return source.normal(x)
    seed = int(torch.randint(2**62, (), generator=source))
    on_device = torch.Generator(x.device).manual_seed(seed)
    return torch.randn(x.shape, generator=on_device, device=x.device, dtype=x.dtype)


def uniform(n: int, source: Randomness) -> Tensor:
    """`n` numbers in [0, 1), float64, on the CPU: one for each row."""
    return source.uniform() if isinstance(source, RowStreams) else torch.rand(n, generator=source, dtype=torch.float64)


class ImageNoise:
    """Standard normal noise with one stream per image, drawn on the CPU.

    Image i gets the same noise whatever images it is made beside and on whatever device.

    Args:
        seed: the seed of the whole sample.
        indices: the numbers of the images, one per row of the batch.
        shape: the shape of one image.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device | str) -> None:
        self._generators = [generator(seed, "image", index) for index in indices]
        self._shape = tuple(shape)
        self._device = torch.device(device)

    def __call__(self) -> Tensor:
        """The next noise, shape (B, *shape), float32."""
        # Pinned, so that the copy to a GPU waits for nothing.
        noise = torch.empty(len(self._generators), *self._shape, pin_memory=self._device.type == "cuda")
        for row, of_image in zip(noise, self._generators, strict=True):
            row.normal_(generator=of_image)
        return noise.to(self._device, non_blocking=True)
