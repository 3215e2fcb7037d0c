"""Decoded images on disk: made once, a block at a time, and mapped into memory.

A source has a folder, named after it and a hash of its place and its fingerprint; in it lie `own.json`, the size and
the channels it has by itself, and for each shape it was decoded to, such as `3x32x32`, a folder with

- `images.npy`: uint8, shape (N, C, H, W), an ordinary NumPy file;
- `index.json`: shape, digest, a CRC-32 for each block, the broken images. Without it the images are not complete;
- `blocks.jsonl`, while it is made: the blocks that are done;
- `lock`, held by the process that makes it: others wait for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from clearwater.data.cache_entry import Cached, CacheEntry, locked
from clearwater.data.decoding import Shape, own_shape
from clearwater.data.records import seal, unseal
from clearwater.data.reports import LoadReport
from clearwater.data.sources import Source, hash_of
from clearwater.errors import InputError
from clearwater.files import write_atomically

__all__ = ["cached_images", "default_cache"]


def default_cache() -> Path:
    """The folder for caches: $CLEARWATER_CACHE, else $XDG_CACHE_HOME/clearwater, else ~/.cache/clearwater."""
    own, shared = os.environ.get("CLEARWATER_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(shared or Path.home() / ".cache") / "clearwater"


def cached_images(
    source: Source, size: tuple[int, int] | None, channels: int | None, root: Path, report: LoadReport
) -> Cached:
    """The images of a source, from the cache below `root`, which is made if it is not there.

    If it was interrupted, it goes on after the last block that was finished.

    Raises:
        InputError: there is too little room, or no image could be read.
        OSError: the disk is full, or fails; what is finished stays.
    """
    key = hash_of([source.place, source.fingerprint()])
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(source.place).name)[:40].strip("-")
    home = root / f"{stem or 'images'}-{key}"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder '{root}' cannot be used for caches: {error}. Set CLEARWATER_CACHE to another, or give "
            "--no-cache."
        ) from None
    shape = _shape(home, source, size, channels, report)
    return CacheEntry(home / "x".join(map(str, shape)), source, shape, key, report).images()


def _shape(home: Path, source: Source, size: tuple[int, int] | None, channels: int | None, report: LoadReport) -> Shape:
    """The shape to decode to; what the images have by themselves is found once and kept."""
    if size is not None and channels is not None:
        return channels, *size
    path = home / "own.json"
    with locked(home, report):
        own = (unseal(path.read_bytes()) if path.is_file() else None) or {}
        wanted = {name for name, given in (("size", size), ("channels", channels)) if given is None} - own.keys()
        if wanted:
            own_channels, *own_size = own_shape(source, size, channels)
            found = {"size": own_size, "channels": own_channels}
            own |= {name: found[name] for name in wanted}
            write_atomically(path, seal(own))
    height, width = size or own["size"]
    return channels or own["channels"], height, width
