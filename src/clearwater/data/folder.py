"""Folders of images, and images in files of their own."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from clearwater.data.decoding import decode, header
from clearwater.data.labels import labels_of_paths
from clearwater.data.names import is_image, sort_key
from clearwater.data.sources import Labels, Numbers, RandomAccess, hash_of
from clearwater.errors import InputError

__all__ = ["FolderSource", "image_size", "read_image"]

_SAMPLES = "samples.json"  # what `clearwater sample` says of a sample, in its folder


class FolderSource(RandomAccess):
    """Every image below a folder, in the order of their paths; none in hidden folders or behind links to folders.

    It keeps a path and a few numbers a file, about 150 bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.title, self.place = str(folder), str(folder.resolve())
        found = sorted(_image_files(self.title), key=lambda file: sort_key(file[0]))
        self._paths = [path for path, _, _ in found]
        self._fingerprint = hash_of(f"{path} {size} {changed}" for path, size, changed in found)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return str(Path(self.title, self._paths[i]))

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        return Image.open(Path(self.title, self._paths[i]))

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`; from a list in the folder, or from the folders in it."""
        return labels_of_paths(self.title, [self._paths[i] for i in kept.tolist()], self._read)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of each file's path below the folder, size and time of change."""
        return self._fingerprint

    def _read(self, name: str) -> bytes | None:
        path = Path(self.title, name)
        return path.read_bytes() if path.is_file() else None


def read_image(path: Path, size: tuple[int, int], channels: int) -> Tensor:
    """One image, as a folder's are read: uint8, shape (C, H, W), of this (height, width).

    Raises:
        InputError: it cannot be read.
    """
    found = decode(lambda: Image.open(path), (channels, *size))
    if isinstance(found, str):
        raise InputError(f"The image cannot be read: {path}: {found}.")
    return torch.from_numpy(found.copy())


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image as it is seen.

    Raises:
        InputError: it cannot be read.
    """
    found = header(lambda: Image.open(path))
    if found is None:
        raise InputError(f"The image '{path}' cannot be read.")
    return found[0]


def _overviews(folder: Path) -> Sequence[str]:
    """The pictures in a folder of samples that are made of samples, such as grid.png."""
    try:
        said = json.loads((folder / _SAMPLES).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):  # of something else
        return ()
    return said if isinstance(said, list) else ()


def _image_files(folder: str) -> Iterator[tuple[str, int, int]]:
    """(path below the folder with slashes, bytes, time of change in ns) of each image file, in no order."""
    for above, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        overviews = _overviews(Path(above)) if _SAMPLES in files else ()
        below = os.path.relpath(above, folder).replace(os.sep, "/")
        for name in files:
            if is_image(name) and name not in overviews:
                try:
                    found = Path(above, name).stat()
                except OSError:  # a link to nothing, or gone since
                    continue
                if stat.S_ISREG(found.st_mode):  # to open a pipe would wait for ever
                    yield name if below == "." else f"{below}/{name}", found.st_size, found.st_mtime_ns
