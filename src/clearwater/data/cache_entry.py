"""One source's images at one shape, on disk: made block by block, whole or not there, verified when opened."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clearwater.data.decoding import Pixels, Shape, decoded_blocks, none_readable
from clearwater.data.image_set import digest_of
from clearwater.data.records import seal, unseal
from clearwater.data.reports import LoadReport
from clearwater.data.sources import Source
from clearwater.errors import ClearwaterError, InputError
from clearwater.files import sync, write_atomically

__all__ = ["CacheEntry", "Cached", "locked"]

_FORMAT = 1
_HEADER = 128  # bytes of images.npy before the images
_VERIFIED_WHOLE = 2**30  # bytes up to which every block is verified whenever the cache is opened
_VERIFIED_BLOCKS = 64  # of a larger one, and the last


@dataclass(frozen=True)
class Cached:
    """Images in a cache.

    Attributes:
        images: shape (N, C, H, W), mapped into memory; it cannot be written to.
        digest: see `image_set.digest_of`.
        skipped: the number of each image that is broken, and a sentence.
    """

    images: Pixels
    digest: str
    skipped: tuple[tuple[int, str], ...]


@contextmanager
def locked(folder: Path, report: LoadReport) -> Iterator[None]:
    """Holds the lock of a folder, which other processes then wait for."""
    import fcntl  # not everywhere, and needed only here

    with (folder / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.waiting(folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"The disk of '{folder}' cannot lock files ({error}), which keeps two processes from making one cache: "
                "set CLEARWATER_CACHE to a folder on another disk, or give --no-cache."
            ) from None
        yield  # closing the file lets go of it, and so does the end of the process


class CacheEntry:
    """One source's images at one shape: a folder."""

    def __init__(self, folder: Path, source: Source, shape: Shape, key: str, report: LoadReport) -> None:
        self._folder, self._source, self._shape, self._key, self._report = folder, source, shape, key, report
        self._images, self._index, self._blocks = (folder / n for n in ("images.npy", "index.json", "blocks.jsonl"))
        self._bytes = int(np.prod(shape))

    def images(self) -> Cached:
        """The images; they are decoded, as far as that is not done, if they are not complete or are damaged.

        Raises:
            InputError: there is too little room, or no image could be read.
            OSError: the disk is full, or fails; what is finished stays.
        """
        found = self._opened()
        if isinstance(found, Cached):
            return found
        self._folder.mkdir(exist_ok=True)
        with locked(self._folder, self._report):
            found = self._opened()  # another process may have made it while this one waited
            if isinstance(found, Cached):
                return found
            if found is not None:
                self._report.warn(f"The cache in '{self._folder}' cannot be used, for {found}: it is made again.")
            return self._made()

    def _opened(self) -> Cached | str | None:
        """The images, or what is wrong with them, or None if they are not complete."""
        try:
            index = unseal(self._index.read_bytes())
            wrong = "its index is damaged" if index is None else self._wrong(index)
            return self._mapped(index) if index is not None and wrong is None else wrong
        except FileNotFoundError:  # not made yet; or damaged, and another process has begun to make it again
            return None

    def _mapped(self, index: dict[str, Any]) -> Cached:
        images = np.memmap(self._images, np.uint8, "r", _HEADER, (index["images"], *self._shape))
        return Cached(np.asarray(images), index["digest"], tuple((i, said) for i, said in index["skipped"]))

    def _wrong(self, index: dict[str, Any]) -> str | None:
        """What is wrong with the images, if anything is."""
        expected = {"format": _FORMAT, "key": self._key, "shape": list(self._shape)}
        if {name: index.get(name) for name in expected} != expected:
            return "its index belongs to other images"
        n = index["images"]
        size = _HEADER + n * self._bytes
        if self._images.stat().st_size != size:
            return "its images are not all there"
        blocks = index["blocks"]
        verified: Sequence[int] = range(len(blocks))
        if size > _VERIFIED_WHOLE:
            verified = sorted({*range(0, len(blocks), -(-len(blocks) // _VERIFIED_BLOCKS)), len(blocks) - 1})
        starts = np.cumsum([0, *(count for count, _ in blocks)]).tolist()
        with self._images.open("rb") as file:
            if file.read(_HEADER) != _npy_header((n, *self._shape)):
                return "the header of its images is damaged"
            for i in verified:
                if zlib.crc32(self._read(file, starts[i], blocks[i][0])) != blocks[i][1]:
                    return "its images are damaged"
        return None

    def _made(self) -> Cached:
        blocks = self._finished()
        done, kept = sum(block["items"] for block in blocks), sum(block["images"] for block in blocks)
        total = len(self._source)
        self._refuse_too_little_room((total - done) * self._bytes)
        self._report.building(self._folder, _HEADER + total * self._bytes)
        self._report.progress(done / total)
        with self._images.open("r+b") as images, self._blocks.open("ab") as log:
            images.seek(_HEADER + kept * self._bytes)
            for block in decoded_blocks(self._source, self._shape, done):
                images.write(block.images.data)
                images.flush()
                os.fsync(images.fileno())
                record = {
                    "items": block.items,
                    "images": len(block.images),
                    "checksum": zlib.crc32(block.images.data),
                    "skipped": block.skipped,
                }
                log.write(seal(record))
                log.flush()
                os.fsync(log.fileno())
                blocks.append(record)
                self._report.progress((block.first + block.items) / total)
        return self._completed(blocks)

    def _completed(self, blocks: list[dict[str, Any]]) -> Cached:
        n = sum(block["images"] for block in blocks)
        skipped = tuple((i, said) for block in blocks for i, said in block["skipped"])
        if not n:
            raise none_readable(self._source, skipped)
        with self._images.open("r+b") as images:
            digest = digest_of((n, *self._shape), self._verified(images, blocks))
            images.seek(0)
            images.write(_npy_header((n, *self._shape)))
            images.flush()
            os.fsync(images.fileno())
        index = {
            "format": _FORMAT,
            "key": self._key,
            "source": self._source.title,
            "images": n,
            "shape": self._shape,
            "digest": digest,
            "blocks": [(block["images"], block["checksum"]) for block in blocks],
            "skipped": skipped,
        }
        write_atomically(self._index, seal(index))
        sync(self._folder)
        self._blocks.unlink(missing_ok=True)
        return self._mapped(index)

    def _verified(self, images: BinaryIO, blocks: list[dict[str, Any]]) -> Iterator[bytes]:
        start = 0
        for block in blocks:
            content = self._read(images, start, block["images"])
            if zlib.crc32(content) != block["checksum"]:
                raise ClearwaterError(
                    f"The disk did not keep what was written to '{self._images}': see to the disk, and load again."
                )
            yield content
            start += block["images"]

    def _finished(self) -> list[dict[str, Any]]:
        """The blocks that an interrupted build has finished; the file of images ends after the last."""
        lines = self._blocks.read_bytes().splitlines(keepends=True) if self._blocks.is_file() else []
        finished: list[dict[str, Any]] = []
        if self._index.is_file() or not self._images.is_file() or not lines:
            lines = []
            self._index.unlink(missing_ok=True)
            # Not emptied: another process may have it mapped.
            self._images.unlink(missing_ok=True)
            self._images.touch()
        n = 0
        with self._images.open("r+b") as images:
            for line in lines:
                block = unseal(line)
                if block is None or zlib.crc32(self._read(images, n, block["images"])) != block["checksum"]:
                    break
                finished.append(block)
                n += block["images"]
            images.truncate(_HEADER + n * self._bytes)
        write_atomically(self._blocks, b"".join(lines[: len(finished)]))
        return finished

    def _read(self, images: BinaryIO, start: int, n: int) -> bytes:
        """These images; fewer bytes if the file ends before."""
        images.seek(_HEADER + start * self._bytes)
        return images.read(n * self._bytes)

    def _refuse_too_little_room(self, needed: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise InputError(
                f"The cache of '{self._source.title}' needs {_size(needed)} more in '{self._folder}', where "
                f"{_size(free)} are free: make room, set CLEARWATER_CACHE to a folder on a larger disk, choose a "
                "smaller size, or give --no-cache."
            )


def _npy_header(shape: tuple[int, ...]) -> bytes:
    """Of format 1.0, padded to `_HEADER` bytes whatever the shape."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    length = _HEADER - 10
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", length) + text.ljust(length - 1) + b"\n"


def _size(n: int) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"
