"""From encoded images to 8 bits a channel at one size, in parallel, block by block."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from clearwater.data.sources import Opener, Source
from clearwater.errors import InputError

__all__ = [
    "Block",
    "Pixels",
    "Shape",
    "block_items",
    "common_size",
    "decode",
    "decoded_blocks",
    "header",
    "none_readable",
    "own_shape",
]

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]  # (C, H, W)

T = TypeVar("T")

# Too many open files, a disk that fails or cannot be reached, no right to read. Others are of the file: Pillow's own
# have no number, and an offset in a damaged one leads to EINVAL.
_OF_SYSTEM = {
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,
    errno.EINTR,
    errno.EACCES,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNRESET,
}
_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that lie on their side
_LARGEST_OWN_SIZE = 64
_DEFAULT_SIZE = (32, 32)

_BLOCK_ITEMS = 1024
_BLOCK_BYTES = 32 * 2**20
_TOGETHER = 8  # images a task of a thread: for small ones a task each costs as much as decoding them


@dataclass(frozen=True)
class Block:
    """Consecutive images of a source, decoded.

    Attributes:
        first: the number of the first.
        items: how many numbers it covers, the broken ones among them.
        images: those that could be read, shape (n, C, H, W).
        skipped: the number of each that could not, and a sentence.
    """

    first: int
    items: int
    images: Pixels
    skipped: tuple[tuple[int, str], ...]


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) that images of these sizes are read at, if nothing else is asked for."""
    shared = set(sizes)
    if len(shared) == 1 and max(sizes[0]) <= _LARGEST_OWN_SIZE:
        return sizes[0]
    return _DEFAULT_SIZE


def header(opener: Opener) -> tuple[tuple[int, int], bool] | None:
    """((height, width) as it will be seen, whether it is grey), without decoding; None if it is broken."""
    try:
        with opener() as image:
            width, height = image.size
            # The orientation can stand behind the pixels, so that finding it decodes them.
            turned = width != height and image.getexif().get(0x0112) in _SIDEWAYS
            return ((width, height) if turned else (height, width)), image.mode in _GREY_MODES
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever Pillow's decoders and metadata readers raise on a damaged file
        if _of_system(error):
            raise
        return None


def decode(opener: Opener, shape: Shape) -> Pixels | str:
    """The image as shape (C, H, W): scaled until it covers the size, cropped at the centre; or why it is broken."""
    channels, height, width = shape
    try:
        with opener() as image:
            seen = _eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(ImageOps.fit(seen, (width, height), Image.Resampling.LANCZOS))
            return pixels.reshape(height, width, channels).transpose(2, 0, 1)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # as above
        if _of_system(error):
            raise
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def _of_system(error: Exception) -> bool:
    """Whether the system could not read a file now, which says nothing of the image: it may be read later."""
    return isinstance(error, OSError) and error.errno in _OF_SYSTEM


def own_shape(source: Source, size: tuple[int, int] | None, channels: int | None) -> Shape:
    """The (C, H, W) that a source is read at where size (height, width) or channels are not given.

    The size of all the images, if they share one of at most 64 × 64, else 32 × 32; grey if all of them are. Broken
    ones have no say. It looks at no more images than it takes to know.
    """
    sizes: list[tuple[int, int]] = []
    colour = False
    openers = source.each() if size is None or channels is None else iter(())
    with ThreadPoolExecutor(os.cpu_count()) as pool, closing(_in_order(pool, _with_header, openers)) as headers:
        for opener, found in headers:
            if found is None:
                continue
            seen, grey = found
            new_size = size is None and len(sizes) < 2 and seen not in sizes
            new_colour = channels is None and not (grey or colour)
            # Only what would change the answer must be known to be whole behind its header.
            if (new_size or new_colour) and not isinstance(decode(opener, (channels or (1 if grey else 3), 1, 1)), str):
                sizes += [seen] if new_size else []
                colour = colour or not grey
            size_is_known = size is not None or len(sizes) > 1 or any(max(one) > _LARGEST_OWN_SIZE for one in sizes)
            if size_is_known and (channels is not None or colour):
                break
    height, width = size or common_size(sizes)
    return channels or (3 if colour else 1), height, width


def block_items(shape: Shape) -> int:
    """How many images of a source make a block: a function of the shape alone, so that a build can be gone on with."""
    return max(1, min(_BLOCK_ITEMS, _BLOCK_BYTES // int(np.prod(shape))))


def decoded_blocks(source: Source, shape: Shape, first: int = 0) -> Iterator[Block]:
    """The images from this number on, in order. What is held in memory does not grow with the source."""
    work = partial(decode, shape=shape)
    with ThreadPoolExecutor(os.cpu_count()) as pool, closing(_in_order(pool, work, source.each(first))) as results:
        for start in range(first, len(source), block_items(shape)):
            items = min(block_items(shape), len(source) - start)
            images = np.empty((items, *shape), np.uint8)
            skipped: list[tuple[int, str]] = []
            for i, result in enumerate(islice(results, items), start):
                if isinstance(result, str):
                    skipped.append((i, f"{source.name(i)}: {result}"))
                else:
                    images[i - start - len(skipped)] = result
            yield Block(start, items, images[: items - len(skipped)], tuple(skipped))


def none_readable(source: Source, skipped: Sequence[tuple[int, str]]) -> InputError:
    """The error where every image is broken."""
    return InputError(
        f"None of the {len(source)} images in '{source.title}' could be read; the first: {skipped[0][1]}."
    )


def _with_header(opener: Opener) -> tuple[Opener, tuple[tuple[int, int], bool] | None]:
    return opener, header(opener)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Opener], T], openers: Iterator[Opener]
) -> Generator[T, None, None]:
    """`work` of each, in their order, a few ahead of what is consumed, so that memory stays bounded."""
    pending: deque[Future[list[T]]] = deque()

    def work_on(some: Sequence[Opener]) -> list[T]:
        return [work(opener) for opener in some]

    try:
        while some := list(islice(openers, _TOGETHER)):
            pending.append(pool.submit(work_on, some))
            if len(pending) > 2 * (os.cpu_count() or 1):
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        for task in pending:
            task.cancel()


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image as L, RGB or another mode that converts to them faithfully; transparency over white."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("its values do not fit 16 bits")
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("it holds floating-point values, whose range is unknown")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        grey = image.mode in _GREY_MODES
        over_white = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return over_white.convert("L" if grey else "RGB")
    return image
