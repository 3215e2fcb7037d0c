"""The classifier of garments that comes with the library: what it knows, what it refuses, and what it measures."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clearwater.data import ImageSet, load_images
from clearwater.errors import InputError
from clearwater.evaluation import GarmentClassifier, Moments, frechet_distance, load_garment_classifier


@pytest.fixture(scope="module")
def classifier() -> GarmentClassifier:
    return load_garment_classifier()


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return load_images("fashion-mini", split="held_out")


@pytest.fixture(scope="module")
def seen(classifier: GarmentClassifier, held_out: ImageSet) -> tuple[Tensor, Tensor]:
    """Features and probabilities of the held-out images."""
    return classifier.seen(held_out.images)


def _noised(images: Tensor, sigma: float) -> Tensor:
    """Images with Gaussian noise of that many grey values, the same up to its size at each sigma."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + sigma * noise).round().clamp(0, 255).to(torch.uint8)


def test_it_knows_held_out_garments(held_out: ImageSet, seen: tuple[Tensor, Tensor]) -> None:
    assert held_out.labels is not None
    assert len(held_out.labels) == 1000
    assert int((seen[1].argmax(1) == held_out.labels).sum()) >= 880


def test_probabilities_are_those_of_its_last_layer_on_the_features(
    classifier: GarmentClassifier, seen: tuple[Tensor, Tensor]
) -> None:
    features, p = seen
    assert (features.shape, features.dtype) == ((1000, 64), torch.float64)
    assert float(features.min()) >= 0  # means of what a rectifier lets through
    logits = F.linear(features, classifier.head.weight.detach().double(), classifier.head.bias.detach().double())
    torch.testing.assert_close(p, logits.softmax(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(p.sum(1), torch.ones(1000, dtype=torch.float64), rtol=0, atol=1e-12)


def test_features_do_not_depend_on_the_batch(
    classifier: GarmentClassifier, held_out: ImageSet, seen: tuple[Tensor, Tensor]
) -> None:
    images = held_out.images[:520]  # more than the classifier takes at once
    for sizes in ([520], [1, 7, 249, 263]):
        parts = [classifier.seen(part) for part in images.split(sizes)]
        for which in (0, 1):
            # 1e-6 of the largest: a kernel may add in another order in another batch.
            scale = max(1.0, float(seen[which].abs().max()))
            made = torch.cat([part[which] for part in parts])
            torch.testing.assert_close(made, seen[which][:520], rtol=0, atol=1e-6 * scale)


def test_features_do_not_depend_on_the_order(
    classifier: GarmentClassifier, held_out: ImageSet, seen: tuple[Tensor, Tensor]
) -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    features, _ = classifier.seen(held_out.images[order])
    torch.testing.assert_close(features, seen[0][order], rtol=0, atol=1e-6 * max(1.0, float(seen[0].max())))


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (torch.zeros(2, 3, 28, 28, dtype=torch.uint8), ("torch.uint8", "3 × 28 × 28")),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), ("torch.uint8", "1 × 32 × 32")),
        (torch.zeros(2, 1, 28, 27, dtype=torch.uint8), ("torch.uint8", "1 × 28 × 27")),
        (torch.zeros(2, 28, 28, dtype=torch.uint8), ("torch.uint8", "28 × 28")),
        (torch.zeros(2, 1, 28, 28), ("torch.float32", "1 × 28 × 28")),
        (torch.zeros(2, 1, 28, 28, dtype=torch.int64), ("torch.int64", "1 × 28 × 28")),
    ],
    ids=["colour", "larger", "not square", "no channel", "real numbers", "whole numbers"],
)
def test_other_images_are_refused_and_named(
    classifier: GarmentClassifier, images: Tensor, named: tuple[str, str]
) -> None:
    with pytest.raises(InputError) as caught:
        classifier.seen(images)
    given = str(caught.value).partition(", not ")[2]  # what is allowed comes before it
    assert given == f"{named[0]} of {named[1]}."


def test_its_file_is_small_enough_to_come_with_the_library() -> None:
    assert len((files("clearwater.evaluation") / "garments-64.safetensors").read_bytes()) < 1e6


def test_noise_moves_images_away_from_the_data_the_more_of_it_the_farther(
    classifier: GarmentClassifier, held_out: ImageSet, seen: tuple[Tensor, Tensor]
) -> None:
    training = Moments.of(classifier.seen(load_images("fashion-mini").images[:1000])[0])
    real = Moments.of(seen[0])
    noised = [Moments.of(classifier.seen(_noised(held_out.images, sigma))[0]) for sigma in (4, 16, 64)]
    from_real = [frechet_distance(real, other) for other in noised]
    from_training = [frechet_distance(training, other) for other in (real, *noised)]
    assert 0 < from_real[0] < from_real[1] < from_real[2]
    assert 0 < from_training[0] < from_training[1] < from_training[2] < from_training[3]
