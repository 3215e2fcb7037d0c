"""`clearwater interpolate`: a row from one image to another, which begins and ends with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clearwater import (
    Chain,
    Clipped,
    Config,
    Encoded,
    Heun,
    encode,
    interpolate_encoded,
    load_denoiser,
    sampling_states,
)
from clearwater.cli import run
from clearwater.data import pixel_values
from clearwater.pictures import to_uint8

Pixels = npt.NDArray[np.uint8]
SIDE, CELL = 8, 10  # an image, and with the gap after it
LEVELS, STEPS = 100, 50


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth images, dark to the left and to the right of a bright stripe or of a dim one; and a run on them."""
    home = tmp_path_factory.mktemp("interpolate")
    (home / "images").mkdir()
    drawn = np.random.default_rng(0)
    for i in range(16):
        middle, height, width = drawn.uniform(2, 6), drawn.uniform(120, 230), drawn.uniform(1.5, 2.5)
        line = 15 + height * np.exp(-0.5 * ((np.arange(SIDE) - middle) / width) ** 2)
        Image.fromarray(np.tile(line, (SIDE, 1)).astype(np.uint8)).save(home / "images" / f"{i:02d}.png")
    sets = ("objective=v", f"chain.levels={LEVELS}", "training.steps=200", "training.learning_rate=4e-3")
    (home / "tiny.toml").write_text(tiny(*sets).to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", str(home / "images"), *options]) == 0
    return home


def _row(home: Path, out: Path, a: str, b: str, *options: str, n: int = 5, steps: int = STEPS) -> Pixels:
    """The images of the picture, (n, SIDE, SIDE)."""
    arguments = ["--out", str(out), "--n", str(n), "--steps", str(steps), "--device", "cpu", *options]
    assert run(["interpolate", str(home / "run"), a, b, *arguments]) == 0
    picture = np.asarray(Image.open(out))
    factor = picture.shape[1] // (n * CELL + 2)
    assert picture.shape == ((CELL + 2) * factor, (n * CELL + 2) * factor)
    return picture[::factor, ::factor][2 : 2 + SIDE, 2:].reshape(SIDE, n, CELL)[..., :SIDE].swapaxes(0, 1)


def _sampled(home: Path, out: Path, seed: str, steps: int = STEPS) -> Pixels:
    """Image 0 of this seed by the same sampler."""
    options = ["--n", "1", "--seed", seed, "--sampler", "heun", "--steps", str(steps), "--device", "cpu"]
    assert run(["sample", str(home / "run"), "--out", str(out), *options]) == 0
    return np.asarray(Image.open(out / "000000.png"))


def _image(home: Path, i: int) -> tuple[str, Pixels]:
    path = home / "images" / f"{i:02d}.png"
    return str(path), np.asarray(Image.open(path))


def _no_noise() -> torch.Tensor:
    raise AssertionError("noise was drawn")


@pytest.mark.parametrize("level", ["1", "0.5", "0.01"])
@pytest.mark.parametrize("steps", [STEPS, 20])
def test_a_row_between_seeds_begins_and_ends_with_the_samples_of_these_seeds(
    home: Path, tmp_path: Path, level: str, steps: int
) -> None:
    row = _row(home, tmp_path / "a.png", "3", "8", "--level", level, steps=steps)
    ends = [_sampled(home, tmp_path / seed, seed, steps) for seed in ("3", "8")]
    # Out of signal and noise and together again: that moves a value by its rounding alone.
    assert np.abs(row[0].astype(int) - ends[0]).max() <= 1
    assert np.abs(row[-1].astype(int) - ends[1]).max() <= 1
    assert np.abs(ends[0].astype(int) - ends[1]).max() > 30


@pytest.mark.parametrize("level", ["1", "0.6", "0.2"])
def test_a_row_between_images_begins_and_ends_with_nearly_these(home: Path, tmp_path: Path, level: str) -> None:
    (a, first), (b, last) = _image(home, 2), _image(home, 5)
    row = _row(home, tmp_path / "a.png", a, b, "--level", level, steps=LEVELS)
    for found, image in ((row[0], first), (row[-1], last)):
        assert np.abs(found.astype(int) - image).mean() < 4
    assert np.abs(first.astype(int) - last).mean() > 20


def test_an_image_and_a_seed_can_be_the_ends(home: Path, tmp_path: Path) -> None:
    a, first = _image(home, 2)
    row = _row(home, tmp_path / "a.png", a, "8", steps=LEVELS)
    assert np.abs(row[0].astype(int) - first).mean() < 4
    assert np.abs(row[-1].astype(int) - _sampled(home, tmp_path / "8", "8", LEVELS)).max() <= 1
    back = _row(home, tmp_path / "b.png", "8", a, steps=LEVELS)
    assert np.abs(back[::-1].astype(int) - row).max() <= 1


def test_an_image_between_is_the_library_s(home: Path, tmp_path: Path) -> None:
    (a, first), (b, last) = _image(home, 2), _image(home, 5)
    row = _row(home, tmp_path / "a.png", a, b, "--level", "0.7")
    denoiser = Clipped(load_denoiser(home / "run", "cpu"))
    whole = denoiser.chain.strided(STEPS)
    chain = Chain(whole.levels[: round(0.7 * STEPS) + 1])
    images = [pixel_values(torch.from_numpy(pixels.copy()))[None, None] for pixels in (first, last)]
    ends = [Encoded(x, encode(denoiser, x, chain, Heun()), chain.levels[-1]) for x in images]
    for i, weight in ((1, 0.25), (2, 0.5), (3, 0.75)):
        *_, state = sampling_states(denoiser, _no_noise, chain, Heun(), interpolate_encoded(*ends, weight))
        assert np.abs(row[i].astype(int) - to_uint8(state.x)[0, 0].numpy()).max() <= 1


def test_at_a_low_level_the_images_are_mixed_and_at_a_high_one_made_anew(home: Path, tmp_path: Path) -> None:
    (a, first), (b, last) = _image(home, 2), _image(home, 5)
    line = [(1 - i / 4) * first + i / 4 * last for i in range(5)]
    low, high = (
        np.abs(_row(home, tmp_path / "a.png", a, b, "--level", level, steps=LEVELS) - line).mean((1, 2))
        for level in ("0.001", "1")
    )
    assert low.max() < 4  # grey values
    assert high[2] > 2 * low[2]


def test_a_file_comes_before_a_seed_of_the_same_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pixels = _image(home, 5)
    Image.fromarray(pixels).save(tmp_path / "8", "PNG")
    by_seed = _row(home, tmp_path / "a.png", "8", "3", n=2, steps=LEVELS)
    monkeypatch.chdir(tmp_path)
    by_file = _row(home, tmp_path / "b.png", "8", "3", n=2, steps=LEVELS)
    assert np.abs(by_file[0].astype(int) - pixels).mean() < 4
    assert np.abs(by_seed[0].astype(int) - pixels).mean() > 20
    np.testing.assert_array_equal(by_seed[1], by_file[1])


def test_nine_images_are_the_default_and_a_run_with_fewer_levels_is_served(trained: Path, tmp_path: Path) -> None:
    assert run(["interpolate", str(trained), "1", "2", "--out", str(tmp_path / "a.png"), "--device", "cpu"]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width * (28 + 4) == picture.height * (9 * 30 + 2)


# ends and options, what the sentence names; IMAGE is an image, TMP a folder
WRONG = [
    ("IMAGE TMP/none.png", "none.png"),
    ("TMP/none.png 3", "none.png"),
    ("IMAGE TMP", "TMP"),
    ("IMAGE RUN/config.toml", "config.toml"),
    ("3 x4", "x4"),
    ("3 1.5", "1.5"),
    ("3", "b"),
    ("3 -- -4", "-4"),
    ("3 4 --n 1", "--n"),
    ("3 4 --level 0", "0.0"),
    ("3 4 --level 1.01", "1.01"),
    ("3 4 --level nan", "nan"),
    ("3 4 --steps 0", "--steps"),
    ("3 4 --steps 101", "101"),
    ("3 4 --out TMP/a.gif", "a.gif"),
    ("3 4 --out TMP/a", "'a'"),
    ("3 4 --out TMP/none/a.png", "none"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[options for options, _ in WRONG])
def test_what_cannot_be_is_one_sentence_and_no_picture(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    places = {"RUN": home / "run", "IMAGE": Path(_image(home, 2)[0]), "TMP": tmp_path}
    arguments = ["interpolate", "RUN", *([] if "--out" in options else ["--out", "TMP/a.png"]), *options.split()]
    for name, path in places.items():
        arguments = [part.replace(name, str(path)) for part in arguments]
    capsys.readouterr()
    assert run(arguments) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert named.replace("TMP", str(tmp_path)) in lines[-1]
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []
