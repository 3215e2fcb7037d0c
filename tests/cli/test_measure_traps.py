"""Samples that are not what they seem: `clearwater measure` gives them other figures than real images, or refuses them.

Held-out images stand for good samples. What is done to them has to show against what they have when they are left
alone, with its interval; so does what is done to training images in their place.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clearwater.cli import run
from clearwater.data import load_images

_GROUND = "precision,recall,density,coverage"
_COPIES = "copying_score,copies,copying_score_in_pixels,copies_in_pixels"


@dataclass(frozen=True)
class Told:
    """What the command said: its exit code, its figures by name, and its words."""

    code: int
    figures: dict[str, Any]
    words: str

    def __getitem__(self, name: str) -> float:
        return float(self.figures[name]["value"])

    def interval(self, name: str) -> tuple[float, float]:
        low, high = self.figures[name]["interval"]
        return low, high

    def is_worse(self, name: str, than: Told) -> bool:
        """Whether a figure is beyond the worse end of the interval of another's."""
        low, high = than.interval(name)
        return self[name] > high if self.figures[name]["better"] == "lower" else self[name] < low


Measure = Callable[..., Told]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """The command on images, beside the built-in ones: ``measure(images, "--only", …)``. All share one cache."""
    home = tmp_path_factory.mktemp("traps")

    def command(images: Tensor, *options: object, cache: str = "cache", device: str = "cpu") -> Told:
        np.savez(home / "samples.npz", images=images.permute(0, 2, 3, 1).contiguous().numpy())
        where = ["--cache", str(home / cache), "--device", device, "--json"]
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as words:
            code = run(["measure", str(home / "samples.npz"), "fashion-mini", *map(str, options), *where])
        return Told(code, json.loads(out.getvalue())["figures"] if code == 0 else {}, words.getvalue())

    return command


@pytest.fixture(scope="module")
def held_out() -> Tensor:
    return load_images("fashion-mini", split="held_out").images


@pytest.fixture(scope="module")
def real(held_out: Tensor) -> Tensor:
    """500 held-out images."""
    return held_out[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:500]]


