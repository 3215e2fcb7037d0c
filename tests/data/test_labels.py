"""The classes of a folder's images: from the folders they lie in, or from a list beside them."""

from __future__ import annotations

import json
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clearwater import InputError, load_images
from clearwater.data import BUILT_IN, ImageSet


def _write(folder: Path, values: dict[str, int]) -> Path:
    """An image of one grey value for each path below the folder, so that an image says which one it is."""
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 5), value).save(folder / name)
    return folder


def _read(folder: Path) -> dict[int, str]:
    """The name of the class of each image, by the image's value."""
    found = load_images(folder, labels=True)
    assert found.labels is not None
    assert found.labels.dtype == torch.int64
    return {
        int(image[0, 0, 0]): found.classes[label]
        for image, label in zip(found.images, found.labels.tolist(), strict=True)
    }


def _refused(folder: Path, *parts: str) -> None:
    """Loading says one sentence with these parts."""
    with pytest.raises(InputError) as refused:
        load_images(folder, labels=True)
    sentence = str(refused.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert [part for part in parts if part not in sentence] == []


# --- folders


def test_the_class_is_the_folder_and_what_is_nested_deeper_belongs_to_the_one_on_top(tmp_path: Path) -> None:
    paths = {"dog/1.png": 10, "cat/1.png": 20, "cat/winter/2.png": 30, "dog/cat/deep/3.png": 40}
    _write(tmp_path, paths)
    assert _read(tmp_path) == {10: "dog", 20: "cat", 30: "cat", 40: "dog"}
    assert load_images(tmp_path, labels=True).classes == ("cat", "dog")


def test_names_that_are_all_numbers_are_sorted_as_numbers_and_others_as_text(tmp_path: Path) -> None:
    _write(tmp_path / "numbers", {f"{name}/a.png": i for i, name in enumerate(("10", "9", "100", "2"))})
    assert load_images(tmp_path / "numbers", labels=True).classes == ("2", "9", "10", "100")
    _write(tmp_path / "mixed", {f"{name}/a.png": i for i, name in enumerate(("10", "9", "100", "two"))})
    assert load_images(tmp_path / "mixed", labels=True).classes == ("10", "100", "9", "two")
    assert _read(tmp_path / "numbers") == {0: "10", 1: "9", 2: "100", 3: "2"}


def test_the_labels_follow_the_images_where_a_broken_file_is_skipped(tmp_path: Path) -> None:
    _write(tmp_path, {"a/1.png": 10, "a/3.png": 20, "b/1.png": 30, "c/2.png": 40})
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    torn = (tmp_path / "c" / "2.png").read_bytes()[:50]
    (tmp_path / "b" / "0.png").write_bytes(torn)
    found = load_images(tmp_path, labels=True)
    assert _read(tmp_path) == {10: "a", 20: "a", 30: "b", 40: "c"}
    assert [Path(said.partition(": ")[0]).relative_to(tmp_path).as_posix() for said in found.skipped] == [
        "a/2.png",
        "b/0.png",
    ]


def test_the_images_are_the_same_whether_or_not_classes_are_asked_for(tmp_path: Path) -> None:
    _write(tmp_path, {"b/1.png": 10, "a/1.png": 20})
    plain, labelled = load_images(tmp_path), load_images(tmp_path, labels=True)
    assert (plain.labels, plain.classes) == (None, ())
    assert torch.equal(plain.images, labelled.images)


def test_images_in_no_folder_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, {"1.png": 0, "2.png": 1})
    _refused(tmp_path, f"'{tmp_path}' has no classes", "labels.json", "labels.csv", "--labels")


def test_images_beside_the_folders_of_the_classes_are_counted_and_refused(tmp_path: Path) -> None:
    _write(tmp_path, {"a/1.png": 0, "b/1.png": 1, "2.png": 2})
    _refused(tmp_path, f"1 image(s) in '{tmp_path}' lie outside", "'2.png'", "--labels")


