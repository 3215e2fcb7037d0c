"""The classes of a folder's images: from a file that lists them, or from the folders they lie in."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["read_labels"]

_LISTS = ("labels.json", "labels.csv")


def read_labels(folder: Path, paths: Sequence[Path]) -> tuple[Tensor, tuple[str, ...]]:
    """The class of each image, and the names of the classes in the order of their numbers.

    A `labels.json` in the folder, an object from file to class, or a `labels.csv` with the two in its first columns
    comes first; without either, the class is the name of the folder below `folder` that the image is in.

    Args:
        folder: where the images were read from.
        paths: of the images, below it.

    Returns:
        int64, shape (N,), and the names, sorted (as numbers, if they all are).

    Raises:
        InputError: there are no classes, or some image has none.
    """
    for name in _LISTS:
        if (folder / name).is_file():
            named = _listed(folder / name)
            missing = [path for path in paths if path.relative_to(folder).as_posix() not in named]
            if missing:
                raise InputError(
                    f"'{folder / name}' names no class for '{missing[0].relative_to(folder)}' and {len(missing) - 1} "
                    "other image(s): list every image, by its path below the folder."
                )
            return _numbered([named[path.relative_to(folder).as_posix()] for path in paths])
    parts = [path.relative_to(folder).parts for path in paths]
    loose = [path for path, part in zip(paths, parts, strict=True) if len(part) < 2]
    if 0 < len(loose) < len(paths):
        raise InputError(
            f"{len(loose)} image(s) in '{folder}' lie outside the folders of the classes, such as '{loose[0].name}': "
            "put each into one, or train without --labels."
        )
    if loose:
        raise InputError(
            f"'{folder}' has no classes: put the images of each class into a folder of its own, or list them in "
            f"{' or '.join(_LISTS)} there; or train without --labels."
        )
    return _numbered([part[0] for part in parts])


def _listed(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            named = json.loads(text)
            if not isinstance(named, dict):
                raise ValueError("it is not an object")
            for file, label in named.items():
                if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
                    raise ValueError(f"the class of {file!r} is neither a name nor a whole number")
            return {file: str(label) for file, label in named.items()}
        rows = [row for row in csv.reader(text.splitlines()) if row]
        if any(len(row) < 2 for row in rows):
            raise ValueError("a line has fewer than two columns")
        if any(not row[1].strip() for row in rows):
            raise ValueError("a class is empty")
        return {row[0].strip(): row[1].strip() for row in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"The classes in '{path}' cannot be read: {error}.") from None


def _numbered(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    distinct = set(names)
    numbers = all(name.isascii() and name.isdecimal() for name in distinct)
    every = sorted(distinct, key=lambda name: (int(name) if numbers else 0, name))
    number = {name: i for i, name in enumerate(every)}
    return torch.tensor([number[name] for name in names]), tuple(every)
