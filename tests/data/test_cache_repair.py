"""A cache that was interrupted is gone on with, and one that is damaged is not believed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clearwater.data import LoadReport, decoding, load_images
from clearwater.data.records import seal, unseal
from clearwater.errors import ClearwaterError

BLOCK = 4


class Stop(LoadReport):
    """Interrupts when so much is done, as Ctrl-C does."""

    def __init__(self, at: float) -> None:
        self.at = at

    def progress(self, fraction: float) -> None:
        if fraction >= self.at:
            raise KeyboardInterrupt


# --- interrupted


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_it_goes_on_where_it_was_interrupted(folder: Path, cache: Any, decoded: list[int], done: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.load(folder, report=Stop(done * BLOCK / 20))
    decoded.clear()
    found = cache.load(folder, labels=True)
    assert len(decoded) == 20 - done * BLOCK
    assert torch.equal(found.images, load_images(folder).images)
    assert found.digest(labels=True) == load_images(folder, labels=True).digest(labels=True)
    assert len(found.skipped) == 1


def test_what_decoding_raises_beyond_broken_images_interrupts_it(
    folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, count = decoding.decode, []

    def dying(*args: Any, **settings: Any) -> Any:
        count.append(1)
        if len(count) > 10:
            raise MemoryError
        return before(*args, **settings)

    monkeypatch.setattr(decoding, "decode", dying)
    with pytest.raises(MemoryError):
        cache.load(folder)
    monkeypatch.setattr(decoding, "decode", before)
    assert torch.equal(cache.load(folder).images, load_images(folder).images)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_the_system_cannot_read_now_is_no_broken_image_for_ever(
    folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    before, count = Image.open, []

    def failing(*args: Any, **settings: Any) -> Any:
        count.append(1)
        if len(count) > 15:
            raise error
        return before(*args, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", failing)
        with pytest.raises(type(error)):
            cache.load(folder)
    found = cache.load(folder)
    assert torch.equal(found.images, load_images(folder).images)
    assert len(found.skipped) == 1


def _torn(entry: Path) -> None:
    with (entry / "images.npy").open("ab") as images, (entry / "blocks.jsonl").open("ab") as log:
        images.write(b"half a block")
        log.write(b'{"checksum": 12, "conte')


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (_torn, 3),
        (lambda entry: _flip(entry / "images.npy", 128 + 5 * 90), 1),  # in the second block
        (lambda entry: _flip(entry / "images.npy", 128), 0),
        (lambda entry: _flip(entry / "blocks.jsonl", 30), 0),
        (lambda entry: os.truncate(entry / "images.npy", 128 + 10 * 90), 2),
        (lambda entry: os.truncate(entry / "images.npy", 0), 0),
        (lambda entry: os.truncate(entry / "blocks.jsonl", 0), 0),
        (lambda entry: (entry / "blocks.jsonl").unlink(), 0),
        (lambda entry: (entry / "images.npy").unlink(), 0),
    ],
)
def test_of_an_interrupted_one_only_what_is_whole_is_kept(
    folder: Path, cache: Any, decoded: list[int], damage: Callable[[Path], object], left: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        cache.load(folder, report=Stop(3 * BLOCK / 20))
    damage(cache.entry)
    decoded.clear()
    found = cache.load(folder)
    assert len(decoded) == 20 - left * BLOCK
    assert torch.equal(found.images, load_images(folder).images)


def test_a_full_disk_leaves_what_is_finished(
    folder: Path, cache: Any, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 6:  # of the third block's images, after one of own files and two a block
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("clearwater.data.cache_entry.os.fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            cache.load(folder)
    assert not (cache.entry / "index.json").exists()
    decoded.clear()
    found = cache.load(folder)
    assert len(decoded) == 20 - 2 * BLOCK
    assert torch.equal(found.images, load_images(folder).images)


# --- damaged


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda entry: _flip(entry / "images.npy", 128), "its images are damaged"),
        (lambda entry: _flip(entry / "images.npy", 128 + 19 * 90 - 1), "its images are damaged"),
        (lambda entry: _flip(entry / "images.npy", 20), "the header of its images is damaged"),
        (lambda entry: os.truncate(entry / "images.npy", 500), "its images are not all there"),
        (lambda entry: _flip(entry / "index.json", 100), "its index is damaged"),
        (lambda entry: os.truncate(entry / "index.json", 100), "its index is damaged"),
        (lambda entry: os.truncate(entry / "index.json", 0), "its index is damaged"),
    ],
)
def test_a_damaged_one_is_made_again_and_that_is_said(
    folder: Path, cache: Any, decoded: list[int], damage: Callable[[Path], object], said: str
) -> None:
    before = cache.load(folder).images.clone()
    damage(cache.entry)
    decoded.clear()
    with pytest.warns(
        UserWarning, match=rf"The cache in '{re.escape(str(cache.entry))}' cannot be used, for {said}"
    ) as told:
        assert torch.equal(cache.load(folder).images, before)
    assert len(told) == 1
    assert len(decoded) == 20
    assert torch.equal(cache.load(folder).images, before)


def test_one_that_belongs_to_other_images_is_not_believed(folder: Path, cache: Any) -> None:
    cache.load(folder)
    index = cache.entry / "index.json"
    content = unseal(index.read_bytes())
    assert content is not None
    index.write_bytes(seal(content | {"key": "0" * 32}))
    with pytest.warns(UserWarning, match="its index belongs to other images: it is made again"):
        cache.load(folder)
    cache.load(folder)


def test_who_has_the_damaged_images_open_keeps_them(folder: Path, cache: Any) -> None:
    found = cache.load(folder)
    before = found.images.clone()
    _flip(cache.entry / "index.json", 100)
    with pytest.warns(UserWarning, match="made again"):
        cache.load(folder)
    assert torch.equal(found.images, before)


def test_of_a_large_one_64_blocks_and_the_last_are_verified(
    folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.load(folder)
    monkeypatch.setattr("clearwater.data.cache_entry._VERIFIED_WHOLE", 1)
    monkeypatch.setattr("clearwater.data.cache_entry._VERIFIED_BLOCKS", 2)
    # Blocks of 4, 3, 4, 4 and 4 images: the first, the fourth and the last are verified.
    for image, verified in ((0, True), (5, False), (8, False), (12, True), (18, True)):
        place = 128 + image * 90
        _flip(cache.entry / "images.npy", place)
        if verified:
            with pytest.warns(UserWarning, match="its images are damaged"):
                cache.load(folder)
        else:
            cache.load(folder)
            _flip(cache.entry / "images.npy", place)


def test_a_disk_that_does_not_keep_what_is_written_is_named(folder: Path, cache: Any) -> None:
    class Flips(LoadReport):
        def progress(self, fraction: float) -> None:
            if fraction == 1:
                _flip(cache.entry / "images.npy", 128 + 90)

    with pytest.raises(ClearwaterError, match="The disk did not keep what was written to"):
        cache.load(folder, report=Flips())
    assert torch.equal(cache.load(folder).images, load_images(folder).images)
