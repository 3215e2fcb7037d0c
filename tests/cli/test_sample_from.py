"""`clearwater sample` from an image, with a mask, and as an animation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageSequence

from clearwater import Chain, Clipped, Config, Heun, RePaint, UniPC, load_denoiser, sample, sampling_states
from clearwater.cli import run
from clearwater.data import pixel_values
from clearwater.pictures import grid, to_uint8
from clearwater.randomness import ImageNoise

Pixels = npt.NDArray[np.uint8]
SHAPE, LEVELS, N, SEED = (1, 8, 8), 60, 4, 3


@pytest.fixture(scope="module")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images and a run on them."""
    home = tmp_path_factory.mktemp("from")
    (home / "images").mkdir()
    drawn = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(drawn.integers(20, 230, (8, 8), np.uint8)).save(home / "images" / f"{i}.png")
    sets = ("objective=v", f"chain.levels={LEVELS}", "training.steps=50", "training.learning_rate=4e-3")
    (home / "tiny.toml").write_text(tiny(*sets).to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", str(home / "images"), *options]) == 0
    return home


def _made(home: Path, out: Path, *options: str, n: int = N) -> Pixels:
    """The images that the command writes, (N, H, W)."""
    arguments = ["--out", str(out), "--n", str(n), "--seed", str(SEED), "--device", "cpu"]
    assert run(["sample", str(home / "run"), *arguments, *options]) == 0
    return np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(n)])


def _image(home: Path) -> tuple[Path, torch.Tensor]:
    path = home / "images" / "2.png"
    return path, pixel_values(torch.from_numpy(np.asarray(Image.open(path)).copy()))[None, None]


@pytest.mark.parametrize(
    ("options", "time"),
    [([], 0.6), (["--level", "0.3"], 0.3), (["--level", "1"], 1.0), (["--level", "0.0001"], 1 / LEVELS)],
)
def test_an_image_is_made_anew_from_the_level_asked_for(
    home: Path, tmp_path: Path, options: list[str], time: float
) -> None:
    path, known = _image(home)
    made = _made(home, tmp_path, "--from", str(path), *options)
    model = load_denoiser(home / "run", "cpu")
    part = Chain(model.chain.levels[: round(time * LEVELS) + 1])
    chain = part.strided(min(20, part.T))  # as many steps as ever, from the level on
    noise = ImageNoise(SEED, range(N), SHAPE, "cpu")
    start = chain.levels[-1].noise(known, noise())
    *_, state = sampling_states(Clipped(model), noise, chain, UniPC(), start)
    np.testing.assert_array_equal(made, to_uint8(state.x)[:, 0].numpy())


def test_the_lower_the_level_the_nearer_is_the_image(home: Path, tmp_path: Path) -> None:
    path, _ = _image(home)
    options = ["--from", str(path), "--steps", str(LEVELS), "--level"]
    apart = [
        np.abs(_made(home, tmp_path / level, *options, level).astype(int) - np.asarray(Image.open(path))).mean()
        for level in ("0.001", "0.3", "1")
    ]
    assert apart[0] < 8  # grey values; the noise of the first level alone is 5
    assert apart[0] < apart[1] < apart[2]


