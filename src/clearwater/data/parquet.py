"""Images in Parquet files, as Hugging Face lays them out; needs pyarrow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clearwater.data.labels import labels_of_names, labels_of_numbers
from clearwater.data.sources import Labels, Numbers, Opener, Source, from_bytes, hash_of, stamp
from clearwater.errors import InputError

__all__ = ["ParquetSource", "one_column", "training_files"]

_ROWS = 16  # rows taken at a time; of what is read a page is held, which has a thousand rows or so
_PART = re.compile(r"(.+?)-\d+-of-\d+.*")


class ParquetSource(Source):
    """The rows of Parquet files, one file after another; read from the first to the last, not in any order.

    The column of images holds the encoded bytes, or bytes and path; that of classes numbers, whose names may stand in
    Hugging Face's metadata, or names.
    """

    def __init__(self, title: str, files: Sequence[Path]) -> None:
        self._parquet = _parquet()
        self.title, self.place = title, str(files[0].resolve())
        self._files = files
        self._fingerprint = hash_of(map(stamp, files))
        self._rows = [self._opened(file).metadata.num_rows for file in files]
        if not sum(self._rows):
            raise InputError(f"There is no row in '{title}': give Parquet files with images in them.")
        schema = self._opened(files[0]).schema_arrow
        self._features = _features(schema)
        self._column = one_column(title, "images", _candidates(schema, self._features), ("image", "img", "images"))
        self._types = {field.name: field.type for field in schema}

    def __len__(self) -> int:
        return sum(self._rows)

    def name(self, i: int) -> str:
        """See `Source.name`."""
        ends = np.cumsum(self._rows)
        file = int(np.searchsorted(ends, i, side="right"))
        return f"{self._files[file]}, row {i - int(ends[file]) + self._rows[file]}"

    def each(self, first: int = 0) -> Iterator[Opener]:
        """See `Source.each`."""
        before = 0
        for file, rows in zip(self._files, self._rows, strict=True):
            if first < before + rows:
                yield from self._each_of(file, max(first - before, 0))
            before += rows

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`; from the column `label`, `labels` or `cls`, or the only one that is declared so."""
        declared = [name for name, feature in self._features.items() if feature.get("_type") == "ClassLabel"]
        usual = ("label", "labels", "cls", "class")
        named = [name for name in usual if name in self._types]
        column = one_column(self.title, "classes", declared or named[:1], usual)
        values = [value for file in self._files for value in self._column_of(file, column)]
        return labels_of_column(
            self.title, [values[i] for i in kept.tolist()], self._features.get(column, {}).get("names")
        )

    def fingerprint(self) -> str:
        """See `Source.fingerprint`: of each file's name, size and time of change."""
        return self._fingerprint

    def _each_of(self, file: Path, first: int) -> Iterator[Opener]:
        with self._opened(file) as opened:
            for group in range(opened.metadata.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                if first >= rows:
                    first -= rows
                    continue
                batches = opened.iter_batches(_ROWS, row_groups=[group], columns=[self._column], use_threads=False)
                for batch in batches:
                    skipped = min(first, len(batch))
                    yield from (partial(_open_value, value) for value in batch.column(0)[skipped:].to_pylist())
                    first -= skipped

    def _column_of(self, file: Path, column: str) -> list[object]:
        with self._opened(file) as opened:
            found: list[object] = opened.read(columns=[column], use_threads=False).column(0).to_pylist()
            return found

    def _opened(self, file: Path) -> Any:  # pyarrow has no types
        try:
            return self._parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        except Exception as error:  # pyarrow has kinds of its own
            raise InputError(f"'{file}' cannot be read as Parquet: {str(error).splitlines()[0]}.") from None


def training_files(title: str, files: Sequence[Path]) -> list[Path]:
    """Of files that are named as Hugging Face does, `train-00000-of-00002.parquet`, those to train on; or all.

    Raises:
        InputError: they have parts, and none is for training.
    """
    parts = {file: found[1] for file in files if (found := _PART.fullmatch(file.stem))}
    names = sorted(set(parts.values()))
    if len(names) < 2:
        return list(files)
    if "train" not in names:
        raise InputError(f"'{title}' holds several parts ({', '.join(names)}), none of them 'train': give one file.")
    return [file for file in files if parts.get(file) == "train"]


def one_column(title: str, what: str, candidates: Sequence[str], usual: Sequence[str]) -> str:
    """The column to read: the only one, or the first that has a usual name.

    Raises:
        InputError: there is none, or several without a usual name.
    """
    found = [*(name for name in usual if name in candidates), *candidates[: len(candidates) == 1]]
    if not found:
        many = f"several columns of {what} ({', '.join(candidates)})" if candidates else f"no column of {what}"
        raise InputError(f"'{title}' has {many}: name the one that is meant '{usual[0]}'.")
    return found[0]


def labels_of_column(title: str, values: Sequence[object], names: Sequence[str] | None) -> Labels:
    """The classes in a column of numbers, whose names may be known, or of names.

    Raises:
        InputError: a value is neither, or says that there is no class.
    """
    kind = str if any(isinstance(value, str) for value in values) else int
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, kind) or value == ""), None)
    if wrong is not None:
        raise InputError(
            f"'{title}' has {values[wrong]!r} as a class, where a number or a name belongs: give every image one."
        )
    if kind is int:
        return labels_of_numbers(title, np.array(values, np.int64), names)
    return labels_of_names([str(value) for value in values])


def _parquet() -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise InputError("To read Parquet files pyarrow is needed: pip install 'clearwater[parquet]'.") from None


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face's metadata say of each column; nothing if there are none."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def _candidates(schema: Any, features: dict[str, dict[str, Any]]) -> list[str]:
    declared = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    encoded = ("binary", "large_binary")
    held = [
        field.name
        for field in schema
        if str(field.type) in encoded
        or (str(field.type).startswith("struct<") and any(part.name == "bytes" for part in field.type))
    ]
    return declared or held


def _open_value(value: object) -> Image.Image:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise ValueError("it holds no bytes")
    return from_bytes(content)
