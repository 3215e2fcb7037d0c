"""The classes of images: from a file that lists them, or from the folders they lie in."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from clearwater.data.sources import Labels
from clearwater.errors import InputError

__all__ = ["LISTS", "labels_of_names", "labels_of_numbers", "labels_of_paths"]

LISTS = ("labels.json", "labels.csv", "dataset.json")


def labels_of_paths(title: str, paths: Sequence[str], read: Callable[[str], bytes | None]) -> Labels:
    """The class of each image, and the names of the classes in the order of their numbers.

    A `labels.json` beside the images, an object from file to class, a `labels.csv` with the two in its first columns,
    or a `dataset.json` as StyleGAN and EDM write it, `{"labels": [["file", 3], …]}`, comes first; without any, the
    class is the name of the folder on top that the image is in.

    Args:
        title: the folder or the archive, for messages.
        paths: of the images, relative to it, with slashes.
        read: gives the content of a file there, None if there is no such file.

    Returns:
        int64, shape (N,), and the names, sorted (as numbers, if they all are).

    Raises:
        InputError: there are no classes, or some image has none.
    """
    for name in LISTS:
        named = _listed(f"{title}/{name}", name, read)
        if named is not None:
            missing = [path for path in paths if path not in named]
            if missing:
                raise InputError(
                    f"'{title}/{name}' names no class for '{missing[0]}' and {len(missing) - 1} other image(s): "
                    "list every image, by its path below the folder."
                )
            return labels_of_names([named[path] for path in paths])
    loose = [path for path in paths if "/" not in path]
    if 0 < len(loose) < len(paths):
        raise InputError(
            f"{len(loose)} image(s) in '{title}' lie outside the folders of the classes, such as '{loose[0]}': "
            "put each into one, or train without --labels."
        )
    if loose:
        raise InputError(
            f"'{title}' has no classes: put the images of each class into a folder of its own, or list them in "
            f"{' or '.join(LISTS[:2])} there; or train without --labels."
        )
    return labels_of_names([path.partition("/")[0] for path in paths])


def labels_of_names(names: Sequence[str]) -> Labels:
    """Classes by name, one an image, numbered in the order of the names: as numbers, if they all are."""
    distinct = set(names)
    numbers = all(name.isascii() and name.isdecimal() for name in distinct)
    every = sorted(distinct, key=lambda name: (int(name) if numbers else 0, name))
    number = {name: i for i, name in enumerate(every)}
    return torch.tensor([number[name] for name in names], dtype=torch.int64), tuple(every)


def labels_of_numbers(title: str, numbers: npt.NDArray[np.integer], classes: Sequence[str] | None) -> Labels:
    """Classes by number, one an image, with their names; without names each number that occurs is one.

    Raises:
        InputError: a number is below zero, which stands for no class, or has no name.
    """
    least, most = int(numbers.min()), int(numbers.max())
    if least < 0:
        raise InputError(
            f"'{title}' has images without a class, such as number {int(numbers.argmin())}: give each one, or train "
            "without --labels."
        )
    if classes is None:
        distinct, places = np.unique(numbers, return_inverse=True)
        return torch.from_numpy(places.astype(np.int64)), tuple(map(str, distinct.tolist()))
    if most >= len(classes):
        raise InputError(f"'{title}' has images of class {most}, and names for {len(classes)} classes: name every one.")
    return torch.from_numpy(numbers.astype(np.int64)), tuple(classes)


def _listed(path: str, name: str, read: Callable[[str], bytes | None]) -> dict[str, str] | None:
    """The class of each file that a list names; None if it is not there, or not a list of classes."""
    try:
        content = read(name)
        if content is None:
            return None
        text = content.decode("utf-8-sig")
        if name.endswith(".csv"):
            return _of_table(text)
        found = json.loads(text)
        if name == "dataset.json":
            # Others too call a file this: only one with labels is meant.
            return _of_pairs(found["labels"]) if isinstance(found, dict) and "labels" in found else None
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        return {file: _class_name(file, label) for file, label in found.items()}
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"The classes in '{path}' cannot be read: {error}.") from None


def _of_table(text: str) -> dict[str, str]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if any(len(row) < 2 for row in rows):
        raise ValueError("a line has fewer than two columns")
    if any(not row[1].strip() for row in rows):
        raise ValueError("a class is empty")
    return {row[0].strip(): row[1].strip() for row in rows}


def _of_pairs(pairs: object) -> dict[str, str]:
    if not isinstance(pairs, list):
        raise ValueError("its labels are not a list of pairs of a file and a class")
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"{json.dumps(pair)} is not a pair of a file and a class")
    return {file: _class_name(file, label) for file, label in pairs}


def _class_name(file: str, label: object) -> str:
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise ValueError(f"the class of {file!r} is neither a name nor a whole number")
    return str(label)
