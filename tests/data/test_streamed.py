"""Images that are decoded when they are taken: the same as those in memory, and what becomes of broken ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.data import BUILT_IN, ImageSet, StreamedImages, load_images, stream_images
from clearwater.errors import InputError

Png = Callable[[Any], bytes]


def _streamed(folder: Path, **settings: Any) -> StreamedImages:
    found = stream_images(folder, **settings)
    assert isinstance(found, StreamedImages)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, png: Png) -> Path:
    """20 grey pictures in two classes; 3, 4 and the last are broken. Picture i has the grey 10 · i."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(20):
        (path / "ab"[i % 2]).mkdir(exist_ok=True)
        content = b"broken" if i in (3, 4, 19) else png(np.full((8, 9), 10 * i, np.uint8))
        (path / "ab"[i % 2] / f"{i:02}.png").write_bytes(content)
    return path


# In the order of the paths: even numbers in a, then odd numbers in b; the broken ones with what stands for them.
_NUMBERS = [*range(0, 20, 2), *range(1, 20, 2)]
_PLAIN = {4: 6, 3: 5, 19: 0}
_OF_CLASS = {4: 6, 3: 5, 19: 1}


def test_a_broken_one_is_replaced_by_the_next_and_with_classes_by_the_next_of_its_own(folder: Path) -> None:
    for labels, stands in ((False, _PLAIN), (True, _OF_CLASS)):
        streamed = _streamed(folder, labels=labels)
        assert (len(streamed), streamed.shape) == (20, (1, 8, 9))
        assert streamed.skipped == ()
        expected = [10 * stands.get(i, i) for i in _NUMBERS]
        for _ in range(2):
            assert streamed.take(torch.arange(20)).flatten(1).unique(dim=1).flatten().tolist() == expected
        broken = [str(folder / "ab"[i % 2] / f"{i:02}.png") for i in (4, 3, 19)]
        assert [sentence.split(": ")[0] for sentence in streamed.skipped] == broken


@given(index=st.lists(st.integers(0, 19), max_size=30), size=st.sampled_from([None, (4, 6)]))
def test_any_images_in_any_order_are_those_in_memory(
    folder: Path, index: list[int], size: tuple[int, int] | None
) -> None:
    streamed, whole = _streamed(folder, size=size), load_images(folder, size=size)
    good = [i for i in index if _NUMBERS[i] not in _PLAIN]
    places = [i - sum(_NUMBERS[j] in _PLAIN for j in range(i)) for i in good]
    taken = streamed.take(torch.tensor(good, dtype=torch.int64))
    assert torch.equal(taken, whole.take(torch.tensor(places, dtype=torch.int64)))


def test_classes_are_those_of_the_folder(folder: Path) -> None:
    streamed = _streamed(folder, labels=True)
    assert streamed.classes == ("a", "b")
    assert streamed.labels is not None
    assert streamed.labels.tolist() == [0] * 10 + [1] * 10
    assert _streamed(folder).labels is None
    with pytest.raises(InputError, match="has no classes"):
        stream_images(folder / "a", labels=True)


def test_where_none_can_be_read_it_is_said(tmp_path: Path, png: Png) -> None:
    for name in ("a/1.png", "b/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"broken")
    (tmp_path / "a" / "2.png").write_bytes(png(np.zeros((4, 4), np.uint8)))
    streamed = _streamed(tmp_path, labels=True)
    assert streamed.take(torch.tensor([0])).shape == (1, 1, 4, 4)
    with pytest.raises(InputError, match=r"No image of .* that could stand for .*b/1\.png can be read: .*b/1\.png: "):
        streamed.take(torch.tensor([0, 2]))


def test_the_digest_is_of_files_shape_and_classes_and_not_of_the_place(tmp_path: Path, png: Png) -> None:
    for name in ("one", "two"):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            path = tmp_path / name / label / "1.png"
            path.write_bytes(png(np.zeros((4, 4), np.uint8)))
            os.utime(path, ns=(5, 5))
    one, two = tmp_path / "one", tmp_path / "two"
    digest = _streamed(one).digest()
    assert _streamed(two).digest() == digest
    assert _streamed(one, labels=True).digest() == digest
    with_labels = _streamed(one, labels=True).digest(labels=True)
    assert with_labels == _streamed(two, labels=True).digest(labels=True)
    os.utime(two / "a" / "1.png", ns=(6, 6))
    others = {_streamed(one, size=(2, 2)).digest(), _streamed(one, channels=3).digest(), _streamed(two).digest()}
    assert len({digest, with_labels, load_images(one).digest(), *others}) == 6


def test_what_is_an_array_already_is_not_streamed() -> None:
    found = stream_images(BUILT_IN)
    assert isinstance(found, ImageSet)
    assert found.digest(labels=True) == load_images(BUILT_IN).digest(labels=True)
