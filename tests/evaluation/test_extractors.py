"""Extractors by name, and those that need no weights: pixels against their formula, filters against scipy's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from clearwater.data import ImageSet, load_images
from clearwater.errors import InputError
from clearwater.evaluation import EXTRACTORS, Extractor, Moments, extractor, frechet_distance
from clearwater.evaluation.extractors import key_of

Shape = tuple[int, int, int]

GREY: Shape = (1, 28, 28)


@pytest.fixture(scope="module")
def held_out() -> ImageSet:
    return load_images("fashion-mini", split="held_out")


def _drawn(n: int, shape: Shape, seed: int = 0) -> Tensor:
    drawn = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)
    return torch.from_numpy(drawn)


# --- by name


@pytest.mark.parametrize(
    ("spec", "shape", "name", "dimensions", "classes"),
    [
        (None, GREY, "garments-64", 64, 10),
        (None, (3, 28, 28), "random-256 (untrained)", 256, 0),
        (None, (1, 32, 32), "random-256 (untrained)", 256, 0),
        (None, (3, 96, 64), "random-512 (untrained)", 512, 0),
        ("garments", GREY, "garments-64", 64, 10),
        ("random", GREY, "random-256 (untrained)", 256, 0),
        ("pixels", (3, 32, 32), "pixels-3072", 3072, 0),
        ("pixels", (1, 64, 64), "pixels-4096", 4096, 0),
    ],
)
def test_a_name_gives_its_extractor_and_no_name_one_that_needs_nothing(
    spec: str | None, shape: Shape, name: str, dimensions: int, classes: int
) -> None:
    made = extractor(spec, shape)
    assert (made.name, made.dimensions, made.classes, made.is_fid) == (name, dimensions, classes, False)
    seen = made(_drawn(2, shape))
    assert seen.features.shape == (2, dimensions)
    assert (seen.probabilities is None) == (classes == 0)


@pytest.mark.parametrize(
    ("spec", "shape", "said"),
    [
        ("fid", GREY, [repr("fid"), *EXTRACTORS]),
        ("", (4, 8, 8), ["1 or 3 channels, not of 4"]),
        ("garments", (3, 32, 32), ["28 × 28, not 3 × 32 × 32", *list(EXTRACTORS)[1:]]),
        ("garments", (1, 32, 32), ["28 × 28, not 1 × 32 × 32", "random", "inception:WEIGHTS"]),
        ("garments:small", GREY, ["'garments:small'", "give garments."]),
        ("pixels", (3, 64, 64), ["up to 4,096", "3 × 64 × 64 are 12,288", "random", "hf:FOLDER"]),
        ("inception", (3, 32, 32), ["give inception:WEIGHTS."]),
        ("inception:", (3, 32, 32), ["give inception:WEIGHTS."]),
        ("inception:/nowhere/weights.pth", (3, 32, 32), ["'/nowhere/weights.pth'", "No such file"]),
        ("inception:/", (3, 32, 32), ["'/'", "Is a directory"]),
        ("timm", (3, 32, 32), ["give timm:MODEL:WEIGHTS."]),
        ("timm:resnet18", (3, 32, 32), ["'timm:resnet18'", "give timm:MODEL:WEIGHTS."]),
        ("timm::weights.pth", (3, 32, 32), ["give timm:MODEL:WEIGHTS."]),
        ("hf:/nowhere", (3, 32, 32), ["'/nowhere'", "no config.json"]),
    ],
)
def test_what_cannot_be_had_is_refused_in_one_sentence(spec: str, shape: Shape, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        extractor(spec, shape)
    sentence = str(caught.value)
    assert [part for part in said if part not in sentence] == []
    assert sentence.endswith(".")
    assert "\n" not in sentence


# --- what holds for all of them

_CHEAP = [("garments", GREY), ("random", (3, 20, 24)), ("random", (1, 20, 70)), ("pixels", (3, 8, 9))]
cheap = pytest.mark.parametrize(("spec", "shape"), _CHEAP, ids=[f"{spec} {shape}" for spec, shape in _CHEAP])


@cheap
def test_an_image_is_seen_by_itself(spec: str, shape: Shape) -> None:
    """Whatever stands beside it in a batch, and in whatever order."""
    made, images = extractor(spec, shape), _drawn(40, shape)
    whole = made(images)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    back = torch.argsort(order)
    for sizes in ([1] * 40, [7, 33]):
        parts = [made(part) for part in images[order].split(sizes)]
        features = torch.cat([part.features for part in parts])[back]
        torch.testing.assert_close(features, whole.features, rtol=0, atol=1e-6 * float(whole.features.abs().max()))
        if whole.probabilities is not None:
            p = torch.cat([part.probabilities for part in parts if part.probabilities is not None])[back]
            torch.testing.assert_close(p, whole.probabilities, rtol=0, atol=1e-6)


@cheap
def test_it_sees_the_same_each_time_and_has_the_same_key(spec: str, shape: Shape) -> None:
    images = _drawn(16, shape)
    first, second = extractor(spec, shape), extractor(spec, shape)
    assert torch.equal(first(images).features, first(images).features)
    assert torch.equal(first(images).features, second(images).features)
    assert first.key == second.key


def test_extractors_that_see_differently_have_different_keys() -> None:
    made = [extractor(spec, shape) for spec, shape in [*_CHEAP, ("random", GREY), ("pixels", GREY)]]
    assert len({of.key for of in made}) == len(made)


def test_the_key_is_of_every_bit_of_the_weights_and_of_the_rules() -> None:
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    changed = weights.clone()
    changed[1, 1] = 4.0 + 2**-21
    others = [{"a": changed}, {"b": weights}, {"a": weights.half()}, {"a": weights.reshape(4)}, {"a": weights.T}, {}]
    keys = [key_of("rules", tensors) for tensors in ({"a": weights}, *others)] + [key_of("rule", {"a": weights})]
    assert len(set(keys)) == len(keys)
    assert key_of("rules", {"a": weights.T.contiguous().T}) == keys[0]


@cheap
@pytest.mark.parametrize(
    "other",
    [
        lambda images: images.float(),
        lambda images: images.float() / 255,
        lambda images: images.long(),
        lambda images: images[0],
        lambda images: images[:, :, :-1],
        lambda images: images.expand(-1, 4 - images.shape[1], -1, -1) if images.shape[1] == 1 else images[:, :2],
    ],
    ids=["0 … 255 as numbers", "0 … 1", "64-bit", "no batch", "another size", "other channels"],
)
def test_other_images_are_refused(spec: str, shape: Shape, other: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(InputError):
        extractor(spec, shape)(other(_drawn(2, shape)))


# --- what each sees


def test_pixels_are_the_pixels_between_minus_one_and_one() -> None:
    images = _drawn(5, (3, 4, 6))
    expected = images.numpy().reshape(5, 72) / 127.5 - 1
    np.testing.assert_allclose(extractor("pixels", (3, 4, 6))(images).features, expected, atol=1e-7)


def _filtered(image: np.ndarray) -> np.ndarray:
    """What three random filters of 3 × 3 see in one image, shape (3, H, W), by scipy."""
    x, found = image / 127.5 - 1, []
    for layer, (width, stride) in enumerate([(16, 2), (16, 1), (32, 2)]):
        bits = np.random.Philox(key=layer).random_raw(width * len(x) * 9)
        uniform = (bits >> np.uint64(11)) / 2.0**52 - 1  # between -1 and 1, of variance 1/3
        weights = uniform.reshape(width, len(x), 3, 3) * np.sqrt(3) * np.sqrt(2 / (9 * len(x)))
        edged = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
        sums = [
            sum(scipy.signal.correlate2d(*pair, mode="valid") for pair in zip(edged, w, strict=True)) for w in weights
        ]
        x = np.maximum(np.stack(sums)[:, ::stride, ::stride], 0)
        _, height, across = x.shape
        # Of an odd number of rows the middle one belongs to both halves.
        rows = (slice(0, -(-height // 2)), slice(height // 2, None))
        columns = (slice(0, -(-across // 2)), slice(across // 2, None))
        found.append(np.stack([x[:, i, j].mean((1, 2)) for i in rows for j in columns], 1).ravel())
    return np.concatenate(found)


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 13, 22), (3, 64, 2), (3, 1, 1)])
def test_random_filters_are_what_scipy_computes(shape: Shape) -> None:
    images = _drawn(2, shape)
    expected = np.stack([_filtered(image) for image in images.numpy().astype(float)])
    np.testing.assert_allclose(
        extractor("random", shape)(images).features, expected, rtol=0, atol=2e-6 * expected.max()
    )


def test_a_large_image_is_seen_once_more_when_it_is_small() -> None:
    small = _drawn(2, (3, 32, 32))
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)  # of which the means of 4 × 4 are the small one
    seen = extractor("random", (3, 128, 128))(large).features
    expected = extractor("random", (3, 32, 32))(small).features
    torch.testing.assert_close(seen[:, 256:], expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_grey_images_are_seen_as_rgb_with_equal_channels() -> None:
    grey = _drawn(3, (1, 20, 20))
    seen = extractor("random", (1, 20, 20))(grey).features
    assert torch.equal(seen, extractor("random", (3, 20, 20))(grey.expand(-1, 3, -1, -1)).features)


def test_what_is_worse_is_farther_from_the_data_in_random_filters(held_out: ImageSet) -> None:
    """Noise, blur and images put together of two halves, each against as many images that are as they should be."""
    made: Extractor = extractor("random", GREY)
    data = Moments.of(made(load_images("fashion-mini").images[:1000]).features)
    real = held_out.images

    def distance(images: Tensor) -> float:
        return frechet_distance(data, Moments.of(made(images.round().clamp(0, 255).to(torch.uint8)).features))

    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(real.float(), 3, 1, 1, count_include_pad=False)
    halves = torch.cat([real[:, :, :14], real.flip(0)[:, :, 14:]], 2)
    floor = distance(real.float())
    noised = [distance(real + sigma * noise) for sigma in (16, 32, 64)]
    assert floor * 2 < noised[0] < noised[1] < noised[2]
    assert distance(blurred) > 10 * floor
    assert distance(halves.float()) > 10 * floor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("spec", ["random", "garments"])
def test_a_gpu_sees_the_same(spec: str, held_out: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, which would round to a thousandth, whatever the program lets its own networks do."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    images = held_out.images[:100]
    here, there = (extractor(spec, GREY, device)(images).features for device in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, rtol=0, atol=2e-6 * float(here.max()))
