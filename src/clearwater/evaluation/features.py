"""What an extractor sees in a whole set of images: in bounded memory, kept on disk, and shared among processes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from clearwater.data.batches import Images
from clearwater.errors import ClearwaterError, InputError
from clearwater.evaluation.extractors import Extractor, Seen, key_of
from clearwater.evaluation.feature_cache import FeatureEntry, RowWriter
from clearwater.world import World

__all__ = ["features_of"]


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)


def features_of(
    images: Images,
    extractor: Extractor,
    *,
    rows: Tensor | None = None,
    cache: Path | None = None,
    world: World | None = None,
    report: Callable[[float], None] | None = None,
    warn: Callable[[str], None] = _warn,
) -> Seen:
    """What an extractor sees in images, each by itself, in the order of the images or of `rows`.

    What was interrupted goes on after the last batch that was finished, if there is a cache.

    Args:
        images: the images, in memory or not: a batch of them is taken at once.
        extractor: what sees them.
        rows: the numbers of those to see, int64, shape (N,); None for all.
        cache: the folder to keep it in and to map it from, such as `default_cache() / "features"`, keyed by the
            content of the images and the extractor's key; None to hold it in memory and keep nothing.
        world: the processes that share the work; each gets all of the result.
        report: is told the fraction done.
        warn: is told, in a sentence, that what was kept is damaged and is made again.

    Returns:
        Float32, shapes (N, D) and (N, K) or None; mapped from a file that cannot be written to if there is a cache.

    Raises:
        InputError: there are no images, the extractor cannot see them, or the cache has no room.
    """
    world = world or World()
    index = torch.arange(len(images)) if rows is None else rows.cpu()
    if len(index) == 0:
        raise InputError("There are no images here, so there is nothing to measure.")
    shape = len(index), extractor.dimensions + extractor.classes
    entry, found = None, None
    if cache is not None:
        chosen = "all" if rows is None else key_of("rows", {"rows": index})
        key = key_of((images.digest(), chosen, extractor.key))
        entry = FeatureEntry(cache / key, key, *shape)
        found = entry.opened()
        if isinstance(found, str):
            warn(f"The features kept in '{cache / key}' cannot be used, for {found}: they are made again.")
    # All have to do the same: if one has not found it, on a machine with a disk of its own, say, none has.
    everywhere = int(world.sum(torch.tensor(int(isinstance(found, Tensor)))))
    if everywhere < world.size:
        found = _made(images, extractor, index, entry, world, report)
    assert isinstance(found, Tensor)
    if report is not None:
        report(1.0)
    D = extractor.dimensions
    return Seen(found[:, :D], found[:, D:] if extractor.classes else None)


def _made(
    images: Images,
    extractor: Extractor,
    index: Tensor,
    entry: FeatureEntry | None,
    world: World,
    report: Callable[[float], None] | None,
) -> Tensor:
    """A row for each image: its features and its probabilities; each process sees a part of every round."""
    n, width, batch = len(index), extractor.dimensions + extractor.classes, extractor.batch
    held = torch.empty(n, width) if entry is None else None
    # Of the processes of one machine, which share its disk, the first writes.
    writes = world.size == 1 or os.environ.get("LOCAL_RANK", "0") == "0"
    with entry.writer() if entry is not None and writes else nullcontext() as writer:
        start = 0 if entry is None else _start(writer, n, world)
        for first in range(start, n, world.size * batch):
            mine = index[first + world.rank * batch : first + (world.rank + 1) * batch]
            block = world.joined(_rows(images, extractor, mine) if len(mine) else torch.empty(0, width))
            if held is not None:
                held[first : first + len(block)] = block
            if writer is not None:
                writer.append(block)
            if report is not None:
                report((first + len(block)) / n)
        if entry is not None and writer is not None:
            held = entry.completed(writer)
    world.wait()
    found = held if entry is None or held is not None else entry.opened()
    if not isinstance(found, Tensor):
        raise ClearwaterError("Features that another process of this machine has kept are not there: see to the disk.")
    return found


def _start(writer: RowWriter | None, n: int, world: World) -> int:
    """The rows that every process that writes has already, which are then all that each has."""
    start = n
    while True:
        if writer is not None:
            writer.back_to(start)
        least = int(world.joined(torch.tensor([n if writer is None else writer.done])).min())
        if least == start:
            return start
        start = least


def _rows(images: Images, extractor: Extractor, index: Tensor) -> Tensor:
    seen = extractor(images.take(index))
    return seen.features if seen.probabilities is None else torch.cat([seen.features, seen.probabilities], 1)
