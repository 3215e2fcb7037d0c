"""The classifier of the built-in garments, with which measuring needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clearwater.data import pixel_values
from clearwater.errors import InputError
from clearwater.evaluation.extractors import Seen, exactly, key_of, text_of

__all__ = ["GarmentClassifier", "Garments", "load_garment_classifier"]

_BATCH = 128  # of more, what is between two layers does not stay in a processor's cache


class GarmentClassifier(nn.Module):
    """A small convolutional classifier of the ten built-in garments; its features are what its last layer sees.

    64 of them, means over the image of the last convolution's channels. Made by benchmarks/train_classifier.py.
    """

    name = "garments-64"
    shape = (1, 28, 28)

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
        if images.shape[1:] != self.shape or images.dtype != torch.uint8:
            raise InputError(
                f"The classifier of garments sees 8-bit images of {text_of(self.shape)}, not {images.dtype} of "
                f"{text_of(tuple(images.shape[1:]))}."
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


@dataclass(frozen=True)
class Garments:
    """The extractor of grey 28 × 28 images: `GarmentClassifier`.

    Its probabilities are of garments. Of other images of that size, digits say, its features still tell more than
    pixels do, and its probabilities nothing.
    """

    network: GarmentClassifier
    device: torch.device
    key: str
    name: str = GarmentClassifier.name
    dimensions: int = 64
    classes: int = 10
    is_fid: bool = False
    batch: int = _BATCH

    @classmethod
    def on(cls, device: torch.device) -> Garments:
        """The one that comes with the library, on a device."""
        network = load_garment_classifier().to(device)
        return cls(network, device, key_of(GarmentClassifier.name, network.state_dict()))

    def __call__(self, images: Tensor) -> Seen:
        """What it sees in images of shape (B, 1, 28, 28)."""
        with exactly():
            features, p = self.network.seen(images.to(self.device))
        return Seen(features.float().cpu(), p.float().cpu())
