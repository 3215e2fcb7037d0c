"""The cache: the images that memory would hold, made once, and found by what they are made of."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clearwater.data import ImageSet, LoadReport, default_cache, load_images
from clearwater.errors import InputError

# --- what it holds


def test_it_is_what_memory_would_hold_and_the_second_time_nothing_is_decoded(
    folder: Path, cache: Any, decoded: list[int]
) -> None:
    memory = load_images(folder, labels=True)
    decoded.clear()
    made = cache.load(folder, labels=True)
    assert len(decoded) == 20
    opened = cache.load(folder, labels=True)
    assert len(decoded) == 20
    for found in (made, opened):
        assert torch.equal(found.images, memory.images)
        assert found.images.is_contiguous()
        assert found.labels is not None
        assert memory.labels is not None
        assert torch.equal(found.labels, memory.labels)
        assert (found.classes, found.skipped) == (memory.classes, memory.skipped)
        assert found.digest() == memory.digest() == ImageSet(found.images.clone()).digest()
        assert found.digest(labels=True) == memory.digest(labels=True)
        index = torch.tensor([18, 0, 7, 7])
        assert torch.equal(found.take(index), memory.images[index])


def test_the_digest_is_not_computed_again(folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cache.load(folder)
    monkeypatch.setattr("clearwater.data.image_set.digest_of", None)
    found.digest(labels=True)


def test_the_files_are_those_that_the_page_describes(folder: Path, cache: Any) -> None:
    found = cache.load(folder)
    assert sorted(path.name for path in cache.entry.iterdir()) == ["images.npy", "index.json", "lock"]
    assert cache.entry.parent.name.startswith("pictures-")
    np.testing.assert_array_equal(np.load(cache.entry / "images.npy"), found.images.numpy())
    content = json.loads((cache.entry / "index.json").read_text())["content"]
    assert (content["images"], content["shape"], content["digest"]) == (19, [3, 5, 6], found.digest())
    assert content["skipped"] == [[6, found.skipped[0]]]


def test_default_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLEARWATER_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    assert default_cache() == tmp_path / "own"
    monkeypatch.delenv("CLEARWATER_CACHE")
    assert default_cache() == tmp_path / "shared" / "clearwater"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "clearwater"


# --- what it is found by


def test_other_settings_have_a_cache_of_their_own_and_the_same_ones_by_another_way_do_not(
    folder: Path, cache: Any, decoded: list[int]
) -> None:
    own = load_images(folder, cache=default_cache())
    assert own.shape == (3, 5, 6)
    before = len(decoded)
    assert torch.equal(cache.load(folder).images, own.images)
    assert torch.equal(load_images(folder / ".." / folder.name, channels=3, cache=default_cache()).images, own.images)
    assert len(decoded) == before
    load_images(folder, size=(4, 4), cache=default_cache())
    load_images(folder, channels=1, cache=default_cache())
    assert len(decoded) == before + 40
    (home,) = default_cache().iterdir()
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["1x5x6", "3x4x4", "3x5x6"]


@pytest.mark.parametrize("change", ["content", "time", "name", "one more", "one less"])
def test_a_change_to_a_file_is_another_cache(
    folder: Path, cache: Any, change: str, png: Callable[[Any], bytes]
) -> None:
    before = cache.load(folder)
    first = folder / "a" / "00.png"
    match change:
        case "content":
            first.write_bytes(png(np.zeros((5, 6, 3), np.uint8)))
        case "time":
            os.utime(first, ns=(0, first.stat().st_mtime_ns + 1))
        case "name":
            first.rename(folder / "b" / "99.png")
        case "one more":
            shutil.copy(first, folder / "b" / "99.png")
        case "one less":
            first.unlink()
    after = cache.load(folder)
    assert torch.equal(after.images, load_images(folder).images)
    assert len(list(default_cache().iterdir())) == 2
    assert (after.digest() == before.digest()) == (change == "time")


def test_classes_are_read_anew_and_are_no_part_of_the_cache(folder: Path, cache: Any, decoded: list[int]) -> None:
    assert cache.load(folder).labels is None
    assert cache.load(folder, labels=True).classes == ("a", "b")
    names = {path.relative_to(folder).as_posix(): path.name[0] for path in folder.rglob("*.png")}
    (folder / "labels.json").write_text(json.dumps(names))
    assert cache.load(folder, labels=True).classes == ("0", "1")
    assert len(decoded) == 20


# --- what is told


def test_the_place_and_the_size_are_told_before_and_then_how_far_it_is(folder: Path, cache: Any) -> None:
    told: list[object] = []

    class Told(LoadReport):
        def building(self, folder: Path, size: int) -> None:
            told.append((folder, size))

        def progress(self, fraction: float) -> None:
            told.append(fraction)

    cache.load(folder, report=Told())
    assert told == [(cache.entry, 128 + 20 * 90), 0, 0.2, 0.4, 0.6, 0.8, 1]
    told.clear()
    cache.load(folder, report=Told())
    assert told == []
    load_images(folder, report=Told())
    assert told == [0.2, 0.4, 0.6, 0.8, 1]


def test_too_little_room_is_refused_before_anything_is_written(
    folder: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("clearwater.data.cache_entry.shutil.disk_usage", lambda path: usage(1799))
    with pytest.raises(InputError, match=r"needs 0\.0 MB more in .*CLEARWATER_CACHE.*--no-cache"):
        cache.load(folder)
    monkeypatch.setattr("clearwater.data.cache_entry.shutil.disk_usage", lambda path: usage(1800))
    assert len(cache.load(folder)) == 19


def test_a_folder_that_cannot_be_made_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cache' cannot be used for caches: .*CLEARWATER_CACHE"):
        load_images(folder, cache=tmp_path / "file" / "cache")
