"""Images through Hugging Face's `datasets`: by name, or from a folder that `save_to_disk` wrote."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from clearwater.data.parquet import labels_of_column, one_column
from clearwater.data.sources import Labels, Numbers, RandomAccess, from_bytes, hash_of
from clearwater.errors import InputError

__all__ = ["HubSource", "is_saved_dataset"]


class HubSource(RandomAccess):
    """A dataset with a column of images, by its name on the hub or the folder that it was saved to.

    Args:
        title: what the user gave.
        name: the dataset's, or the path of its folder.
        part: "train", "test", …; None for "train", or for all where it has no parts.

    Raises:
        InputError: `datasets` isn't installed, or cannot load it; it has no such part, or no images.
    """

    def __init__(self, title: str, name: str, part: str | None) -> None:
        folder = Path(name)
        saved = is_saved_dataset(folder)
        self.title, self.place = title, str(folder.resolve()) if saved else f"hf:{name}"
        library = _datasets()
        try:
            loaded = library.load_from_disk(name) if saved else library.load_dataset(name, split=part or "train")
        except Exception as error:  # of the network, of the file system, its own
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"'{title}' cannot be loaded by datasets: {first.rstrip('.')}.") from None
        dataset = _part_of(title, loaded, part) if saved else loaded
        self._fingerprint = hash_of([str(dataset._fingerprint)])
        images = [key for key, feature in dataset.features.items() if isinstance(feature, library.Image)]
        self._image = one_column(title, "images", images, ("image", "img", "images"))
        self._dataset = dataset
        self._encoded = dataset.select_columns([self._image]).cast_column(self._image, library.Image(decode=False))
        self._class_type = library.ClassLabel
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return f"{self.title}, row {i}"

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        with self._lock:  # nothing is promised about threads
            found = self._encoded[i][self._image]
        if found["bytes"] is not None:
            return from_bytes(found["bytes"])
        return Image.open(found["path"])

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`; from the column `label`, or the only one that is declared so."""
        features = self._dataset.features
        usual = ("label", "labels", "cls", "class")
        declared = [key for key, feature in features.items() if isinstance(feature, self._class_type)]
        column = one_column(self.title, "classes", declared or [key for key in usual if key in features][:1], usual)
        values = list(self._dataset.with_format(None)[column])
        names = features[column].names if column in declared else None
        return labels_of_column(self.title, [values[i] for i in kept.tolist()], names)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: the one by which `datasets` knows it."""
        return self._fingerprint


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or all(
        (folder / name).is_file() for name in ("state.json", "dataset_info.json")
    )


def _part_of(title: str, loaded: Any, part: str | None) -> Any:
    parts = list(loaded) if isinstance(loaded, Mapping) else []
    if not parts and part is None:
        return loaded
    if (part or "train") not in parts:
        which = f"the parts {', '.join(parts)}" if parts else "no parts"
        raise InputError(f"'{title}' has {which}, and not '{part or 'train'}': name one of them after a colon.")
    return loaded[part or "train"]


def _datasets() -> Any:  # it has no types
    try:
        return import_module("datasets")
    except ImportError:
        raise InputError(
            "To read a dataset of Hugging Face's, datasets is needed: pip install 'clearwater[hf]'."
        ) from None
