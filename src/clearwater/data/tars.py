"""Images in tar archives, one or many (shards, as WebDataset has them), read in place: nothing is unpacked."""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clearwater.data.archives import image_members, member_path
from clearwater.data.labels import LISTS, labels_of_names, labels_of_paths
from clearwater.data.names import is_image, root_of
from clearwater.data.sources import Labels, Numbers, RandomAccess, from_bytes, hash_of, stamp
from clearwater.errors import InputError

__all__ = ["TarSource", "shards"]

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BRACES = re.compile(r"(\{\d+\.\.\d+\})")


class _Index(NamedTuple):
    """What is in the archives: for each image the number of its archive, its offset and its size; its path; its class.

    `root` is the folder that all of them lie in, `lists` are the files that may list the classes, by their paths.
    """

    where: Numbers
    paths: list[str]
    classes: list[str | None]
    root: str
    lists: dict[str, bytes]


class TarSource(RandomAccess):
    """Every image in tar archives: one archive after another, and in each in the order of the paths.

    Classes come from WebDataset's members, `KEY.cls` or "label" or "cls" in `KEY.json` beside each image `KEY.…`, where
    KEY ends at the first dot of the name; without any, from the paths, as in a folder.
    """

    def __init__(self, title: str, files: Sequence[Path]) -> None:
        self.title, self.place = title, str(files[0].resolve())
        self._files = files
        self._fingerprint = hash_of(map(stamp, files))

    def __len__(self) -> int:
        return len(self._index.paths)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        return f"{self._files[self._index.where[i, 0]]}/{self._index.paths[i]}"

    def open(self, i: int) -> Image.Image:
        """See `RandomAccess.open`."""
        archive, offset, size = self._index.where[i].tolist()
        with self._files[archive].open("rb") as file:
            file.seek(offset)
            return from_bytes(file.read(size))

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`."""
        index = self._index
        paths = [index.paths[i] for i in kept.tolist()]
        if not any(index.classes):
            below = [path.removeprefix(index.root) for path in paths]
            return labels_of_paths(self.title, below, lambda name: index.lists.get(index.root + name))
        classes = [index.classes[i] or "" for i in kept.tolist()]
        missing = [path for path, name in zip(paths, classes, strict=True) if not name]
        if missing:
            raise InputError(
                f"In '{self.title}' no .cls and no .json names a class for '{missing[0]}' and {len(missing) - 1} other "
                "image(s): every image needs one beside it."
            )
        return labels_of_names(classes)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of each archive's name, size and time of change."""
        return self._fingerprint

    @cached_property
    def _index(self) -> _Index:
        found = _Index(np.empty((0, 3), np.int64), [], [], "", {})
        where = []
        roots = []
        for archive, file in enumerate(self._files):
            members, classes = _scan(file, found.lists)
            root, images = image_members(str(file), [*members, *found.lists])
            found.paths.extend(images)
            found.classes.extend(classes.get(_key(path)) for path in images)
            where.append(np.array([(archive, *members[path]) for path in images], np.int64))
            roots.append(root)
        return found._replace(where=np.concatenate(where), root=root_of(f"{root}x" for root in roots))


def shards(pattern: str) -> list[Path]:
    """The files that a pattern such as `pics-{000..009}.tar` stands for.

    Raises:
        InputError: one of them is not there.
    """
    choices = [_numbers(part) for part in _BRACES.split(pattern)]
    files = [Path("".join(parts)) for parts in product(*choices)]
    if not files:
        raise InputError(f"'{pattern}' stands for no file: write the smaller number in the braces first.")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise InputError(
            f"Of the {len(files)} files of '{pattern}' {len(missing)} are not there, such as '{missing[0]}': correct "
            "the numbers in the braces."
        )
    return files


def _numbers(part: str) -> list[str]:
    found = _RANGE.fullmatch(part)
    if found is None:
        return [part]
    first, last = found.groups()
    return [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]


def _scan(file: Path, lists: dict[str, bytes]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Offset and size of each image in an archive, by path, and the classes of WebDataset's keys; adds to `lists`."""
    images: dict[str, tuple[int, int]] = {}
    classes: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as archive, file.open("rb") as content:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps a kilobyte a member
                if not member.isreg() or member.issparse():
                    continue
                path = member_path(member.name)
                if is_image(path):
                    images[path] = member.offset_data, member.size
                elif path.endswith((".cls", ".json", *LISTS)):
                    content.seek(member.offset_data)
                    text = content.read(member.size)
                    if path.rpartition("/")[2] in LISTS:
                        lists[path] = text
                    elif (label := _label(path, text)) is not None:
                        classes[_key(path)] = sys.intern(label)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"'{file}' cannot be read as a tar archive: {error}. If it is compressed or cut short, unpack it "
            "(tar xf) and give the folder."
        ) from None
    return images, classes


def _key(path: str) -> str:
    """WebDataset's name of a sample: the path up to the first dot of the file's name."""
    above, slash, name = path.rpartition("/")
    return f"{above}{slash}{name.partition('.')[0]}"


def _label(name: str, content: bytes) -> str | None:
    """The class in a .cls or a .json member; None where it says none, as metadata of other kinds do."""
    try:
        text = content.decode("utf-8-sig").strip()
        found = json.loads(text) if name.endswith(".json") else {"cls": text}
    except ValueError:
        return None
    label = found.get("label", found.get("cls")) if isinstance(found, dict) else None
    return str(label) if isinstance(label, str | int) and not isinstance(label, bool) and label != "" else None