# --- lists


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.json", '{"1.png": "red", "below/2.png": "blue", "3.png": "red"}'),
        ("labels.csv", "1.png,red\nbelow/2.png,blue\n3.png,red\n"),
        ("labels.csv", "file,class\r\n1.png , red\r\nbelow/2.png,  blue\r\n\r\n3.png,red,a third column\r\n"),
        ("labels.csv", '"1.png","red"\n"below/2.png",blue\n3.png,red'),
    ],
    ids=["json", "csv", "csv with a header, spaces and more columns", "csv in quotes"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_list_names_the_classes_whatever_the_folders_are(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    _write(tmp_path, {"1.png": 10, "below/2.png": 20, "3.png": 30})
    (tmp_path / name).write_text(text, encoding=encoding, newline="")
    assert _read(tmp_path) == {10: "red", 20: "blue", 30: "red"}
    assert load_images(tmp_path, labels=True).classes == ("blue", "red")


def test_numbers_in_a_list_are_classes_in_their_order(tmp_path: Path) -> None:
    _write(tmp_path, {"a.png": 10, "b.png": 20, "c.png": 30})
    (tmp_path / "labels.json").write_text('{"a.png": 10, "b.png": 9, "c.png": "10"}')
    found = load_images(tmp_path, labels=True)
    assert found.classes == ("9", "10")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1]


def test_what_is_listed_and_not_there_makes_no_class(tmp_path: Path) -> None:
    _write(tmp_path, {"a.png": 10})
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "labels.json").write_text('{"a.png": "red", "broken.png": "blue", "gone.png": "green"}')
    found = load_images(tmp_path, labels=True)
    assert found.classes == ("red",)
    assert len(found.skipped) == 1


def test_the_object_comes_before_the_table_and_both_before_the_folders(tmp_path: Path) -> None:
    _write(tmp_path, {"folder/a.png": 10})
    assert _read(tmp_path) == {10: "folder"}
    (tmp_path / "labels.csv").write_text("folder/a.png,table\n")
    assert _read(tmp_path) == {10: "table"}
    (tmp_path / "labels.json").write_text('{"folder/a.png": "object"}')
    assert _read(tmp_path) == {10: "object"}


def test_images_that_a_list_leaves_out_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    _write(tmp_path, {"a.png": 10, "b/c.png": 20, "d.png": 30})
    (tmp_path / "labels.json").write_text('{"a.png": "red", "c.png": "blue"}')
    _refused(tmp_path, f"'{tmp_path / 'labels.json'}'", f"'{Path('b/c.png')}' and 1 other image(s)")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", b'{"a.png": "red"'),
        ("labels.json", b'["a.png", "red"]'),
        ("labels.json", b""),
        ("labels.json", b'{"a.png": "r\xe9d"}'),
        ("labels.csv", b"a.png\n"),
        ("labels.csv", b"a.png;red\n"),
        ("labels.csv", b"a.png,r\xe9d\n"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    _write(tmp_path, {"a.png": 10})
    (tmp_path / name).write_bytes(content)
    _refused(tmp_path, f"The classes in '{tmp_path / name}' cannot be read: ")


_names = st.text(string.ascii_letters + string.digits + "-_ é", min_size=1, max_size=6).map(str.strip).filter(bool)


@settings(max_examples=25)
@given(classes=st.lists(_names, min_size=1, max_size=8), as_json=st.booleans())
def test_any_assignment_of_classes_comes_back(classes: list[str], as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = _write(Path(name), {f"{i}.png": i for i in range(len(classes))})
        listed = {f"{i}.png": label for i, label in enumerate(classes)}
        text = json.dumps(listed) if as_json else "\n".join(",".join(row) for row in listed.items())
        (folder / ("labels.json" if as_json else "labels.csv")).write_text(text, encoding="utf-8")
        assert _read(folder) == dict(enumerate(classes))
        assert len(load_images(folder, labels=True).classes) == len(set(classes))


# --- what a run knows its data by


def test_the_digest_with_labels_is_of_images_labels_and_names() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), np.uint8))
    sets = [
        ImageSet(images, torch.tensor(labels), classes)
        for labels, classes in (([0, 1, 1], ("a", "b")), ([0, 1, 0], ("a", "b")), ([0, 1, 1], ("a", "c")))
    ]
    assert len({each.digest(labels=True) for each in sets}) == 3
    assert {each.digest() for each in sets} == {ImageSet(images).digest()}
    assert ImageSet(images.flip(0), sets[0].labels, sets[0].classes).digest(labels=True) != sets[0].digest(labels=True)
    assert sets[0].digest(labels=True) == ImageSet(images.clone(), torch.tensor([0, 1, 1]), ("a", "b")).digest(
        labels=True
    )


def test_the_built_in_images_have_classes_without_being_asked() -> None:
    plain, asked = load_images(BUILT_IN), load_images(BUILT_IN, labels=True)
    assert plain.classes == asked.classes
    assert len(plain.classes) == 10
    assert plain.digest(labels=True) == asked.digest(labels=True) != plain.digest()