def _mask(path: Path, side: int) -> npt.NDArray[np.bool_]:
    """Writes a mask, white in the lower right quarter; returns which of the run's pixels are black."""
    white = np.zeros((side, side), bool)
    white[side // 2 :, side // 2 :] = True
    Image.fromarray(np.where(white, 255, 0).astype(np.uint8)).save(path)
    return ~white[:: side // 8, :: side // 8]


@pytest.mark.parametrize(("options", "times"), [([], 5), (["--repaint", "2"], 2)])
@pytest.mark.parametrize("side", [8, 32])
def test_what_the_mask_leaves_black_is_the_image_s_and_the_rest_is_filled_in(
    home: Path, tmp_path: Path, options: list[str], times: int, side: int
) -> None:
    path, known = _image(home)
    black = _mask(tmp_path / "mask.png", side)
    given = ["--from", str(path), "--mask", str(tmp_path / "mask.png"), "--sampler", "heun", "--steps", "6"]
    made = _made(home, tmp_path / "out", *given, *options)
    pixels = np.asarray(Image.open(path))
    np.testing.assert_array_equal(made[:, black], np.broadcast_to(pixels[black], (N, int(black.sum()))))
    assert (made[:, ~black] != pixels[~black]).any(1).all()
    stepper = RePaint(Heun(), known, torch.from_numpy(black).float(), times)
    model = load_denoiser(home / "run", "cpu")
    x = sample(Clipped(model), N, SHAPE, seed=SEED, chain=model.chain.strided(6), stepper=stepper)
    np.testing.assert_array_equal(made, to_uint8(x)[:, 0].numpy())


# --- animation


@pytest.mark.parametrize(("n", "shown"), [(4, 4), (20, 16)])
def test_the_animation_ends_with_the_finished_images(home: Path, tmp_path: Path, n: int, shown: int) -> None:
    made = _made(home, tmp_path / "out", "--animate", str(tmp_path / "a.gif"), n=n)
    with Image.open(tmp_path / "a.gif") as animation:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)]
    assert len(frames) == 21  # the noise, and each of 20 steps
    sheet = np.asarray(grid(torch.from_numpy(made[:shown])[:, None])).astype(int)
    factor = frames[-1].shape[0] // sheet.shape[0]
    # Made for itself, in another batch if there are more than 16: hence the rounding.
    last = frames[-1][::factor, ::factor][:, : sheet.shape[1]]
    assert np.abs(last - sheet).max() <= 1
    assert np.abs(frames[0][::factor, ::factor][:, : sheet.shape[1]] - sheet).max() > 50


# options, what the sentence names; RUN is a run, IMAGE and MASK are images, TMP a folder
WRONG = [
    ("--from TMP/none.png", "none.png"),
    ("--from RUN/config.toml", "config.toml"),
    ("--from IMAGE --level 0", "0.0"),
    ("--from IMAGE --level 1.1", "1.1"),
    ("--from IMAGE --level -0.5", "-0.5"),
    ("--from IMAGE --level nan", "nan"),
    ("--mask MASK", "--from"),
    ("--level 0.3", "--from"),
    ("--from IMAGE --repaint 3", "--mask"),
    ("--from IMAGE --mask MASK --level 0.3", "--level"),
    ("--from IMAGE --mask TMP/none.png", "none.png"),
    ("--from IMAGE --mask MASK --repaint 0", "--repaint"),
    ("--from IMAGE --mask TMP/wide.png", "8 × 16"),
    ("--from IMAGE --mask TMP/white.png", "all white"),
    ("--from IMAGE --mask TMP/black.png", "all black"),
    ("--animate TMP/a.png", "a.png"),
    ("--animate TMP/a", "'a'"),
    ("--animate TMP/none/a.gif", "none"),
    ("--animate .", "'.'"),
]


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[options for options, _ in WRONG])
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    path, _ = _image(home)
    _mask(tmp_path / "mask.png", 8)
    for name, size, value in (("wide", (16, 8), 0), ("white", (8, 8), 255), ("black", (8, 8), 0)):
        Image.new("L", size, value).save(tmp_path / f"{name}.png")
    there = sorted(tmp_path.iterdir())
    places = {"RUN": home / "run", "IMAGE": path, "MASK": tmp_path / "mask.png", "TMP": tmp_path}
    for name, place in places.items():
        options = options.replace(name, str(place))
    capsys.readouterr()
    assert run(["sample", str(home / "run"), "--out", str(tmp_path / "out"), "--n", "2", *options.split()]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert named in lines[-1]
    assert said.out == ""
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder that nobody can write into")
def test_an_animation_that_cannot_be_written_is_refused_before_an_earlier_sample_is_replaced(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _made(home, tmp_path, "--steps", "2")
    capsys.readouterr()
    command = ["sample", str(home / "run"), "--out", str(tmp_path), "--n", "2", "--animate", "/proc/a.gif"]
    assert run(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: 'a.gif' cannot be written into '/proc'")
    np.testing.assert_array_equal(
        np.stack([np.asarray(Image.open(tmp_path / f"{i:06d}.png")) for i in range(N)]), before
    )