@pytest.fixture(scope="module")
def others(held_out: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The other 500, which samples may be compared with."""
    rest = held_out[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[500:]]
    path = tmp_path_factory.mktemp("others") / "others.npz"
    np.savez(path, images=rest.permute(0, 2, 3, 1).numpy())
    return path


@pytest.fixture(scope="module")
def training() -> Tensor:
    """300 of the training images."""
    images = load_images("fashion-mini").images
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(1))[:300]]


@pytest.fixture(scope="module")
def untouched(measure: Measure, real: Tensor) -> Told:
    """What the 500 have when they are left alone."""
    told = measure(real, "--only", f"frechet_distance,kernel_distance,sliced_wasserstein,{_GROUND}")
    assert told.code == 0
    return told


# --- what is done to images


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    changed = [np.array(change(Image.fromarray(image[0]))) for image in images.numpy()]
    return torch.from_numpy(np.stack(changed))[:, None]


def _jpeg(images: Tensor, quality: int) -> Tensor:
    def change(image: Image.Image) -> Image.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=quality)
        return Image.open(file)

    return _each(images, change)


def _resized(images: Tensor, side: int) -> Tensor:
    """To another size and back."""
    bilinear = Image.Resampling.BILINEAR
    return _each(images, lambda image: image.resize((side, side), bilinear).resize(image.size, bilinear))


def _brighter(images: Tensor, by: int) -> Tensor:
    return (images.int() + by).clamp(0, 255).to(torch.uint8)


def _noisy(images: Tensor, sigma: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    return (images + sigma * noise).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([lambda x: _jpeg(x, 75), lambda x: _jpeg(x, 30)], "frechet_distance"),
        ([lambda x: _resized(x, 56), lambda x: _resized(x, 21), lambda x: _resized(x, 14)], "frechet_distance"),
        ([lambda x: _brighter(x, 5), lambda x: _brighter(x, 16)], "frechet_distance,kernel_distance"),
        ([lambda x: x.flip(3)], f"frechet_distance,sliced_wasserstein,{_GROUND}"),
    ],
    ids=["JPEG", "resized", "brighter", "mirrored"],
)
def test_what_is_done_to_all_images_shows_and_more_of_it_more(
    measure: Measure, real: Tensor, untouched: Told, changes: list[Callable[[Tensor], Tensor]], names: str
) -> None:
    told = [measure(change(real), "--only", names) for change in changes]
    for name in names.split(","):
        assert told[0].is_worse(name, untouched), name
        found = [each[name] for each in told]
        assert found == sorted(found, reverse=told[0].figures[name]["better"] == "higher"), name


def test_rounding_moves_figures_by_no_more_than_it_moves_pixels(
    measure: Measure, real: Tensor, untouched: Told
) -> None:
    """For the sliced distance the triangle has that as its third side: at most the mean square over all pixels."""
    drawn = torch.rand(real.shape, generator=torch.Generator().manual_seed(3))
    rounded = {
        "8 bits, cut off": (real - 0.5 + drawn).floor().clamp(min=0).to(torch.uint8),
        "4 bits, cut off": real // 16 * 16,
        "4 bits": ((real / 17).round() * 17).to(torch.uint8),
    }
    told = {name: measure(x, "--only", "frechet_distance,sliced_wasserstein") for name, x in rounded.items()}
    for name, images in rounded.items():
        moved = float((images.float() - real.float()).square().mean().sqrt())
        # The mean square over 256 directions is within 9% of that over all.
        assert abs(told[name]["sliced_wasserstein"] - untouched["sliced_wasserstein"]) < 1.15 * moved
        assert not told[name].is_worse("frechet_distance", untouched)
    # The same images each time, so the order of their figures says more than the interval.
    found = [told[name]["frechet_distance"] for name in rounded]
    assert untouched["frechet_distance"] < found[0] < found[1]
    assert found[2] < found[1]


# --- too few, and others than they were


def test_too_few_samples_are_said_to_be_with_the_number_that_it_takes(measure: Measure, real: Tensor) -> None:
    said = "below 65 the Fréchet distance says little; take --n 65 or more."
    assert said in measure(real[:64], "--only", "frechet_distance").words
    assert "few" not in measure(real[:65], "--only", "frechet_distance").words
    refused = measure(real[:129], "--only", "frechet_distance_at_infinity")
    assert refused.code == 2
    assert "takes at least 130 images" in refused.words.splitlines()[-1]
    assert measure(real[:130], "--only", "frechet_distance_at_infinity").code == 0


def test_fewer_samples_are_farther_in_the_frechet_distance_and_not_in_the_kernel_distance(
    measure: Measure, real: Tensor, untouched: Told
) -> None:
    few = measure(real[:30], "--only", "frechet_distance,kernel_distance")
    assert few.is_worse("frechet_distance", untouched)
    low, high = few.interval("kernel_distance")
    assert low < untouched["kernel_distance"] < high


def test_grey_samples_are_seen_as_rgb_with_equal_channels_and_colours_move_them(measure: Measure, real: Tensor) -> None:
    options = ("--features", "random", "--only", "frechet_distance")
    rgb = real.expand(-1, 3, -1, -1)
    tinted = rgb.clone()
    tinted[:, 2] //= 2
    grey, same, other = (measure(of, *options) for of in (real, rgb, tinted))
    assert grey["frechet_distance"] == pytest.approx(same["frechet_distance"], rel=1e-12)
    assert other.is_worse("frechet_distance", grey)


def test_an_extractor_of_grey_images_refuses_rgb_ones_in_a_sentence(measure: Measure, real: Tensor) -> None:
    told = measure(real[:9].expand(-1, 3, -1, -1), "--features", "garments")
    last = told.words.splitlines()[-1]
    assert told.code == 2
    assert last.startswith("Error: The classifier of garments sees grey images of 28 × 28, not 3 × 28 × 28: choose ")


def test_images_are_scaled_to_the_size_of_samples_and_that_is_said(measure: Measure) -> None:
    """Scaled as the data are, a training image is the same bits, and one that was held out is not."""
    options = ("--features", "pixels", "--only", "copies")
    copied = measure(load_images("fashion-mini", size=(14, 14)).images[:200], *options)
    fresh = measure(load_images("fashion-mini", size=(14, 14), split="held_out").images[:200], *options)
    assert "The images of 'fashion-mini' are scaled to 14 × 14, as the samples are." in copied.words
    assert copied["copies"] == 1
    assert fresh["copies"] < 0.05


# --- the same images again


def test_a_few_images_many_times_cover_what_they_cover_once_and_recall_nothing(
    measure: Measure, real: Tensor, untouched: Told
) -> None:
    once, again = (measure(of, "--only", _GROUND) for of in (real[:100], real[:100].repeat(6, 1, 1, 1)))
    for name in ("precision", "density", "coverage"):  # which ask of each ball whether it holds any of the samples
        assert again[name] == pytest.approx(once[name], rel=1e-12)
    assert again["recall"] == 0  # the 5th nearest of a sample is its own copy, so its ball holds nothing
    assert once.is_worse("coverage", untouched)
    assert not again.is_worse("precision", untouched)  # which cannot tell


def test_one_image_many_times_is_of_one_class(measure: Measure, real: Tensor, untouched: Told) -> None:
    told = measure(real[:1].repeat(300, 1, 1, 1), "--only", "frechet_distance,inception_score,class_balance")
    assert told["inception_score"] == pytest.approx(1)
    assert told["class_balance"] == pytest.approx(0.9, abs=0.02)  # of ten that are about a tenth of the data each
    assert told.is_worse("frechet_distance", untouched)


# --- copies


@pytest.mark.parametrize(
    ("change", "seen_by", "at_least"),
    [
        (lambda x: _noisy(x, 8), ("", "_in_pixels"), 0.25),
        (lambda x: _jpeg(x, 75), ("", "_in_pixels"), 0.5),
        (lambda x: x.flip(3), ("",), 0.1),
        (lambda x: x.roll(1, 3), ("",), 0.2),
    ],
    ids=["noise", "JPEG", "mirrored", "shifted"],
)
def test_copies_of_training_images_are_caught_though_they_were_changed(
    measure: Measure,
    training: Tensor,
    others: Path,
    change: Callable[[Tensor], Tensor],
    seen_by: tuple[str, ...],
    at_least: float,
) -> None:
    told = measure(change(training), "--only", _COPIES, "--held-out", others)
    for pixels in seen_by:
        assert told[f"copying_score{pixels}"] < -5
        assert told[f"copies{pixels}"] >= at_least
        assert told.interval(f"copies{pixels}")[0] > 0.01  # of images that are no copies


def test_a_tenth_of_copies_is_found_and_images_that_were_held_out_are_none(
    measure: Measure, real: Tensor, training: Tensor, others: Path
) -> None:
    options = ("--only", _COPIES, "--held-out", others)
    fresh = measure(real, *options)
    some = measure(torch.cat([real[:450], training[:50]]), *options)
    for pixels in ("", "_in_pixels"):
        low, high = fresh.interval(f"copies{pixels}")
        assert low < 0.01 < high
        assert abs(fresh[f"copying_score{pixels}"]) < 3
        assert some[f"copies{pixels}"] == pytest.approx(0.1, abs=0.02)
        assert some.interval(f"copies{pixels}")[0] > 0.01


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("features", ["garments", "random"])
def test_figures_are_those_of_a_processor(measure: Measure, real: Tensor, features: str) -> None:
    options = ("--features", features, "--only", "frechet_distance,kernel_distance")
    # What is kept in a cache is of either, so each has its own.
    here, there = (measure(real, *options, cache=device, device=device) for device in ("cpu", "cuda"))
    for name in ("frechet_distance", "kernel_distance"):
        assert there[name] == pytest.approx(here[name], rel=1e-3, abs=1e-5)
