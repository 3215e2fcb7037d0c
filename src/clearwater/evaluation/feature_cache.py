"""What an extractor saw in a set of images, on disk: made once, a block at a time, and mapped into memory.

A set has a folder, named after a hash of the images' content, of their selection and of the extractor's key; in it lie

- `rows.npy`: float32, shape (N, D + K), an ordinary NumPy file: an image's features and then its probabilities;
- `index.json`: what it belongs to and a CRC-32 of the rows. Without it they are not complete;
- `part-0.npy` and `part-0.jsonl`, while it is made: the rows so far, and after each block how many and their CRC-32.
  The process that writes there holds a lock on it; another that makes the same at the same time takes `part-1`.
"""

from __future__ import annotations

import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from clearwater.data.arrays import tensor_of
from clearwater.data.cache_entry import locked
from clearwater.data.records import seal, unseal
from clearwater.data.reports import LoadReport
from clearwater.errors import ClearwaterError, InputError
from clearwater.files import MISSING, sync, write_atomically

__all__ = ["FeatureEntry", "RowWriter"]

_FORMAT = 1
_AT_ONCE = 2**24  # bytes


class FeatureEntry:
    """One set of rows: a folder.

    Args:
        folder: where it is or will be.
        key: what the rows are of.
        n: how many there are.
        width: numbers in a row.
    """

    def __init__(self, folder: Path, key: str, n: int, width: int) -> None:
        self._folder, self._rows, self._index = folder, folder / "rows.npy", folder / "index.json"
        self._belongs = {"format": _FORMAT, "key": key, "rows": n, "width": width}
        self._shape = n, width
        self._header = _npy_header(self._shape)

    def opened(self) -> Tensor | str | None:
        """The rows, float32, shape (N, width), mapped; or what is wrong with them; or None if they are not complete."""
        try:
            index = unseal(self._index.read_bytes())
            wrong = "its index is damaged" if index is None else self._wrong(index)
        except MISSING:  # not made yet; or damaged, and another process has begun to make it again
            return None
        if wrong is not None:
            return wrong
        return tensor_of(np.asarray(np.memmap(self._rows, np.float32, "r", len(self._header), self._shape)))

    @contextmanager
    def writer(self) -> Iterator[RowWriter]:
        """To write the rows with, after those that an interrupted one has left.

        Raises:
            InputError: there is too little room, or the folder cannot be used.
        """
        with self._part() as file:
            writer = RowWriter(file, Path(file.name).with_suffix(".jsonl"), self._header, self._shape[1])
            self._refuse_too_little_room(writer.done)
            yield writer

    def completed(self, writer: RowWriter) -> Tensor:
        """Makes what was written the entry, unless another process was first; the rows, as `opened` gives them."""
        writer.flush()
        with locked(self._folder, LoadReport()):
            if not isinstance(self.opened(), Tensor):
                self._index.unlink(missing_ok=True)
                writer.path.replace(self._rows)
                write_atomically(self._index, seal({**self._belongs, "checksum": writer.checksum}))
                sync(self._folder)
            writer.forget()
            found = self.opened()
        if not isinstance(found, Tensor):
            raise ClearwaterError(
                f"The disk did not keep what was written to '{self._rows}': see to the disk, and measure again."
            )
        return found

    def _wrong(self, index: dict[str, Any]) -> str | None:
        """What is wrong with the rows, if anything is."""
        if {name: index.get(name) for name in self._belongs} != self._belongs:
            return "its index belongs to other features"
        size = 4 * self._shape[0] * self._shape[1]
        if self._rows.stat().st_size != len(self._header) + size:
            return "its rows are not all there"
        with self._rows.open("rb") as file:
            if file.read(len(self._header)) == self._header and _checksum(file, size) == index["checksum"]:
                return None
        return "its rows are damaged"

    def _part(self) -> BinaryIO:
        """A file for rows that no other process writes to; closing it lets go of it."""
        import fcntl  # not everywhere, and needed only here

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in (self._folder / f"part-{i}.npy" for i in count()):
                file = path.open("a+b")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                        return file
                except (BlockingIOError, FileNotFoundError):  # another process writes to it, or has just finished it
                    pass
                except OSError:
                    file.close()
                    raise
                file.close()
        except OSError as error:
            raise InputError(
                f"The folder '{self._folder}' cannot keep features: {error}. Set CLEARWATER_CACHE to another, or give "
                "--no-cache."
            ) from None
        raise AssertionError  # the numbers do not end

    def _refuse_too_little_room(self, done: int) -> None:
        needed, free = 4 * (self._shape[0] - done) * self._shape[1], shutil.disk_usage(self._folder).free
        if free < needed:
            raise InputError(
                f"The features need {needed / 1e6:,.0f} MB more in '{self._folder}', where {free / 1e6:,.0f} MB are "
                "free: make room, set CLEARWATER_CACHE to a folder on a larger disk, or give --no-cache."
            )


class RowWriter:
    """Rows, one block after another, into a file that is open and locked.

    Attributes:
        path: of the file.
        done: rows that are in it.
        checksum: their CRC-32.
    """

    def __init__(self, file: BinaryIO, log: Path, header: bytes, width: int) -> None:
        self.path, self.done, self.checksum = Path(file.name), 0, 0
        self._file, self._log, self._header, self._row = file, log, header, 4 * width
        self._blocks: list[dict[str, Any]] = []
        self._go_on()

    def back_to(self, done: int) -> None:
        """Forgets the blocks after so many rows, which end one or are zero."""
        self._blocks = [block for block in self._blocks if block["rows"] <= done]
        last = self._blocks[-1] if self._blocks else {"rows": 0, "checksum": 0}
        self.done, self.checksum = last["rows"], last["checksum"]
        self._file.truncate(len(self._header) + self.done * self._row)
        write_atomically(self._log, b"".join(map(seal, self._blocks)), durable=False)

    def append(self, rows: Tensor) -> None:
        """Writes a block, float32, shape (rows, width)."""
        content = rows.contiguous().numpy().data
        self._file.write(content)
        self._file.flush()
        self.done, self.checksum = self.done + len(rows), zlib.crc32(content, self.checksum)
        self._blocks.append({"rows": self.done, "checksum": self.checksum})
        with self._log.open("ab") as log:
            log.write(seal(self._blocks[-1]))

    def flush(self) -> None:
        """Waits until the disk has the rows."""
        os.fsync(self._file.fileno())

    def forget(self) -> None:
        """Removes what is only needed to go on."""
        self.path.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)

    def _go_on(self) -> None:
        """After the last block that is whole, in the file and in the log."""
        lines = self._log.read_bytes().splitlines(keepends=True) if self._log.is_file() else []
        self._file.seek(0)
        if self._file.read(len(self._header)) != self._header:
            lines = []
            self._file.truncate(0)
            self._file.write(self._header)
        done = checksum = 0
        for block in map(unseal, lines):
            if block is None or block["rows"] <= done:
                break
            checksum = _checksum(self._file, (block["rows"] - done) * self._row, checksum)
            if checksum != block["checksum"]:
                break
            self._blocks.append(block)
            done = block["rows"]
        self.back_to(done)


def _checksum(file: BinaryIO, size: int, checksum: int = 0) -> int:
    """That of the next so many bytes, or of as many as there are, after those that `checksum` is of."""
    while size > 0 and (part := file.read(min(size, _AT_ONCE))):
        checksum = zlib.crc32(part, checksum)
        size -= len(part)
    return checksum


def _npy_header(shape: tuple[int, int]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()
