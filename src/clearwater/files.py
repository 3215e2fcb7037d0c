"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["MISSING", "sync", "write_atomically", "write_through"]

MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What reading raises of a file that is not there. Any other error of the system says nothing of the file: a disk of
the network that cannot be reached, say."""


def write_through(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes beside `path`, then renames: what was there before stays until the new content is complete.

    With `durable` the disk has it before it is there, so it outlives a machine that goes down; without, it is only
    complete for whoever looks, and quicker where there are many.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if durable:
            write_through(part, content)
        else:
            part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Waits until the disk has a file's content, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
