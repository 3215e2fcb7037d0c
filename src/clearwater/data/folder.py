"""Folders of images of any kind: every file becomes 8 bits a channel at one size, or is named and left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["common_size", "fit", "image_size", "read_folder", "read_image"]

_EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"}
_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_LARGEST_OWN_SIZE = 64
_DEFAULT_SIZE = (32, 32)


def read_folder(
    folder: Path, size: tuple[int, int] | None, channels: int | None
) -> tuple[npt.NDArray[np.uint8], list[Path], tuple[str, ...]]:
    """Every image below `folder`, in the order of their paths.

    Returns:
        The images, shape (N, H, W, C), their paths, and a sentence for each file that could not be read.

    Raises:
        InputError: no image could be read.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _EXTENSIONS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise InputError(
            f"There is no image in '{folder}' or the folders in it: give a folder with files that end in "
            f"{', '.join(sorted(_EXTENSIONS))}."
        )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = dict(zip(paths, pool.map(_header, paths), strict=True))
        while True:
            known = [header for header in headers.values() if header is not None]
            height_width = size or common_size([of_file for of_file, _ in known])
            depth = channels or (1 if all(grey for _, grey in known) else 3)
            results = list(pool.map(partial(_read, height_width, "L" if depth == 1 else "RGB"), paths))
            broken = [path for path, result in zip(paths, results, strict=True) if isinstance(result, str)]
            if all(headers[path] is None for path in broken):
                break
            # Files with a good header and a broken body have no say in the size and the channels.
            headers.update(dict.fromkeys(broken))
    skipped = tuple(result for result in results if isinstance(result, str))
    images = [result for result in results if not isinstance(result, str)]
    if not images:
        raise InputError(f"None of the {len(paths)} images in '{folder}' could be read; the first: {skipped[0]}.")
    kept = [path for path, result in zip(paths, results, strict=True) if not isinstance(result, str)]
    return np.stack(images).reshape(len(images), *height_width, depth), kept, skipped


def read_image(path: Path, size: tuple[int, int], channels: int) -> Tensor:
    """One image, as `read_folder` would have it: uint8, shape (C, H, W).

    Raises:
        InputError: it cannot be read.
    """
    found = _read(size, "L" if channels == 1 else "RGB", path)
    if isinstance(found, str):
        raise InputError(f"The image cannot be read: {found}.")
    return torch.from_numpy(found.reshape(*size, channels).copy()).permute(2, 0, 1)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is seen.

    Raises:
        InputError: it cannot be read.
    """
    header = _header(path)
    if header is None:
        raise InputError(f"The image '{path}' cannot be read.")
    return header[0]


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled, antialiased, until it covers (height, width), and cropped to it at the centre."""
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)


def _header(path: Path) -> tuple[tuple[int, int], bool] | None:
    """((height, width) as it will be seen, whether it is grey), without decoding; None if it is broken."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112) in (5, 6, 7, 8)  # EXIF orientations that lie on their side
            return ((width, height) if turned else (height, width)), image.mode in _GREY_MODES
    except Exception:  # whatever Pillow's decoders and metadata readers raise on a damaged file
        return None


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) that images of these sizes are read at, if nothing else is asked for."""
    shared = set(sizes)
    if len(shared) == 1 and max(sizes[0]) <= _LARGEST_OWN_SIZE:
        return sizes[0]
    return _DEFAULT_SIZE


def _read(size: tuple[int, int], mode: str, path: Path) -> npt.NDArray[np.uint8] | str:
    try:
        with Image.open(path) as image:
            return np.asarray(fit(_eight_bits(ImageOps.exif_transpose(image)).convert(mode), size))
    except Exception as error:  # as above
        return f"{path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"


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
