"""The images that come with the package: 10,000 of Fashion-MNIST."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Literal

import numpy as np
import torch

from clearwater.data.arrays import ArraySource, Bytes
from clearwater.data.sources import Labels, Numbers

__all__ = ["BUILT_IN", "BuiltInSource", "Split"]

BUILT_IN = "fashion-mini"
_TRAINING_IMAGES = 9_000  # of the 10,000, in the file's order

_GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")

Split = Literal["train", "held_out"]


class BuiltInSource(ArraySource):
    """9,000 images to train on or 1,000 held out, as many of each class."""

    def __init__(self, split: Split) -> None:
        with as_file(files("clearwater.data") / "fashion-mini.npz") as path:
            super().__init__(path)
        self.title = BUILT_IN
        self._part = slice(None, _TRAINING_IMAGES) if split == "train" else slice(_TRAINING_IMAGES, None)

    def labels(self, kept: Numbers) -> Labels:
        """See `Source.labels`."""
        return torch.from_numpy(self._array("labels").astype(np.int64)[kept]), _GARMENTS

    def _read(self) -> Bytes:
        return self._array("images")[:, np.newaxis]

    def _array(self, name: str) -> Bytes:
        with as_file(files("clearwater.data") / "fashion-mini.npz") as path, np.load(path) as stored:
            found: Bytes = stored[name][self._part]
            return found
