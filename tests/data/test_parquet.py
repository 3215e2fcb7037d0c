"""Parquet files and datasets of Hugging Face's: columns, parts, classes, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearwater.data import load_images, stream_images
from clearwater.data.kinds import open_source
from clearwater.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Png = Callable[[Any], bytes]


@pytest.fixture
def grey(png: Png) -> Callable[[int], list[bytes]]:
    """n pictures, each of one grey: 0, 1, 2, …."""
    return lambda n: [png(np.full((4, 5), i, np.uint8)) for i in range(n)]


def _write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None, rows: int = 1000) -> Path:
    table = pyarrow.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=rows)
    return path


def _greys(source: Any) -> list[int]:
    return load_images(source).images[:, 0, 0, 0].tolist()


def test_bytes_alone_are_images_too_and_other_columns_are_not(
    tmp_path: Path, grey: Callable[[int], list[bytes]]
) -> None:
    columns = {"id": list(range(3)), "picture": grey(3), "text": ["a", "b", "c"]}
    assert _greys(_write(tmp_path / "a.parquet", columns)) == [0, 1, 2]


@pytest.mark.parametrize("rows", [1, 3, 40, 100])
def test_row_groups_of_any_size_are_read_in_order_from_any_row_on(
    tmp_path: Path, grey: Callable[[int], list[bytes]], rows: int
) -> None:
    images = grey(40)
    _write(tmp_path / "a.parquet", {"image": images[:17]}, rows=rows)
    _write(tmp_path / "b.parquet", {"image": images[17:]}, rows=rows)
    source = open_source(tmp_path)
    for first in range(41):
        assert [opener().getpixel((0, 0)) for opener in source.each(first)] == list(range(first, 40))
    assert source.name(16) == f"{tmp_path / 'a.parquet'}, row 16"
    assert source.name(17) == f"{tmp_path / 'b.parquet'}, row 0"


def test_of_several_parts_that_for_training_is_read(tmp_path: Path, grey: Callable[[int], list[bytes]]) -> None:
    images = grey(4)
    for i, name in enumerate(("test-00000-of-00001", "train-00000-of-00002-0a1b2c", "train-00001-of-00002-0a1b2c")):
        (tmp_path / "data").mkdir(exist_ok=True)
        _write(tmp_path / "data" / f"{name}.parquet", {"image": images[i : i + 1]})
    assert _greys(tmp_path) == [1, 2]
    for path in (tmp_path / "data").glob("train-*"):
        path.rename(path.with_name(path.name.replace("train", "validation")))
    with pytest.raises(InputError, match=r"several parts \(test, validation\), none of them 'train': give one file"):
        load_images(tmp_path)
    assert _greys(tmp_path / "data" / "test-00000-of-00001.parquet") == [0]


def test_classes_have_the_names_of_the_metadata_or_are_what_occurs(
    tmp_path: Path, grey: Callable[[int], list[bytes]]
) -> None:
    named = {"image": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}}
    for columns, features, classes, numbers in (
        ({"kind": [2, 0, 0]}, named, ("cat", "dog", "eel"), [2, 0, 0]),
        ({"label": [10, 9, 10]}, None, ("9", "10"), [1, 0, 1]),
        ({"cls": ["eel", "cat", "cat"]}, None, ("cat", "eel"), [1, 0, 0]),
    ):
        _write(tmp_path / "a.parquet", {"image": grey(3), **columns}, features)
        found = load_images(tmp_path / "a.parquet", labels=True)
        assert found.classes == classes
        assert found.labels is not None
        assert found.labels.tolist() == numbers


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": [0, -1]}, "images without a class, such as number 1"),
        ({"label": [0, None]}, "has None as a class, where a number or a name belongs"),
        ({"label": ["a", ""]}, "has '' as a class"),
        ({"label": [0.5, 1.0]}, "has 0.5 as a class"),
        ({"colour": [0, 1]}, "has no column of classes: name the one that is meant 'label'"),
    ],
)
def test_classes_that_are_none_are_refused(
    tmp_path: Path, grey: Callable[[int], list[bytes]], columns: dict[str, Any], said: str
) -> None:
    path = _write(tmp_path / "a.parquet", {"image": grey(2), **columns})
    with pytest.raises(InputError, match=said):
        load_images(path, labels=True)


def test_no_images_and_several_columns_of_them_are_refused(tmp_path: Path, grey: Callable[[int], list[bytes]]) -> None:
    with pytest.raises(InputError, match="has no column of images: name the one that is meant 'image'"):
        load_images(_write(tmp_path / "a.parquet", {"text": ["a"]}))
    with pytest.raises(InputError, match=r"several columns of images \(before, after\): name"):
        load_images(_write(tmp_path / "a.parquet", {"before": grey(1), "after": grey(1)}))
    with pytest.raises(InputError, match="There is no row in"):
        load_images(_write(tmp_path / "a.parquet", {"image": pyarrow.array([], pyarrow.binary())}))


def test_a_row_without_bytes_is_skipped(tmp_path: Path, grey: Callable[[int], list[bytes]]) -> None:
    (content,) = grey(1)
    rows = [{"bytes": content, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    found = load_images(_write(tmp_path / "a.parquet", {"image": rows}))
    assert len(found) == 1
    assert found.skipped == tuple(f"{tmp_path / 'a.parquet'}, row {i}: it holds no bytes" for i in (1, 2))


def test_memory_holds_some_rows_and_not_a_group_of_any_size(tmp_path: Path) -> None:
    contents = [np.random.default_rng(i).bytes(4000) for i in range(12_000)]
    path = _write(tmp_path / "a.parquet", {"image": contents}, rows=12_000)
    pool = pyarrow.default_memory_pool()
    before = pool.bytes_allocated()
    held = [pool.bytes_allocated() - before for _ in open_source(path).each()]
    assert len(held) == 12_000
    assert max(held) < 16e6  # of 48e6: pages have about a thousand rows, 4e6


def test_it_cannot_be_streamed(tmp_path: Path, grey: Callable[[int], list[bytes]]) -> None:
    path = _write(tmp_path / "a.parquet", {"image": grey(2)})
    with pytest.raises(InputError, match=r"a\.parquet' can only be read from its beginning to its end.*--no-cache"):
        stream_images(path)


@pytest.mark.parametrize(
    ("library", "source", "extra"), [("pyarrow.parquet", "a.parquet", "parquet"), ("datasets", "hf:x", "hf")]
)
def test_what_is_not_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, source: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "a.parquet").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"pip install 'clearwater\[{extra}\]'"):
        load_images(source)


# --- datasets


@pytest.fixture
def datasets() -> Any:
    """The library."""
    return pytest.importorskip("datasets")


def _dataset(datasets: Any, images: list[bytes], **columns: Any) -> Any:
    features = {name: datasets.Value("string" if isinstance(of[0], str) else "int64") for name, of in columns.items()}
    data = {"picture": [{"bytes": image, "path": None} for image in images], **columns}
    return datasets.Dataset.from_dict(data, features=datasets.Features(picture=datasets.Image(), **features))


def test_a_saved_dataset_is_read_from_its_folder_and_its_parts_by_name(
    tmp_path: Path, datasets: Any, grey: Callable[[int], list[bytes]]
) -> None:
    images = grey(5)
    _dataset(datasets, images[:2]).save_to_disk(tmp_path / "alone")
    parts = {"train": _dataset(datasets, images[:3]), "test": _dataset(datasets, images[3:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    for source, expected in (
        (tmp_path / "alone", [0, 1]),
        (f"hf:{tmp_path / 'alone'}", [0, 1]),
        (tmp_path / "parts", [0, 1, 2]),
        (f"hf:{tmp_path / 'parts'}:train", [0, 1, 2]),
        (f"hf:{tmp_path / 'parts'}:test", [3, 4]),
    ):
        assert _greys(source) == expected
    with pytest.raises(InputError, match="has the parts train, test, and not 'val': name one of them"):
        load_images(f"hf:{tmp_path / 'parts'}:val")
    with pytest.raises(InputError, match="has no parts, and not 'test'"):
        load_images(f"hf:{tmp_path / 'alone'}:test")


def test_a_dataset_by_name_is_asked_for_by_name_and_part(
    datasets: Any, grey: Callable[[int], list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load(name: str, *, split: str) -> Any:
        asked.append((name, split))
        return _dataset(datasets, grey(3), label=["b", "a", "b"])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_images("hf:someone/something", labels=True).classes == ("a", "b")
    assert len(load_images("hf:something:test")) == 3
    assert asked == [("someone/something", "train"), ("something", "test")]


def test_what_datasets_says_is_passed_on(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, split: str) -> Any:
        raise ConnectionError(f"no {name} there\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"'hf:nothing' cannot be loaded by datasets: no nothing there\.$"):
        load_images("hf:nothing")


def test_a_dataset_that_refers_to_files_reads_them(
    tmp_path: Path, datasets: Any, grey: Callable[[int], list[bytes]]
) -> None:
    (tmp_path / "a.png").write_bytes(grey(2)[1])
    features = datasets.Features(image=datasets.Image())
    data = {"image": [{"bytes": None, "path": str(tmp_path / "a.png")}]}
    datasets.Dataset.from_dict(data, features=features).save_to_disk(tmp_path / "saved")
    assert _greys(tmp_path / "saved") == [1]
