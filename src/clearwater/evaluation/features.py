"""Feature extractors: images to vectors in which a distance between sets of images means something.

A figure made with one carries its name, and is comparable with figures of the same extractor alone.
"""

from __future__ import annotations

from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clearwater.data import pixel_values
from clearwater.errors import InputError

__all__ = ["GarmentClassifier", "load_garment_classifier"]

_BATCH = 512


class GarmentClassifier(nn.Module):
    """A small convolutional classifier of the ten built-in garments; its features are what its last layer sees.

    64 of them, means over the image of the last convolution's channels. Made by benchmarks/train_classifier.py.
    """

    name = "garments-64"

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, stride in ((32, 1), (32, 2), (64, 1), (64, 2), (64, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, shape (B, 64), and the logarithm of each class's odds, shape (B, 10), of values in [-1, 1]."""
        features: Tensor = self.convolutions(x).mean((2, 3))
        return features, self.head(features)

    @torch.inference_mode()
    def seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, shape (N, 64), and p(class), shape (N, 10), float64, of uint8 images, shape (N, 1, 28, 28)."""
        if images.shape[1:] != (1, 28, 28) or images.dtype != torch.uint8:
            raise InputError(
                f"The classifier of garments sees 8-bit images of 1 × 28 × 28, not {images.dtype} of "
                f"{' × '.join(map(str, images.shape[1:]))}."
            )
        parts = [self(pixel_values(part)) for part in torch.split(images, _BATCH)]
        features = torch.cat([part.double() for part, _ in parts])
        return features, torch.cat([logits.double().softmax(1) for _, logits in parts])


def load_garment_classifier() -> GarmentClassifier:
    """The classifier that comes with the library."""
    network = GarmentClassifier()
    with as_file(files("clearwater.evaluation") / "garments-64.safetensors") as path:
        network.load_state_dict(load_file(path))
    return network.eval()
