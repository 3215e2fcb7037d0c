"""Images from a name, a path or a Python object: in memory, in a cache, or decoded when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clearwater.data.arrays import ArraySource, NpySource, tensor_of
from clearwater.data.built_in import BUILT_IN, BuiltInSource, Split
from clearwater.data.cache import cached_images
from clearwater.data.decoding import Shape, common_size, decoded_blocks, header, none_readable, own_shape
from clearwater.data.held_out import part_of, usual
from clearwater.data.image_set import ImageSet, pixel_values
from clearwater.data.kinds import open_source, unseen_split
from clearwater.data.reports import LoadReport
from clearwater.data.sequence import Pictures
from clearwater.data.sources import RandomAccess, Source
from clearwater.data.streamed import StreamedImages
from clearwater.errors import InputError

__all__ = [
    "BUILT_IN",
    "ImageSet",
    "Split",
    "first_size",
    "load_images",
    "pixel_values",
    "stream_images",
    "unseen_split",
]


def load_images(
    source: str | Path | Pictures,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Split = "train",
    held_out: int | None = 0,
    labels: bool = False,
    cache: Path | None = None,
    report: LoadReport | None = None,
) -> ImageSet:
    """The images of `fashion-mini`, or of a source of any kind that `docs/data.md` describes.

    Args:
        source: the built-in name; a path, of a folder of images, of an archive or of a file; a pattern of shards; a
            name on Hugging Face's hub; or Pillow images, with or without the numbers of their classes.
        size: (height, width) to scale and crop to; None for the images' own if they share one of at most
            64 × 64, 32 × 32 otherwise.
        channels: 1 (grey) or 3 (RGB); None for what the images have.
        split: "train", or "held_out": the built-in set has 9,000 and 1,000 images, as many of each
            class; in MNIST's folder t10k-images-idx3-ubyte is held out; of any other as many as `held_out` says.
        held_out: how many are held out of images that have no part for that by themselves, always the same ones; None
            for one in twenty, at most 1,000, of 200 or more.
        labels: whether the images must have classes; the built-in ones always do.
        cache: the folder to keep decoded images in, such as `default_cache()`, and to map them into memory from; None
            to decode into memory. What is an array of this size already is not kept.
        report: is told how it goes.

    Raises:
        InputError: there is nothing to read there, no held-out part, no classes, or too little room for the cache.
    """
    _refuse_settings(size, channels)
    report = report or LoadReport()
    found, held_out = _opened(source, split, held_out)
    digest: str | None = None
    skipped: Sequence[tuple[int, str]] = ()
    if isinstance(found, ArraySource):
        own_channels, *own_size = found.images.shape[1:]
        size, channels = size or common_size([(own_size[0], own_size[1])]), channels or own_channels
    if isinstance(found, ArraySource) and (channels, *(size or ())) == found.images.shape[1:]:
        images = _as_they_are(found)
    elif cache is None or isinstance(found, BuiltInSource):
        images, skipped = _in_memory(found, own_shape(found, size, channels), report)
    else:
        cached = cached_images(found, size, channels, cache, report)
        images, skipped, digest = tensor_of(cached.images), cached.skipped, cached.digest
    kept = np.delete(np.arange(len(found)), [i for i, _ in skipped])
    numbers, classes = found.labels(kept) if labels or isinstance(found, BuiltInSource) else (None, ())
    all_of_them = ImageSet(
        images, numbers, classes, tuple(sentence for _, sentence in skipped), digest, held_out=held_out
    )
    if held_out is None or (held_out == 0 and split == "train"):
        return all_of_them
    return all_of_them.part(part_of(kept, len(found), held_out, split, found.title))


def first_size(source: str | Path | Pictures) -> tuple[int, int]:
    """The (height, width) of the first image that can be read.

    Raises:
        InputError: there is none.
    """
    found = open_source(source)
    if isinstance(found, ArraySource):
        height, width = found.images.shape[2:]
        return height, width
    for opener in found.each():
        seen = header(opener)
        if seen is not None:
            return seen[0]
    raise InputError(f"No image of '{found.title}' can be read.")


def stream_images(
    source: str | Path | Pictures,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    split: Split = "train",
    held_out: int | None = 0,
    labels: bool = False,
) -> ImageSet | StreamedImages:
    """The images of a part, decoded when they are needed: neither the memory nor the disk holds them all.

    Arguments as in `load_images`. What is an array of this size already is as `load_images` gives it.

    Raises:
        InputError: there is nothing to read there, or not in any order; there are no classes.
    """
    _refuse_settings(size, channels)
    found, held_out = _opened(source, split, held_out)
    if isinstance(found, ArraySource):
        return load_images(source, size=size, channels=channels, split=split, held_out=held_out, labels=labels)
    if not isinstance(found, RandomAccess):
        raise InputError(
            f"'{found.title}' can only be read from its beginning to its end, and not image by image: leave out "
            "--no-cache, so that its images are decoded once."
        )
    everything = np.arange(len(found))
    of_labels = found.labels(everything) if labels else None
    rows = None
    if held_out is not None and (held_out > 0 or split == "held_out"):
        rows = part_of(everything, len(found), held_out, split, found.title)
    return StreamedImages(found, own_shape(found, size, channels), of_labels, rows, held_out=held_out)


def _opened(source: str | Path | Pictures, split: Split, held_out: int | None) -> tuple[Source, int | None]:
    """The source, and how many of its images are held out; None where they are a source of their own."""
    if unseen_split(source) == "held_out":
        if held_out:
            raise InputError(
                f"'{source}' has a held-out part of its own, so no other of its images are held out: leave "
                "data.held_out out, or set it to 0."
            )
        return open_source(source, split), None
    found = open_source(source, split if held_out == 0 else "train")
    return found, usual(len(found)) if held_out is None else held_out


def _refuse_settings(size: tuple[int, int] | None, channels: int | None) -> None:
    if channels not in (None, 1, 3):
        raise InputError(f"Images are read with 1 channel (grey) or 3 (RGB), not {channels}.")
    if size is not None and min(size) < 1:
        raise InputError(f"An image size is two whole numbers above zero, not {size[0]} × {size[1]}.")


def _in_memory(source: Source, shape: Shape, report: LoadReport) -> tuple[Tensor, Sequence[tuple[int, str]]]:
    images = torch.empty((len(source), *shape), dtype=torch.uint8)
    skipped: list[tuple[int, str]] = []
    n = 0
    for block in decoded_blocks(source, shape):
        images[n : n + len(block.images)] = torch.from_numpy(block.images)
        n += len(block.images)
        skipped += block.skipped
        report.progress((block.first + block.items) / len(source))
    if not n:
        raise none_readable(source, skipped)
    return images[:n], skipped


def _as_they_are(source: ArraySource) -> Tensor:
    # Copied, unless they are mapped from a file: in memory they may be written to, and lie one after another.
    return tensor_of(source.images if isinstance(source, NpySource) else np.array(source.images, order="C"))
