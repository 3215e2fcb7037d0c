"""What a feature extractor is: images to vectors in which a distance between sets of images means something.

A figure made with one carries its name, and is comparable with figures of the same extractor alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["Extractor", "Seen", "as_colour", "check_images", "exactly", "key_of", "library", "text_of"]


@dataclass(frozen=True)
class Seen:
    """What an extractor sees in images.

    Attributes:
        features: float32, shape (B, D), on the CPU.
        probabilities: p(class | image), float32, shape (B, K), on the CPU; None if the extractor knows no classes.
    """

    features: Tensor
    probabilities: Tensor | None = None


class Extractor(Protocol):
    """Images to vectors. What it sees in one does not depend, but for rounding, on the others of its batch."""

    @property
    def name(self) -> str:
        """What every figure made with it is labelled with."""

    @property
    def key(self) -> str:
        """A hash of its weights and of its rules of preparing images: of equal keys the features are equal."""

    @property
    def dimensions(self) -> int:
        """D, the length of a feature vector."""

    @property
    def classes(self) -> int:
        """K, the number of classes that it tells apart; 0 if it knows none."""

    @property
    def is_fid(self) -> bool:
        """Whether the Fréchet distance of its features is the FID: of Inception with the standard weights alone."""

    @property
    def batch(self) -> int:
        """How many images it is best given at once."""

    def __call__(self, images: Tensor) -> Seen:
        """What it sees in images: uint8, shape (B, C, H, W), anywhere.

        Raises:
            InputError: they are of another kind, or of a shape that it cannot see.
        """


def check_images(images: Tensor, name: str) -> None:
    """Refuses what are not 8-bit images, grey or RGB, for the extractor of this name.

    Raises:
        InputError: of another dtype than uint8, or of another shape than (B, 1 or 3, H, W).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"The extractor {name} sees 8-bit images, a uint8 tensor of shape (images, 1 or 3, height, width), and not "
            f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}: round to 0 … 255 first."
        )


def as_colour(images: Tensor) -> Tensor:
    """Images of 1 or 3 channels as RGB: grey ones as three equal channels."""
    return images.expand(-1, 3, -1, -1)


def text_of(shape: tuple[int, ...]) -> str:
    """A shape in words: 3 × 32 × 32."""
    return " × ".join(map(str, shape))


def key_of(rules: object, tensors: Mapping[str, Tensor] | None = None) -> str:
    """A hash of rules, by their text, and of tensors by name: shape, dtype and every byte."""
    content = hashlib.blake2b(repr(rules).encode(), digest_size=16)
    for name, tensor in sorted((tensors or {}).items()):
        content.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


@contextmanager
def exactly() -> Iterator[None]:
    """Networks without gradients, in the float32 of their weights: NVIDIA's convolutions would round it to TF32."""
    matrices = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        with (
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matrices


def library(name: str, why: str) -> Any:
    """The module of this name, which is an optional library.

    Raises:
        InputError: it is not installed, or does not load.
    """
    try:
        return import_module(name)
    except Exception as error:  # torchvision raises RuntimeError beside another torch than its own
        root = name.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == root:
            raise InputError(f"{why} needs {root}: pip install 'clearwater[{root}]'.") from None
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{why} needs {root}, which is installed but does not load ({said}): see that torch, torchvision and "
            f"{root} fit one another."
        ) from error
