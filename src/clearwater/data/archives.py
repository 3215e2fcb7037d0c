"""Images in zip archives, read in place: nothing is unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from posixpath import normpath

import numpy as np
from PIL import Image

from clearwater.data.labels import LISTS, labels_of_paths
from clearwater.data.names import is_image, root_of, sort_key
from clearwater.data.sources import Labels, Numbers, RandomAccess, from_bytes, hash_of, stamp
from clearwater.errors import InputError

__all__ = ["ZipSource", "image_members", "member_path"]

_LOCAL_HEADER = 30  # bytes, of which the last four say how long the name and the extra field behind it are
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def member_path(name: str) -> str:
    """A member's name as a relative path: archives have it with "./" or "/" before it, too."""
    return normpath(name).lstrip("/")


def image_members(title: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """The folder that all there is to read in an archive lies in, "" or with a slash at its end; the images, sorted.

    Raises:
        InputError: there is no image.
    """
    every = list(names)
    images = sorted({name for name in every if is_image(name)}, key=sort_key)
    if not images:
        raise InputError(f"There is no image in '{title}': give an archive with images in it.")
    lists = [name for name in every if name.rpartition("/")[2] in LISTS]
    return root_of([*images, *lists]), images


class ZipSource(RandomAccess):
    """Every image in a zip archive, in the order of their paths; classes as in a folder.

    A folder that holds everything in the archive is passed through. It keeps a path and a few numbers an image.
    """

    def __init__(self, path: Path) -> None:
        self.title, self.place = str(path), str(path.resolve())
        self._path = path
        self._fingerprint = hash_of([stamp(path)])
        try:
            with zipfile.ZipFile(path) as archive:
                found = {member_path(info.filename): info for info in archive.infolist() if not info.is_dir()}
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"'{path}' cannot be read as a zip archive: {error}.") from None
        self._root, self._names = image_members(self.title, found)
        lists = [self._root + name for name in LISTS if self._root + name in found]
        self._lists = {name: len(self._names) + i for i, name in enumerate(lists)}
        infos = [found[name] for name in [*self._names, *lists]]
        for info in infos:
            if info.flag_bits & 1 or info.compress_type not in _METHODS:
                what = "encrypted" if info.flag_bits & 1 else "compressed by another method than deflate"
                raise InputError(f"'{info.filename}' in '{path}' is {what}: unpack the archive and give the folder.")
        fields = [(info.header_offset, info.compress_size, info.compress_type, info.CRC) for info in infos]
        self._members = np.array(fields, np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return f"{self.title}/{self._names[i]}"

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        return from_bytes(self._content(i))

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`; from a list in the archive, or from the folders in it."""
        paths = [self._names[i].removeprefix(self._root) for i in kept.tolist()]
        return labels_of_paths(self.title, paths, self._list)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of the archive's name, size and time of change."""
        return self._fingerprint

    def _list(self, name: str) -> bytes | None:
        member = self._lists.get(self._root + name)
        return None if member is None else self._content(member)

    def _content(self, i: int) -> bytes:
        # Not by zipfile's own objects, whose count of readers threads can get wrong, and close the file.
        offset, size, method, checksum = self._members[i].tolist()
        with self._path.open("rb") as file:
            file.seek(offset)
            name, extra = struct.unpack_from("<HH", file.read(_LOCAL_HEADER), _LOCAL_HEADER - 4)
            file.seek(offset + _LOCAL_HEADER + name + extra)
            content = file.read(size)
        if method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompress(content, -zlib.MAX_WBITS)
            except zlib.error as error:
                raise ValueError(f"it cannot be decompressed: {error}") from None
        if zlib.crc32(content) != checksum:
            raise ValueError("its checksum in the archive is another")
        return content
