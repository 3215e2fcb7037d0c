"""Batches of an image set, as a function of the step."""

from __future__ import annotations

import torch
from torch import Tensor

from clearwater.data.images import ImageSet
from clearwater.errors import InputError
from clearwater.randomness import generator

__all__ = ["Batches"]


class Batches:
    """Batch n of endless epochs, each in an order of its own; values in [-1, 1].

    A batch depends on the seed and n alone, so training resumes anywhere. An epoch's last batch is
    filled up with the first images of the next.

    Args:
        data: the images; they move to the device once, as uint8.
        batch: images a batch; more than there are is allowed.
        seed: the seed of the orders and of the flips.
        flip: mirror each image left to right with probability ½.
    """

    def __init__(self, data: ImageSet, batch: int, *, seed: int, flip: bool, device: torch.device | str) -> None:
        if batch < 1:
            raise InputError(f"A batch has at least one image, not {batch}.")
        self._images = data.images.to(device)
        self._labels = data.labels
        self._batch, self._seed, self._flip = batch, seed, flip
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int, rows: range | None = None) -> Tensor:
        """The batch of this step, or these rows of it, float32, shape (B, C, H, W)."""
        rows = range(self._batch) if rows is None else rows
        x = self._images[self._index(step)[rows.start : rows.stop].to(self._images.device, non_blocking=True)]
        if self._flip:
            mirrored = torch.rand(self._batch, generator=generator(self._seed, "flip", step)) < 0.5
            mirrored = mirrored[rows.start : rows.stop].to(x.device, non_blocking=True)
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x.to(torch.float32).div_(127.5).sub_(1)

    def labels(self, step: int) -> Tensor:
        """The classes of the batch of this step, int64, shape (B,), on the CPU."""
        assert self._labels is not None
        return self._labels[self._index(step)]

    def _index(self, step: int) -> Tensor:
        first, last = step * self._batch, (step + 1) * self._batch
        n = len(self._images)
        parts = []
        for epoch in range(first // n, (last - 1) // n + 1):
            start, stop = max(first - epoch * n, 0), min(last - epoch * n, n)
            parts.append(self._order_of(epoch)[start:stop])
        return torch.cat(parts)

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._order = torch.randperm(len(self._images), generator=generator(self._seed, "order", epoch))
            self._epoch = epoch
        return self._order
