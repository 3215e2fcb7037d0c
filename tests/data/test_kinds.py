"""One set of pictures is one set of images, whatever kind of source it comes as."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater.data import ImageSet, default_cache, lasting_name, load_images, stream_images
from clearwater.data.kinds import open_source
from clearwater.data.sources import RandomAccess
from clearwater.errors import InputError

Write = Callable[[Path, Mapping[str, bytes]], Any]
GOOD, BROKEN = 12, 3


def _same(found: ImageSet, expected: ImageSet) -> None:
    assert torch.equal(found.images, expected.images)
    assert found.labels is not None
    assert expected.labels is not None
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.labels.dtype == torch.int64
    assert found.classes == expected.classes
    assert found.digest(labels=True) == expected.digest(labels=True)
    assert found.digest() == expected.digest()


@pytest.fixture
def expected(even: dict[str, bytes]) -> ImageSet:
    """What the even pictures are, decoded by Pillow alone."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in even.values()])
    labels = torch.arange(12) // 4
    return ImageSet(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), labels, ("ant", "bee", "cat"))


def test_every_kind_is_the_same_images_and_classes_in_memory_and_from_the_cache(
    kind: Write, even: dict[str, bytes], expected: ImageSet, tmp_path: Path
) -> None:
    source = kind(tmp_path, even)
    _same(load_images(source, labels=True), expected)
    for _ in ("made", "opened"):
        _same(load_images(source, labels=True, cache=default_cache()), expected)
    if isinstance(open_source(source), RandomAccess):
        assert torch.equal(stream_images(source, labels=True).take(torch.arange(12)), expected.images)


def test_pictures_of_all_sizes_and_modes_are_what_a_folder_makes_of_them(
    kind: Write, mixed: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in mixed.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    (tmp_path / "other").mkdir()
    source = kind(tmp_path / "other", mixed)
    for size, channels in ((None, None), ((16, 24), 1), ((50, 20), 3)):
        folder = load_images(tmp_path / "folder", size=size, channels=channels, labels=True)
        assert folder.shape == (channels or 3, *(size or (32, 32)))
        _same(load_images(source, size=size, channels=channels, labels=True), folder)
        _same(load_images(source, size=size, channels=channels, labels=True, cache=default_cache()), folder)


def test_broken_ones_are_named_and_skipped_and_have_no_say(
    kind: Write, even: dict[str, bytes], expected: ImageSet, tmp_path: Path, png: Callable[[Any], bytes]
) -> None:
    large = png(np.zeros((200, 300, 3), np.uint8))
    broken = {"ant/00x.png": large[:-30], "bee/05x.png": b"no image", "cat/10x.png": b""}
    source = kind(tmp_path, dict(sorted((even | broken).items())))
    for cache in (None, default_cache(), default_cache()):
        found = load_images(source, labels=True, cache=cache)
        _same(found, expected)
        names = [open_source(source).name(i) for i in (1, 7, 13)]
        assert [sentence.split(": ")[0] for sentence in found.skipped] == names
        assert len(set(names)) == BROKEN
        assert not any("\n" in sentence for sentence in found.skipped)


def test_nothing_but_broken_ones_is_refused(kind: Write, tmp_path: Path) -> None:
    source = kind(tmp_path, {"ant/1.png": b"no image", "bee/2.png": b""})
    for cache in (None, default_cache(), default_cache()):
        with pytest.raises(InputError, match=r"None of the 2 images in .* could be read; the first: ") as refused:
            load_images(source, cache=cache)
        assert open_source(source).name(0) in str(refused.value)


def test_opening_is_possible_from_any_image_on(kind: Write, even: dict[str, bytes], tmp_path: Path) -> None:
    source = open_source(kind(tmp_path, even))
    assert len(source) == GOOD
    every = [np.asarray(opener()) for opener in source.each()]
    for first in (0, 1, 5, 6, 11, 12):
        np.testing.assert_array_equal([np.asarray(opener()) for opener in source.each(first)], every[first:])


def test_another_picture_is_another_fingerprint(kind: Write, even: dict[str, bytes], tmp_path: Path) -> None:
    found = []
    for i, files in enumerate((even, even | {"bee/05.png": even["ant/00.png"]}, dict(list(even.items())[1:]))):
        (tmp_path / str(i)).mkdir()
        source = kind(tmp_path / str(i), files)
        found += [open_source(source).fingerprint(), open_source(source).fingerprint()]
    assert found[::2] == found[1::2]
    assert len({*found}) == 3


# --- which kind


def test_a_source_keeps_its_name_where_that_depends_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    assert lasting_name("pictures") == str(tmp_path / "pictures")
    assert lasting_name("a-{0..9}.tar") == str(tmp_path / "a-{0..9}.tar")
    assert lasting_name("hf:saved:test") == f"hf:{tmp_path / 'saved'}:test"
    for name in ("fashion-mini", "hf:saver", "hf:mnist:test"):
        assert lasting_name(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.txt", "is a file of no kind that can be read: give a folder of images"),
        ("a.tar.gz", r"is compressed as a whole.* unpack it \(tar xf"),
        ("a.TGZ", "is compressed as a whole"),
        ("a.zip", "cannot be read as a zip archive: "),
        ("a.tar", "cannot be read as a tar archive: .*unpack it"),
        ("a.npy", r"cannot be read as \.npy: "),
        ("a.npz", r"cannot be read as \.npz: it is no zip archive of arrays"),
        ("a-idx3-ubyte", "cannot be read as IDX: "),
        ("a.parquet", "cannot be read as Parquet: "),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x93no such thing\x00\x01"])
def test_what_is_not_what_its_name_says_is_refused_in_a_sentence(
    tmp_path: Path, name: str, said: str, content: bytes
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        load_images(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert str(refused.value).endswith(".")
    assert "\n" not in str(refused.value)


def test_images_of_no_kind_are_held_out_of_a_folder_or_a_list(
    even: dict[str, bytes], kind: Write, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has a held-out part"):
        load_images(kind(tmp_path, even), split="held_out")
