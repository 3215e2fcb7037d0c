"""`clearwater restore`: its images are the library's samples of the posterior, given what is left of an image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clearwater import (
    DDIM,
    Blurred,
    Clipped,
    Config,
    Downsampled,
    Heun,
    Masked,
    Measurement,
    Posterior,
    Repeated,
    Stepper,
    load_denoiser,
    sample,
)
from clearwater.cli import run
from clearwater.data import pixel_values
from clearwater.pictures import enlarged, grid, to_uint8
from clearwater.randomness import generator

Pixels = npt.NDArray[np.uint8]
SIDE, HALF = 8, 4
N, SEED, STEPS = 3, 4, 6
MEASUREMENTS: dict[str, Measurement] = {"factor": Downsampled(2), "blur": Blurred(1.2)}
UPPER = torch.cat([torch.ones(HALF, SIDE), torch.zeros(HALF, SIDE)])


def _stripe(drawn: np.random.Generator, low: float, high: float) -> Pixels:
    """A smooth image: a bright stripe from top to bottom."""
    middle, height, width = drawn.uniform(2, 6), drawn.uniform(low, high), drawn.uniform(1.5, 2.5)
    line = 30 + height * np.exp(-0.5 * ((np.arange(SIDE) - middle) / width) ** 2)
    return np.tile(line, (SIDE, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of two classes; another such image, one with other pixels below, and a mask for these."""
    home = tmp_path_factory.mktemp("restore")
    drawn = np.random.default_rng(0)
    for name, low, high in (("bright", 150, 200), ("dim", 20, 70)):
        (home / "images" / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(_stripe(drawn, low, high)).save(home / "images" / name / f"{i}.png")
    sets = ("objective=v", "chain.levels=100", "training.steps=120", "training.learning_rate=4e-3")
    (home / "tiny.toml").write_text(tiny(*sets, "training.label_dropout=0.5").to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu", "--labels"]
    assert run(["train", str(home / "images"), *options]) == 0
    whole = _stripe(drawn, 150, 200)
    other, mask = whole.copy(), np.zeros((SIDE, SIDE), np.uint8)
    other[HALF:], mask[HALF:] = drawn.integers(0, 256, (HALF, SIDE)), 255
    for name, pixels in (("whole", whole), ("other", other), ("mask", mask), ("small", whole[::2, ::2])):
        Image.fromarray(pixels).save(home / f"{name}.png")
    return home


def _pixels(path: Path) -> Pixels:
    return np.asarray(Image.open(path))


def _values(path: Path) -> torch.Tensor:
    return pixel_values(torch.from_numpy(_pixels(path).copy()))[None, None]


def _restored(home: Path, image: str, out: Path, *options: str) -> Pixels:
    """The images that the command writes, (N, H, W)."""
    arguments = ["--out", str(out), "--n", str(N), "--seed", str(SEED), "--device", "cpu", "--steps", str(STEPS)]
    assert run(["restore", str(home / "run"), str(home / f"{image}.png"), *arguments, *options]) == 0
    return np.stack([_pixels(out / f"{i:06d}.png") for i in range(N)])


def _expected(
    home: Path,
    measurement: Measurement,
    y: torch.Tensor,
    noise: float = 0.01,
    stepper: Stepper | None = None,
    labels: torch.Tensor | None = None,
) -> Pixels:
    model = replace(load_denoiser(home / "run", "cpu"), labels=labels)
    posterior = Clipped(Posterior(model, measurement, y.expand(N, -1, -1, -1), noise))
    chain, stepper = model.chain.strided(STEPS), stepper or Repeated(DDIM(1.0), 5)
    return to_uint8(sample(posterior, N, (1, SIDE, SIDE), seed=SEED, chain=chain, stepper=stepper))[:, 0].numpy()


@pytest.mark.parametrize(
    ("options", "stepper", "noise"),
    [
        ([], Repeated(DDIM(1.0), 5), 0.01),
        (["--repeat", "1"], DDIM(1.0), 0.01),
        (["--eta", "0", "--repeat", "2"], Repeated(DDIM(0.0), 2), 0.01),
        (["--sampler", "heun", "--repeat", "2"], Repeated(Heun(), 2), 0.01),
        (["--noise", "0.3"], Repeated(DDIM(1.0), 5), 0.3),
    ],
    ids=["by default", "once", "eta", "sampler", "noise"],
)
def test_a_masked_image_is_restored_as_the_library_does(
    home: Path, tmp_path: Path, options: list[str], stepper: Stepper, noise: float
) -> None:
    made = _restored(home, "whole", tmp_path, "--mask", str(home / "mask.png"), *options)
    y = UPPER * _values(home / "whole.png")
    np.testing.assert_array_equal(made, _expected(home, Masked(UPPER), y, noise, stepper))


@pytest.mark.parametrize(("option", "value", "image"), [("factor", "2", "small"), ("blur", "1.2", "whole")])
def test_a_smaller_and_a_blurred_image_are_restored_as_the_library_does(
    home: Path, tmp_path: Path, option: str, value: str, image: str
) -> None:
    made = _restored(home, image, tmp_path, f"--{option}", value)
    y = _values(home / f"{image}.png")
    np.testing.assert_array_equal(made, _expected(home, MEASUREMENTS[option], y))
    np.testing.assert_array_equal(_pixels(tmp_path / "left.png"), enlarged(grid(to_uint8(y))))


@pytest.mark.parametrize(("option", "value"), [("factor", "2"), ("blur", "1.2")])
def test_a_whole_image_is_spoilt_first_if_that_is_asked_for(
    home: Path, tmp_path: Path, option: str, value: str
) -> None:
    made = _restored(home, "whole", tmp_path, f"--{option}", value, "--spoil", "--noise", "0.1")
    clean = MEASUREMENTS[option](_values(home / "whole.png"))
    y = clean + 0.1 * torch.randn(clean.shape, generator=generator(SEED, "measurement"))
    np.testing.assert_array_equal(made, _expected(home, MEASUREMENTS[option], y, 0.1))
    np.testing.assert_array_equal(_pixels(tmp_path / "left.png"), enlarged(grid(to_uint8(y))))


def test_the_guesses_can_be_of_a_class(home: Path, tmp_path: Path) -> None:
    options = ["--mask", str(home / "mask.png")]
    y, numbers = UPPER * _values(home / "whole.png"), torch.tensor([1, 0, 1])
    made = _restored(home, "whole", tmp_path / "told", *options, "--classes", "dim,bright")
    np.testing.assert_array_equal(made, _expected(home, Masked(UPPER), y, labels=numbers))
    assert made.tobytes() != _restored(home, "whole", tmp_path / "untold", *options).tobytes()


def test_what_is_known_stays_and_what_is_not_has_no_part(home: Path, tmp_path: Path) -> None:
    mask = ["--mask", str(home / "mask.png"), "--spoil"]
    made = _restored(home, "whole", tmp_path / "a", *mask).astype(int)
    known = _pixels(home / "whole.png").astype(int)
    assert np.sqrt(np.square(made - known)[:, :HALF].mean()) < 4  # grey values; the noise of 0.01 is 1.3 of them
    # Whatever lies where the mask is white, the measurement and the images are the same.
    assert np.abs(_pixels(home / "other.png").astype(int) - known)[HALF:].mean() > 30
    others = _restored(home, "other", tmp_path / "b", *mask)
    np.testing.assert_array_equal(others, made)
    np.testing.assert_array_equal(_pixels(tmp_path / "a" / "left.png"), _pixels(tmp_path / "b" / "left.png"))
    picture = _pixels(tmp_path / "a" / "left.png")
    factor = len(picture) // (SIDE + 4)
    left = picture[::factor, ::factor][2:-2, 2:-2].astype(int)
    assert (left[HALF:] == 128).all()  # nothing is known there: the middle of the range
    assert np.abs(left[:HALF] - known[:HALF]).max() <= 8  # six standard deviations of the noise, rounded


def test_guesses_of_an_enlarged_image_agree_with_it_and_differ_from_each_other(home: Path, tmp_path: Path) -> None:
    made = _restored(home, "whole", tmp_path, "--factor", "2", "--spoil").astype(int)
    means = made.reshape(N, 4, 2, 4, 2).mean((2, 4))
    true = _pixels(home / "whole.png").reshape(4, 2, 4, 2).mean((1, 3))
    # Where a pixel would be brighter than white it is clipped, and its block's mean falls short: hence the margin.
    assert np.sqrt(np.square(means - true).mean()) < 10
    assert np.sqrt(np.square(true - true.mean()).mean()) > 50
    assert np.abs(made[0] - made[1]).mean() > 1


def test_the_folder_says_what_was_done_and_a_sample_there_takes_the_place_of_all_of_it(
    home: Path, tmp_path: Path
) -> None:
    mask = str(home / "mask.png")
    _restored(home, "whole", tmp_path, "--mask", mask, "--noise", "0.05", "--spoil", "--classes", "dim")
    told = json.loads((tmp_path / "samples.json").read_text())
    expected = {
        "run": str(home / "run"),
        "factor": None,
        "blur": None,
        "noise": 0.05,
        "spoilt": True,
        "seed": SEED,
        "sampler": "ddim",
        "eta": 1.0,
        "steps": STEPS,
        "repeat": 5,
        "classes": [1],
        "n": N,
    }
    assert {name: told[name] for name in expected} == expected
    assert (told["image_path"], told["mask_path"]) == (str(home / "whole.png"), mask)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "grid.png",
        "left.png",
        *(f"00000{i}.png" for i in (0, 1, 2)),
    }
    assert run(["sample", str(home / "run"), "--out", str(tmp_path), "--n", "1", "--device", "cpu"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"000000.png", "grid.png", "samples.json"}


def test_an_image_of_another_size_and_in_colours_is_made_to_fit(home: Path, tmp_path: Path) -> None:
    large = Image.open(home / "whole.png").resize((SIDE * 3, SIDE * 3), Image.Resampling.NEAREST)
    large.convert("RGB").save(tmp_path / "large.png")
    seen = np.asarray(large.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    command = ["restore", str(home / "run"), str(tmp_path / "large.png"), "--out", str(tmp_path / "out")]
    assert run([*command, "--mask", str(home / "mask.png"), "--n", "1", "--steps", "2", "--device", "cpu"]) == 0
    y = UPPER * pixel_values(torch.from_numpy(seen.copy()))[None, None]
    np.testing.assert_array_equal(_pixels(tmp_path / "out" / "left.png"), enlarged(grid(to_uint8(y))))


def test_a_run_with_fewer_levels_than_the_default_steps_is_served(trained: Path, home: Path, tmp_path: Path) -> None:
    command = ["restore", str(trained), str(home / "whole.png"), "--factor", "4", "--spoil", "--n", "1"]
    assert run([*command, "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "samples.json").read_text())["steps"] == 10


# options, what the sentence names; IMAGE and MASK are images, TMP a folder
WRONG = [
    ("IMAGE", "--mask"),
    ("IMAGE --mask MASK --factor 2", "--mask"),
    ("IMAGE --mask MASK --blur 1", "--mask"),
    ("IMAGE --factor 2 --blur 1", "--mask"),
    ("IMAGE --factor 3", "3 × 3"),
    ("IMAGE --factor 16", "16 × 16"),
    ("IMAGE --factor 1", "--factor"),
    ("IMAGE --blur 0", "0.0"),
    ("IMAGE --blur -1", "-1.0"),
    ("IMAGE --blur nan", "nan"),
    ("IMAGE --factor 2 --noise 0", "0.0"),
    ("IMAGE --factor 2 --noise -0.1", "-0.1"),
    ("IMAGE --factor 2 --noise nan", "nan"),
    ("IMAGE --factor 2 --noise inf", "inf"),
    ("IMAGE --factor 2 --noise 1e300", "1e+300"),
    ("IMAGE --blur inf", "inf"),
    ("IMAGE --blur 9", "9.0"),
    ("IMAGE --factor 2", "--spoil"),
    ("TMP/none.png --factor 2", "none.png"),
    ("TMP/notes.txt --factor 2", "notes.txt"),
    ("TMP --factor 2", "TMP"),
    ("IMAGE --mask TMP/none.png", "none.png"),
    ("--factor 2", "image"),
    ("IMAGE --factor 2 --spoil --classes 7", "'7'"),
    ("IMAGE --factor 2 --sampler magic", "'magic'"),
    ("IMAGE --factor 2 --sampler heun --eta 1", "eta"),
    ("IMAGE --factor 2 --eta 1.5", "1.5"),
    ("IMAGE --factor 2 --spoil --steps 101", "101"),
    ("IMAGE --factor 2 --repeat 0", "--repeat"),
    ("IMAGE --factor 2 --n 0", "--n"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[options for options, _ in WRONG])
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    places = {"IMAGE": home / "whole.png", "MASK": home / "mask.png", "TMP": tmp_path}
    arguments = ["restore", str(home / "run"), *options.split(), "--out", str(tmp_path / "out")]
    for name, path in places.items():
        arguments = [part.replace(name, str(path)) for part in arguments]
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert named.replace("TMP", str(tmp_path)) in lines[-1]
    assert said.out == ""
    assert not (tmp_path / "out").exists()
