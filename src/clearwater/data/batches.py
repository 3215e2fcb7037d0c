"""Batches of images, as a function of the step."""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from clearwater.data.image_set import ImageSet
from clearwater.data.order import permuted
from clearwater.errors import InputError
from clearwater.randomness import derived_seed, generator

__all__ = ["Batches", "Images"]

_LISTED = 2**24  # images whose order is a list in memory; of more it is computed, image by image
_AT_ONCE = 4096  # images that are moved to a GPU
_SHARE_OF_GPU = 0.25  # of its memory that images may take; beyond that they come from the processor's, batch by batch


class Images(Protocol):
    """Images by number: an `ImageSet`, or `StreamedImages`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""

    @property
    def labels(self) -> Tensor | None:
        """The number of each image's class, int64, shape (N,), or None."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, index: Tensor) -> Tensor:
        """The images of these numbers: uint8, shape (B, C, H, W), on the CPU."""

    def digest(self, *, labels: bool = False) -> str:
        """A hash by which a run knows its data again."""


class Batches:
    """Batch n of endless epochs, each in an order of its own; values in [-1, 1].

    A batch depends on the seed and n alone, so training resumes anywhere. An epoch's last batch is
    filled up with the first images of the next. Images that must be decoded or copied to a GPU first are fetched while
    the step before is made.

    Args:
        data: the images; those that fit move to the device once, as uint8.
        batch: images a batch; more than there are is allowed.
        seed: the seed of the orders and of the flips.
        flip: mirror each image left to right with probability ½.
    """

    def __init__(self, data: Images, batch: int, *, seed: int, flip: bool, device: torch.device | str) -> None:
        if batch < 1:
            raise InputError(f"A batch has at least one image, not {batch}.")
        self._data, self._device = data, torch.device(device)
        self._batch, self._seed, self._flip = batch, seed, flip
        self._there = _moved(data, self._device) if isinstance(data, ImageSet) and _fits(data, self._device) else None
        at_once = isinstance(data, ImageSet) and self._device.type == "cpu"
        self._ahead = None if at_once or self._there is not None else ThreadPoolExecutor(1)
        self._fetched: dict[tuple[int, int], Future[Tensor]] = {}
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int, rows: range | None = None) -> Tensor:
        """The batch of this step, or these rows of it, float32, shape (B, C, H, W)."""
        rows = range(self._batch) if rows is None else rows
        x = self._pixels(step, rows)
        if self._flip:
            mirrored = torch.rand(self._batch, generator=generator(self._seed, "flip", step)) < 0.5
            mirrored = mirrored[rows.start : rows.stop].to(x.device, non_blocking=True)
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        return x.to(torch.float32).div_(127.5).sub_(1)

    def numbers(self, step: int, rows: range) -> list[int]:
        """Which of the images these rows of the batch of this step are."""
        found: list[int] = self._index(step)[rows.start : rows.stop].tolist()
        return found

    def labels(self, step: int) -> Tensor:
        """The classes of the batch of this step, int64, shape (B,), on the CPU."""
        assert self._data.labels is not None
        return self._data.labels[self._index(step)]

    def _pixels(self, step: int, rows: range) -> Tensor:
        """uint8, on the device."""
        index = self._index(step)[rows.start : rows.stop]
        if self._there is not None:
            return self._there.index_select(0, index.to(self._device, non_blocking=True))
        if self._ahead is None:
            return self._data.take(index)
        fetched = self._fetched.pop((step, rows.start), None)
        x = self._fetch(index) if fetched is None else fetched.result()
        following = self._index(step + 1)[rows.start : rows.stop]
        self._fetched = {key: future for key, future in self._fetched.items() if key[0] >= step}
        self._fetched[step + 1, rows.start] = self._ahead.submit(self._fetch, following)
        return x.to(self._device, non_blocking=True)

    def _fetch(self, index: Tensor) -> Tensor:
        x = self._data.take(index)
        return x.pin_memory() if self._device.type == "cuda" else x

    def _index(self, step: int) -> Tensor:
        first, last = step * self._batch, (step + 1) * self._batch
        n = len(self._data)
        parts = []
        for epoch in range(first // n, (last - 1) // n + 1):
            start, stop = max(first - epoch * n, 0), min(last - epoch * n, n)
            if n > _LISTED:
                parts.append(permuted(torch.arange(start, stop), n, derived_seed(self._seed, "order", epoch)))
            else:
                parts.append(self._order_of(epoch)[start:stop])
        return torch.cat(parts)

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            self._order = torch.randperm(len(self._data), generator=generator(self._seed, "order", epoch))
            self._epoch = epoch
        return self._order


def _moved(data: ImageSet, device: torch.device) -> Tensor:
    """All images on a device, with no second copy of them beside those in memory."""
    there = torch.empty((len(data), *data.shape), dtype=torch.uint8, device=device)
    for first in range(0, len(data), _AT_ONCE):
        index = torch.arange(first, min(first + _AT_ONCE, len(data)))
        there[first : first + len(index)] = data.take(index).to(device)
    return there


def _fits(data: ImageSet, device: torch.device) -> bool:
    """Whether the images may lie on a GPU for the whole run."""
    if device.type != "cuda":
        return device.type != "cpu"
    return len(data) * math.prod(data.shape) < _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[1]
