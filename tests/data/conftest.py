"""The same pictures as every kind of source, and a cache that is nobody else's."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearwater.data import ImageSet, decoding, default_cache, load_images

# Before `datasets` is loaded: nothing may be asked of the network.
os.environ["HF_HUB_OFFLINE"] = "1"

Files = Mapping[str, bytes]  # path below the folder of the classes → an encoded picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `default_cache` gives in tests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLEARWATER_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def png() -> Callable[[Any], bytes]:
    """The PNG file of an array, or of a Pillow image."""

    def encoded(picture: Any) -> bytes:
        buffer = io.BytesIO()
        (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "PNG")
        return buffer.getvalue()

    return encoded


@pytest.fixture(scope="session")
def even(png: Callable[[Any], bytes]) -> dict[str, bytes]:
    """Twelve coloured pictures of 12 × 10 in three classes, in the order of their paths."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 10, 3), np.uint8)
    return {f"{['ant', 'bee', 'cat'][i // 4]}/{i:02}.png": png(pixels[i]) for i in range(12)}


@pytest.fixture(scope="session")
def mixed(png: Callable[[Any], bytes]) -> dict[str, bytes]:
    """Pictures of many sizes and modes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = io.BytesIO()
    generator = np.random.default_rng(1)
    Image.fromarray(generator.integers(0, 256, (30, 50, 3), np.uint8)).save(lying, "PNG", exif=exif)
    return {
        "ant/1.png": png(generator.integers(0, 256, (40, 70), np.uint8)),
        "ant/2.png": png(generator.integers(0, 256, (64, 64, 4), np.uint8)),
        "bee/1.png": lying.getvalue(),
        "bee/2.png": png(generator.integers(0, 65536, (20, 30), np.uint16)),
        "cat/1.png": png(Image.fromarray(generator.integers(0, 256, (33, 33, 3), np.uint8)).quantize(16)),
    }


def _folder(at: Path, files: Files) -> Path:
    for name, content in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(content)
    return at


def _zip(at: Path, files: Files) -> Path:
    with zipfile.ZipFile(at / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(files):  # the order in the archive is no matter
            archive.writestr(f"pictures/{name}", files[name])
    return at / "pictures.zip"


def write_tar(path: Path, files: Files) -> Path:
    """A tar archive of these files, in their order."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def tar() -> Callable[[Path, Files], Path]:
    """Writes a tar archive of files, in their order."""
    return write_tar


def _tar(at: Path, files: Files) -> Path:
    return write_tar(at / "pictures.tar", {f"./pictures/{name}": files[name] for name in reversed(files)})


def _shards(at: Path, files: Files) -> str:
    half = len(files) // 2
    for shard, names in enumerate((list(files)[:half], list(files)[half:])):
        members: dict[str, bytes] = {}
        for i, name in enumerate(names):
            label = name.partition("/")[0]
            members |= {f"{i:03}.png": files[name]}
            # The two forms that WebDataset has.
            members |= (
                {f"{i:03}.json": json.dumps({"label": label}).encode()} if shard else {f"{i:03}.cls": label.encode()}
            )
        write_tar(at / f"pictures-{shard:03}.tar", members)
    return str(at / "pictures-{000..001}.tar")


def _numbers(files: Files) -> tuple[list[str], list[int]]:
    classes = sorted({name.partition("/")[0] for name in files})
    return classes, [classes.index(name.partition("/")[0]) for name in files]


def _parquet(at: Path, files: Files) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    classes, numbers = _numbers(files)
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    images = pyarrow.array([{"bytes": content, "path": name} for name, content in files.items()])
    table = pyarrow.table({"image": images, "label": pyarrow.array(numbers)})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    half = len(files) // 2
    for i, part in enumerate((table[:half], table[half:])):
        parquet.write_table(part, at / f"train-{i:05}-of-00002.parquet", row_group_size=4)
    return at


def _hub(at: Path, files: Files) -> str:
    datasets = pytest.importorskip("datasets")
    classes, numbers = _numbers(files)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=classes))
    images = [{"bytes": content, "path": None} for content in files.values()]
    dataset = datasets.Dataset.from_dict({"image": images, "label": numbers}, features=features)
    datasets.DatasetDict(train=dataset).save_to_disk(at / "saved")
    return f"hf:{at / 'saved'}"


class Pairs:
    """A dataset as torchvision has them."""

    def __init__(self, files: Files) -> None:
        self.classes, self._numbers = _numbers(files)
        self._files = list(files.values())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(self._files[i])), self._numbers[i]


KINDS: dict[str, Callable[[Path, Files], Any]] = {
    "folder": _folder,
    "zip": _zip,
    "tar": _tar,
    "shards": _shards,
    "parquet": _parquet,
    "hub": _hub,
    "pairs": lambda at, files: Pairs(files),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Callable[[Path, Files], Any]:
    """Writes pictures below a folder as one kind of source, and gives what to load: each kind in turn."""
    return KINDS[request.param]


class Cache:
    """The cache of 3 × 5 × 6 images below `default_cache()`."""

    @property
    def entry(self) -> Path:
        """Its folder."""
        (found,) = default_cache().glob("*/3x5x6")
        return found

    def load(self, source: Any, **settings: Any) -> ImageSet:
        """The images of a source from it."""
        return load_images(source, size=(5, 6), channels=3, cache=default_cache(), **settings)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with blocks of four images."""
    monkeypatch.setattr(decoding, "_BLOCK_ITEMS", 4)
    return Cache()


@pytest.fixture
def folder(tmp_path: Path, png: Callable[[Any], bytes]) -> Path:
    """20 pictures of 5 × 6 in two classes, number 6 broken."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 6, 3), np.uint8)
    for i in range(20):
        path = tmp_path / "pictures" / "ab"[i // 10] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"broken" if i == 6 else png(pixels[i]))
    return tmp_path / "pictures"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each image that is decoded."""
    count: list[int] = []
    before = decoding.decode

    def counted(*args: Any, **settings: Any) -> Any:
        count.append(1)
        return before(*args, **settings)

    monkeypatch.setattr(decoding, "decode", counted)
    return count
