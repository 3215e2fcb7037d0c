"""Random numbers that are a function of a seed and of what they are for.

Nothing draws from a stream whose state must be kept: step n of training, or image i of a sample, has
numbers of its own, so that an interrupted run goes on with the same bits and an image does not depend
on the batch it was made in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ImageNoise", "derived_seed", "generator"]


def derived_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for this purpose, such as ("image", 7): a hash, so different purposes have unrelated streams."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for this seed and purpose."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *purpose))


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
