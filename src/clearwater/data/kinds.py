"""Which kind of source a name or a path is."""

from __future__ import annotations

from pathlib import Path

from clearwater.data.archives import ZipSource
from clearwater.data.arrays import IdxSource, NpySource, NpzSource
from clearwater.data.built_in import BUILT_IN, BuiltInSource, Split
from clearwater.data.folder import FolderSource
from clearwater.data.hub import HubSource, is_saved_dataset
from clearwater.data.idx import idx_part, is_idx
from clearwater.data.names import EXTENSIONS
from clearwater.data.parquet import ParquetSource, training_files
from clearwater.data.sequence import Pictures, PicturesSource
from clearwater.data.sources import Source
from clearwater.data.tars import TarSource, shards
from clearwater.errors import InputError

__all__ = ["lasting_name", "open_source", "unseen_split"]

_HUB = "hf:"
_COMPRESSED_TARS = (".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst", ".tgz", ".txz", ".tbz2")
_KINDS = (
    "a folder of images, a .zip or .tar of them, shards such as 'pics-{000..009}.tar', an IDX, .npy, .npz or .parquet "
    f"file, a dataset as hf:NAME or hf:NAME:SPLIT, or {BUILT_IN} for the built-in ones"
)


def open_source(given: str | Path | Pictures, split: Split = "train") -> Source:
    """The images to train on, or those held out, by what the user gave.

    Raises:
        InputError: there are no images there, or of no kind that can be read; or none is held out.
    """
    if not isinstance(given, str | Path):
        return _for_training(PicturesSource(given), split)
    title, path = str(given), Path(given)
    if title == BUILT_IN:
        return BuiltInSource(split)
    idx = idx_part(path, split) if path.is_dir() else None
    if idx is not None:
        return IdxSource(idx)
    if title.startswith(_HUB):
        return _for_training(HubSource(title, *_hub_name(title)), split)
    if path.is_dir():
        return _for_training(_of_folder(path), split)
    if path.is_file():
        return _for_training(_of_file(path), split)
    if "{" in title:
        return _for_training(TarSource(title, shards(title)), split)
    raise InputError(f"'{title}' does not exist: give {_KINDS}.")


def unseen_split(source: str | Path | Pictures, held_out: int | None = 0) -> Split:
    """The part that a model is measured on: what was held out, or, where nothing is, all there is.

    Args:
        source: the images, as `load_images` takes them.
        held_out: how many of them are held out, if they have no part for that by themselves.
    """
    if held_out:
        return "held_out"
    if not isinstance(source, str | Path):
        return "train"
    held_out = str(source) == BUILT_IN or (Path(source).is_dir() and idx_part(Path(source), "held_out") is not None)
    return "held_out" if held_out else "train"


def lasting_name(given: str) -> str:
    """The same source by a name that does not depend on the folder one is in."""
    if given == BUILT_IN:
        return given
    if given.startswith(_HUB):
        name, part = _hub_name(given)
        if not is_saved_dataset(Path(name)):
            return given
        return f"{_HUB}{Path(name).resolve()}{f':{part}' if part else ''}"
    return str(Path(given).resolve())


def _for_training(source: Source, split: Split) -> Source:
    if split != "train":
        raise InputError(
            f"Only {BUILT_IN}, and a folder with t10k-images-idx3-ubyte, has a held-out part: name a folder of other "
            "images instead."
        )
    return source


def _hub_name(given: str) -> tuple[str, str | None]:
    name, _, part = given.removeprefix(_HUB).partition(":")
    return name, part or None


def _of_folder(folder: Path) -> Source:
    if is_saved_dataset(folder):
        return HubSource(str(folder), str(folder), None)
    images = FolderSource(folder)
    if len(images):
        return images
    tars, tables = sorted(folder.glob("*.tar")), sorted(folder.rglob("*.parquet"))
    if tars:
        return TarSource(str(folder), tars)
    if tables:
        return ParquetSource(str(folder), training_files(str(folder), tables))
    raise InputError(
        f"There is no image in '{folder}' or the folders in it: give a folder with files that end in "
        f"{', '.join(EXTENSIONS)}, or with .tar or .parquet files."
    )


def _of_file(path: Path) -> Source:
    name = path.name.lower()
    if name.endswith(_COMPRESSED_TARS):
        raise InputError(
            f"'{path}' is compressed as a whole, so that no image in it can be read without those before it: unpack it "
            f"(tar xf '{path}') and give the folder."
        )
    if is_idx(path):
        return IdxSource(path)
    match path.suffix.lower():
        case ".npy":
            return NpySource(path)
        case ".npz":
            return NpzSource(path)
        case ".zip":
            return ZipSource(path)
        case ".tar":
            return TarSource(str(path), [path])
        case ".parquet":
            return ParquetSource(str(path), [path])
    raise InputError(f"'{path}' is a file of no kind that can be read: give {_KINDS}.")
