"""An extractor by its name: what a user says, and what is taken if nothing is said."""

from __future__ import annotations

from pathlib import Path

import torch

from clearwater.errors import InputError
from clearwater.evaluation.extractors import Extractor, text_of
from clearwater.evaluation.garments import GarmentClassifier, Garments
from clearwater.evaluation.inception import Inception
from clearwater.evaluation.pretrained import from_hugging_face, from_timm
from clearwater.evaluation.untrained import Pixels, RandomFilters

__all__ = ["EXTRACTORS", "extractor"]

EXTRACTORS = {
    "garments": "the classifier of the built-in garments, of grey images of 28 × 28",
    "random": "random filters, of images of any size; untrained, comparable only with itself",
    "pixels": "the pixels themselves, of small images",
    "inception:WEIGHTS": "Inception-v3; with pt_inception-2015-12-05-6726825d.pth its Fréchet distance is the FID",
    "timm:MODEL:WEIGHTS": "a model of the library timm, such as vit_small_patch14_dinov2",
    "hf:FOLDER": "a Hugging Face image model in a folder, such as DINOv2",
}
"""What can be named, and what each is."""

_TAKES = {name.partition(":")[0]: name for name in EXTRACTORS}


def extractor(spec: str | None, image_shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Extractor:
    """The extractor of this name for images of this shape.

    Args:
        spec: one of `EXTRACTORS`, with the path of the weights where it takes one; None for `garments` of grey images
            of 28 × 28 and `random` of any others, which need nothing but this library.
        image_shape: (C, H, W).
        device: where to put its network.

    Raises:
        InputError: there is no such extractor, its weights or its library are missing, or it cannot see such images.
    """
    channels = image_shape[0]
    if channels not in (1, 3):
        raise InputError(f"An extractor sees grey images or RGB ones, of 1 or 3 channels, not of {channels}.")
    place, grey = torch.device(device), channels == 1
    kind, *given = (spec or _default(image_shape)).split(":", 1)
    if kind not in _TAKES:
        raise InputError(f"There is no extractor '{kind}': choose {_list(list(EXTRACTORS))}.")
    taken = _TAKES[kind].count(":")
    if taken == 2:
        given = given[0].split(":", 1) if given else given
    if len(given) != taken or not all(given):
        raise InputError(f"'{spec}' does not name an extractor: give {_TAKES[kind]}.")
    match kind:
        case "garments":
            if image_shape != GarmentClassifier.shape:
                others = [name for name in EXTRACTORS if name != kind]
                raise InputError(
                    f"The classifier of garments sees grey images of 28 × 28, not {text_of(image_shape)}: choose "
                    f"{_list(others)}."
                )
            return Garments.on(place)
        case "random":
            return RandomFilters.on(place, image_shape)
        case "pixels":
            return Pixels(image_shape)
        case "inception":
            return Inception.load(Path(given[0]).expanduser(), place, grey=grey)
        case "timm":
            return from_timm(given[0], Path(given[1]).expanduser(), place, grey=grey)
        case _:
            return from_hugging_face(Path(given[0]).expanduser(), place, grey=grey)


def _default(image_shape: tuple[int, int, int]) -> str:
    return "garments" if image_shape == GarmentClassifier.shape else "random"


def _list(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
