"""Images that are held out of a source: which, however they are read, and that the others do not change for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.data import BUILT_IN, Batches, ImageSet, StreamedImages, load_images, stream_images
from clearwater.data.held_out import part_of, usual
from clearwater.errors import InputError

Png = Callable[[Any], bytes]
_BROKEN = (5, 100, 205)
_HELD_OUT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, png: Png) -> Path:
    """210 grey pictures in two classes, of which three are broken; in the red and the green of picture i is i."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(210):
        (path / "ab"[i // 105]).mkdir(exist_ok=True)
        content = b"broken" if i in _BROKEN else png(np.full((4, 4, 3), (i, i // 105, 0), np.uint8))
        (path / "ab"[i // 105] / f"{i:03}.png").write_bytes(content)
    return path


def _numbers(images: ImageSet | StreamedImages) -> list[int]:
    return images.take(torch.arange(len(images)))[:, 0, 0, 0].tolist()


def _ways(folder: Path, cache: Path) -> dict[str, Callable[..., ImageSet | StreamedImages]]:
    return {
        "memory": lambda **settings: load_images(folder, labels=True, **settings),
        "cache": lambda **settings: load_images(folder, labels=True, cache=cache, **settings),
        "stream": lambda **settings: stream_images(folder, labels=True, **settings),
    }


@given(n=st.integers(1, 3000), held_out=st.integers(0, 3000), gone=st.sets(st.integers(0, 2999), max_size=20))
def test_both_parts_are_all_and_share_nothing_and_what_is_broken_changes_nothing(
    n: int, held_out: int, gone: set[int]
) -> None:
    held_out = min(held_out, n - 1)
    kept = np.array([i for i in range(n) if i not in gone])
    everything = torch.arange(n).numpy()
    if held_out == 0:
        assert part_of(everything, n, 0, "train", "x").tolist() == list(range(n))
        return
    unseen = part_of(everything, n, held_out, "held_out", "x").tolist()
    seen = part_of(everything, n, held_out, "train", "x").tolist()
    assert len(unseen) == held_out
    assert sorted(unseen + seen) == list(range(n))
    assert unseen == sorted(unseen)
    fewer = part_of(everything, n, (held_out + 1) // 2, "held_out", "x").tolist()
    assert set(fewer) <= set(unseen)
    if set(unseen) - gone:
        rows = part_of(kept, n, held_out, "held_out", "x")
        assert kept[rows.numpy()].tolist() == [i for i in unseen if i not in gone]


def test_they_are_of_everywhere_in_a_folder_that_goes_class_by_class() -> None:
    """Of 10,000, of which 500 are held out, each tenth has 50 ± 7: beyond 5 of these the choice would be no draw."""
    counts = torch.bincount(part_of(np.arange(10_000), 10_000, 500, "held_out", "x") // 1000, minlength=10)
    assert counts.sum() == 500
    assert (counts - 50).abs().max() < 5 * 6.9


@pytest.mark.parametrize(("n", "expected"), [(1, 0), (199, 0), (200, 10), (9999, 499), (20_000, 1000), (10**6, 1000)])
def test_as_many_as_usual(n: int, expected: int) -> None:
    assert usual(n) == expected


def test_the_parts_are_the_same_however_they_are_read(folder: Path, tmp_path: Path) -> None:
    unseen = part_of(np.arange(210), 210, _HELD_OUT, "held_out", "x").tolist()
    whole = {"held_out": [i for i in unseen if i not in _BROKEN]}
    whole["train"] = [i for i in range(210) if i not in unseen and i not in _BROKEN]
    assert len(whole["held_out"]) < _HELD_OUT, "a broken one should be among them, or this shows nothing"
    for way, read in _ways(folder, tmp_path).items():
        for split, numbers in whole.items():
            found = read(split=split, held_out=_HELD_OUT)
            assert found.held_out == _HELD_OUT
            assert found.labels is not None
            seen = _numbers(found)
            if way == "stream":  # where what stands for a broken one is of the same part
                assert set(seen) == set(numbers)
                assert len(seen) == len(found.labels) == (_HELD_OUT if split == "held_out" else 210 - _HELD_OUT)
            else:
                assert seen == numbers
            assert found.labels.tolist() == [number // 105 for number in seen]


def test_a_part_is_no_copy_and_has_a_digest_of_its_own(folder: Path, tmp_path: Path) -> None:
    for read in _ways(folder, tmp_path).values():
        whole, fewer, more = (read(held_out=held_out) for held_out in (0, 20, _HELD_OUT))
        unseen = read(held_out=_HELD_OUT, split="held_out")
        assert len({of.digest() for of in (whole, fewer, more, unseen)}) == 4
        assert more.digest() == read(held_out=_HELD_OUT).digest()
    in_memory, cached = (load_images(folder, held_out=_HELD_OUT, cache=cache) for cache in (None, tmp_path))
    assert in_memory.digest() == cached.digest()
    assert len(cached.stored) == 207
    assert cached.part(torch.tensor([3, 1])).images.tolist() == cached.images[[3, 1]].tolist()


def test_what_is_held_out_is_in_no_batch(folder: Path) -> None:
    data = load_images(folder, held_out=_HELD_OUT)
    unseen = set(_numbers(load_images(folder, held_out=_HELD_OUT, split="held_out")))
    batches = Batches(data, len(data), seed=0, flip=False, device="cpu")
    seen = ((batches(0)[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert sorted(seen) == _numbers(data)
    assert not unseen & set(seen)


def test_what_cannot_be_held_out_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has 210 image\(s\), of which 210 cannot be held out: set data.held_out to"):
        load_images(folder, held_out=210)
    with pytest.raises(InputError, match="has a held-out part of its own, so no other"):
        load_images(BUILT_IN, held_out=10)
    with pytest.raises(InputError, match="none are held out: name other images instead"):
        load_images(folder / "a", held_out=None, split="held_out")
    assert len(load_images(BUILT_IN, held_out=None)) == 9000
    assert len(load_images(BUILT_IN, held_out=None, split="held_out")) == 1000
    assert load_images(folder, held_out=None).held_out == 10
