"""Zip and tar archives and shards: what is read in them, where their classes are, and what is refused."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearwater.data import load_images
from clearwater.data.names import root_of, sort_key
from clearwater.errors import InputError

Tar = Callable[[Path, Mapping[str, bytes]], Path]
Png = Callable[[Any], bytes]


@pytest.fixture
def grey(png: Png) -> Callable[..., dict[str, bytes]]:
    """Pictures by path, each of one grey: 0, 10, 20, …."""

    def pictures(*names: str) -> dict[str, bytes]:
        return {name: png(np.full((4, 5), 10 * i, np.uint8)) for i, name in enumerate(names)}

    return pictures


def _zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _read(source: Path | str) -> dict[int, str]:
    """The class of each image, by its grey."""
    found = load_images(source, labels=True)
    assert found.labels is not None
    names = [found.classes[number] for number in found.labels.tolist()]
    return dict(zip(found.images[:, 0, 0, 0].tolist(), names, strict=True))


@pytest.fixture(params=["zip", "tar"])
def write(request: pytest.FixtureRequest, tmp_path: Path, tar: Tar) -> Callable[[Mapping[str, bytes]], Path]:
    """Writes files as an archive: in turn a zip and a tar."""
    return lambda files: (_zip if request.param == "zip" else tar)(tmp_path / f"a.{request.param}", files)


Write = Callable[[Mapping[str, bytes]], Path]
Grey = Callable[..., dict[str, bytes]]


@pytest.mark.parametrize("above", ["", "./", "/", "pictures/", "./all/train/"])
def test_the_folder_that_holds_everything_is_no_class(write: Write, grey: Grey, above: str) -> None:
    assert _read(write(grey(f"{above}dog/1.png", f"{above}cat/deep/2.png"))) == {0: "dog", 10: "cat"}


def test_images_come_in_the_order_of_their_paths_and_hidden_ones_and_others_do_not(write: Write, grey: Grey) -> None:
    images = grey("b.png", "a/z.JPG", "a-b/1.png", "a/.x.png", ".git/1.png", "__MACOSX/._b.png", "notes.txt")
    found = load_images(write(images))
    # As paths sort: what is in `a` before `a-b`, though "-" sorts before "/".
    assert found.images[:, 0, 0, 0].tolist() == [10, 20, 0]


@given(st.lists(st.lists(st.sampled_from(["a", "a-b", "a b", "b", "a.b"]), min_size=1, max_size=3).map("/".join)))
def test_the_order_is_that_of_paths_and_the_root_is_what_they_share(paths: list[str]) -> None:
    assert sorted(paths, key=sort_key) == [str(path) for path in sorted(map(Path, paths))]
    root = root_of(paths)
    assert all(path.startswith(root) and path != root for path in paths)
    below = {path.removeprefix(root).partition("/") for path in paths}
    if paths:  # nothing deeper is shared: some image lies in it, or two folders do
        assert any(not slash for _, slash, _ in below) or len({first for first, _, _ in below}) > 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '{"00/b.png": "blue", "00/a.png": "red"}'),
        ("labels.csv", "00/a.png,red\n00/b.png,blue\n"),
        ("dataset.json", '{"labels": [["00/a.png", "red"], ["00/b.png", "blue"]]}'),
    ],
)
@pytest.mark.parametrize("above", ["", "pictures/"])
def test_lists_in_the_archive_name_the_classes(write: Write, grey: Grey, name: str, content: str, above: str) -> None:
    files = grey(f"{above}00/a.png", f"{above}00/b.png") | {above + name: content.encode()}
    assert _read(write(files)) == {0: "red", 10: "blue"}


def test_an_archive_without_images_or_without_classes_is_refused(write: Write, grey: Grey) -> None:
    with pytest.raises(InputError, match=r"There is no image in '.*/a\.(zip|tar)'"):
        load_images(write({"notes.txt": b"no image"}))
    with pytest.raises(InputError, match=r"a\.(zip|tar)' has no classes"):
        load_images(write(grey("pictures/a.png", "pictures/b.png")), labels=True)


# --- zip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_named_and_skipped(tmp_path: Path, png: Png, method: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)
    path = _zip(tmp_path / "a.zip", {f"{i}.png": png(pixels[i]) for i in range(3)}, method)
    with zipfile.ZipFile(path) as archive:
        second = archive.infolist()[1]
    content = bytearray(path.read_bytes())
    content[second.header_offset + 30 + len("1.png") + second.compress_size // 2] ^= 1
    path.write_bytes(content)
    found = load_images(path)
    np.testing.assert_array_equal(found.images[:, 0].numpy(), pixels[[0, 2]])
    assert found.skipped[0].startswith(f"{path}/1.png: it")


def test_other_compression_and_encryption_are_refused(tmp_path: Path, grey: Grey) -> None:
    path = _zip(tmp_path / "a.zip", grey("a.png"), zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match=r"'a\.png' in .* is compressed by another method than deflate: unpack"):
        load_images(path)
    content = bytearray(_zip(path, grey("a.png")).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the central directory
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"'a\.png' in .* is encrypted: unpack"):
        load_images(path)


# --- tar


def test_a_tar_that_is_compressed_or_cut_short_is_refused(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    content = tar(tmp_path / "a.tar", grey("a.png", "b.png")).read_bytes()
    (tmp_path / "a.tar").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=r"a\.tar' cannot be read as a tar archive"):
        load_images(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(content[:600])
    with pytest.raises(InputError, match=r"a\.tar' cannot be read as a tar archive"):
        load_images(tmp_path / "a.tar")


def test_of_a_file_that_was_added_twice_the_last_is_read(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    path = tar(tmp_path / "a.tar", grey("a.png", "./a.png"))
    assert load_images(path).images.flatten(1).unique(dim=1).tolist() == [[10]]


# --- shards


def test_a_folder_of_shards_is_read_in_their_order_and_keys_may_repeat(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    one, two = grey("1.png", "0.png"), grey("1.png", "0.png", "2.seg.png")
    tar(tmp_path / "b.tar", two | {"1.cls": b"7", "0.cls": b"10\n", "2.cls": b"7"})
    tar(tmp_path / "a.tar", one | {"1.json": b'{"label": 9, "width": 5}', "0.json": b'{"cls": "7"}'})
    found = load_images(tmp_path, labels=True)
    assert found.images[:, 0, 0, 0].tolist() == [10, 0, 10, 0, 20]
    assert found.classes == ("7", "9", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 0]


def test_json_without_a_label_is_other_metadata(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    more = {"cat/1.json": b'{"width": 5}', "dog/2.json": b"no JSON", "about.json": b'{"label": [1, 2]}'}
    assert _read(tar(tmp_path / "a.tar", grey("cat/1.png", "dog/2.png") | more)) == {0: "cat", 10: "dog"}


def test_samples_without_a_class_are_counted_and_the_first_is_named(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    path = tar(tmp_path / "a.tar", grey("1.png", "2.png", "3.png") | {"2.cls": b"cat"})
    with pytest.raises(InputError, match=r"no \.cls and no \.json names a class for '1\.png' and 1 other"):
        load_images(path, labels=True)


def test_classes_may_be_an_archive_each(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    tar(tmp_path / "1.tar", {"dog/1.png": grey("1.png")["1.png"]})
    tar(tmp_path / "2.tar", {"cat/1.png": grey("1.png", "2.png")["2.png"]})
    assert _read(f"{tmp_path}/{{1..2}}.tar") == {0: "dog", 10: "cat"}


def test_a_pattern_with_files_that_are_not_there_is_refused(tmp_path: Path, tar: Tar, grey: Grey) -> None:
    for i in (8, 9, 10):
        tar(tmp_path / f"a-{i:02}.tar", grey("1.png"))
    assert len(load_images(f"{tmp_path}/a-{{08..10}}.tar")) == 3
    with pytest.raises(InputError, match=r"(?s)Of the 4 files of '.*' 1 are not there, such as '.*a-11\.tar'"):
        load_images(f"{tmp_path}/a-{{08..11}}.tar")
    with pytest.raises(InputError, match="stands for no file: write the smaller number in the braces first"):
        load_images(f"{tmp_path}/a-{{9..8}}.tar")


# --- dataset.json


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"labels": None}, "its labels are not a list of pairs"),
        ({"labels": [["a.png", 1], "b.png"]}, '"b.png" is not a pair'),
        ({"labels": [["a.png", [0.5, 1]]]}, "the class of 'a.png' is neither a name nor a whole number"),
        ({"labels": [["b.png", 1]]}, "names no class for 'a.png'"),
    ],
)
def test_what_is_wrong_with_a_dataset_json_is_said(
    tmp_path: Path, grey: Grey, content: dict[str, object], said: str
) -> None:
    path = _zip(tmp_path / "a.zip", grey("a.png") | {"dataset.json": json.dumps(content).encode()})
    with pytest.raises(InputError, match=r"a\.zip/dataset\.json'") as refused:
        load_images(path, labels=True)
    assert said in str(refused.value)


def test_numbers_in_a_dataset_json_are_classes_and_one_without_labels_is_something_else(
    tmp_path: Path, grey: Grey
) -> None:
    files = grey("x/a.png", "y/b.png")
    pairs = {"labels": [["x/a.png", 10], ["y/b.png", 9]]}
    assert _read(_zip(tmp_path / "a.zip", files | {"dataset.json": json.dumps(pairs).encode()})) == {0: "10", 10: "9"}
    assert _read(_zip(tmp_path / "a.zip", files | {"dataset.json": b'{"made": "by hand"}'})) == {0: "x", 10: "y"}
