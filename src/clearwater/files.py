"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clearwater.errors import InputError

__all__ = ["MISSING", "alone_in", "sync", "write_atomically", "write_through"]

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


@contextmanager
def alone_in(folder: Path, refusal: str) -> Iterator[None]:
    """Keeps other processes that ask for the same out of a folder meanwhile, as far as its disk has locks.

    Args:
        folder: that is there.
        refusal: what is said if another process is in it.

    Raises:
        InputError: one is.
    """
    if sys.platform == "win32":  # which has no such locks
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(refusal) from None
    except OSError:  # a disk without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)  # which lets go of it, as the end of the process does
