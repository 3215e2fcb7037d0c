"""IDX, the format of MNIST and its kin: a magic number, the shape, and the bytes; often gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clearwater.errors import InputError

__all__ = ["idx_part", "is_idx", "read_idx_images", "read_idx_labels"]

_BYTES = 0x08  # the magic number's third byte: unsigned 8-bit values
_PARTS = {"train": "train-images-idx3-ubyte", "held_out": "t10k-images-idx3-ubyte"}


def idx_part(folder: Path, split: str) -> Path | None:
    """The images of this part, "train" or "held_out", in a folder that is laid out as MNIST is; None if it is not."""
    found = [folder / f"{_PARTS[split]}{ending}" for ending in ("", ".gz")]
    return next((path for path in found if path.is_file()), None)


def is_idx(path: Path) -> bool:
    """Whether the file's name says that it is one of images."""
    return path.name.removesuffix(".gz").endswith(("-idx3-ubyte", ".idx3-ubyte", "-idx4-ubyte", ".idx4-ubyte", ".idx"))


def read_idx_images(path: Path) -> npt.NDArray[np.uint8]:
    """Grey images of 3 axes or coloured ones of 4, channels last, as shape (N, H, W, C).

    Raises:
        InputError: the file is not IDX, is cut short, or does not hold 8-bit images.
    """
    images = _read(path)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(f"'{path}' holds no images: an IDX file of shape (N, H, W) or (N, H, W, 3) is needed.")
    return images


def read_idx_labels(images: Path, n: int) -> npt.NDArray[np.uint8]:
    """The labels that lie beside a file of `n` images, by the name that MNIST gives them.

    Raises:
        InputError: there are none, or not one an image.
    """
    name = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    plain = name.removesuffix(".gz")
    found = [path for path in (images.with_name(plain), images.with_name(plain + ".gz")) if path.is_file()]
    if not found or found[0] == images:
        raise InputError(f"There are no labels beside '{images}': put '{name}' there, or train without --labels.")
    labels = _read(found[0])
    if labels.shape != (n,):
        raise InputError(
            f"'{found[0]}' holds labels of shape {labels.shape}, but there are {n:,} images: give each one number."
        )
    return labels


def _read(path: Path) -> npt.NDArray[np.uint8]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zero, kind, axes = struct.unpack_from(">HBB", content)
        if zero != 0 or kind != _BYTES:
            raise ValueError("it does not begin as an IDX file of 8-bit values does")
        shape = struct.unpack_from(f">{axes}I", content, 4)
        first = 4 + 4 * axes
        if len(content) - first != math.prod(shape):
            raise ValueError(
                f"it has {len(content) - first:,} bytes of values where {math.prod(shape):,} are announced"
            )
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"'{path}' cannot be read as IDX: {error}.") from None
    return np.frombuffer(content, np.uint8, offset=first).reshape(shape)
