"""`clearwater sample`: its files hold the library's samples, and only them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clearwater import Clipped, FixedLarge, FixedSmall, NetworkDenoiser, load_denoiser, sample
from clearwater.cli import run, writing
from clearwater.files import write_atomically
from clearwater.pictures import enlarged, grid, to_uint8

Pixels = npt.NDArray[np.uint8]


def _made(trained: Path, out: Path, *options: str) -> Pixels:
    """The images that the command writes as PNG, (N, H, W)."""
    assert run(["sample", str(trained), "--out", str(out), "--device", "cpu", "--sampler", "ancestral", *options]) == 0
    return _pngs(out)


def _pngs(out: Path) -> Pixels:
    paths = sorted(out.glob("[0-9]*.png"))
    assert [path.name for path in paths] == [f"{i:06d}.png" for i in range(len(paths))]
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def _expected(trained: Path, n: int, *, levels: int | None = None, clip: bool = True, large: bool = False) -> Pixels:
    loaded = load_denoiser(trained, "cpu")
    variance = FixedLarge() if large else FixedSmall()
    network = NetworkDenoiser(loaded.network, loaded.chain, loaded.target, variance)
    denoiser = Clipped(network) if clip else network
    chain = denoiser.chain.strided(levels) if levels else denoiser.chain
    return to_uint8(sample(denoiser, n, (1, 28, 28), seed=3, chain=chain))[:, 0].numpy()


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["--variance", "fixed_small"], {}),
        (["--variance", "fixed_small", "--steps", "5"], {"levels": 5}),
        (["--variance", "fixed_small", "--steps", "1"], {"levels": 1}),
        (["--variance", "fixed_large"], {"large": True}),
        (["--variance", "fixed_large", "--no-clip"], {"large": True, "clip": False}),
        ([], {"large": True}),  # the run's own
    ],
)
def test_the_images_are_the_librarys_samples(
    trained: Path, tmp_path: Path, options: list[str], changes: dict[str, int]
) -> None:
    made = _made(trained, tmp_path / "out", "--n", "5", "--seed", "3", *options)
    np.testing.assert_array_equal(made, _expected(trained, 5, **changes))


def test_each_choice_makes_other_images(trained: Path) -> None:
    choices = [{}, {"large": True}, {"large": True, "clip": False}, {"levels": 5}, {"levels": 1}]
    assert len({_expected(trained, 2, **choice).tobytes() for choice in choices}) == len(choices)


def test_the_images_do_not_depend_on_the_batch(trained: Path, tmp_path: Path) -> None:
    made = [
        _made(trained, tmp_path / str(batch), "--n", "5", "--batch", str(batch)).astype(int) for batch in (1, 2, 5, 64)
    ]
    for other in made[1:]:
        # A kernel may add in another order in another batch: that moves no value by more than its rounding.
        assert np.abs(other - made[0]).max() <= 1
    assert np.abs(made[0][0] - made[0][1]).max() > 20  # while the images differ among themselves


def test_an_image_depends_on_its_number_and_the_seed_alone(trained: Path, tmp_path: Path) -> None:
    few, more, others = (
        _made(trained, tmp_path / name, "--n", n, "--seed", seed).astype(int)
        for name, n, seed in (("few", "2", "0"), ("more", "6", "0"), ("others", "2", "1"))
    )
    assert np.abs(more[:2] - few).max() <= 1
    assert np.abs(others - few).max() > 20


def test_the_npz_and_the_grid_hold_the_images_of_the_pngs(trained: Path, tmp_path: Path) -> None:
    made = _made(trained, tmp_path, "--n", "5", "--npz", "--batch", "2")
    with np.load(tmp_path / "samples.npz") as stored:
        assert stored.files == ["images"]
        assert stored["images"].dtype == np.uint8
        np.testing.assert_array_equal(stored["images"], made[..., None])
    with Image.open(tmp_path / "grid.png") as sheet:
        np.testing.assert_array_equal(sheet, enlarged(grid(torch.from_numpy(made)[:, None])))


def test_the_grid_shows_at_most_100_images(trained: Path, tmp_path: Path) -> None:
    made = _made(trained, tmp_path, "--n", "130", "--steps", "1", "--batch", "60")
    assert len(made) == 130
    with Image.open(tmp_path / "grid.png") as sheet:
        np.testing.assert_array_equal(sheet, enlarged(grid(torch.from_numpy(made[:100])[:, None])))


def test_16_images_are_made_if_no_number_is_given(trained: Path, tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        _made(trained, tmp_path / "default", "--steps", "2"),
        _made(trained, tmp_path / "given", "--steps", "2", "--n", "16", "--seed", "0"),
    )
    assert len(_pngs(tmp_path / "default")) == 16


def test_a_second_sample_into_the_same_folder_replaces_the_first_and_touches_nothing_else(
    trained: Path, tmp_path: Path
) -> None:
    _made(trained, tmp_path, "--n", "5", "--npz")
    (tmp_path / "notes.txt").write_text("my own")
    (tmp_path / "favourite.png").write_bytes(b"my own")
    made = _made(trained, tmp_path, "--n", "2", "--seed", "9")
    assert {path.name for path in tmp_path.iterdir()} == {
        "000000.png",
        "000001.png",
        "grid.png",
        "samples.json",
        "notes.txt",
        "favourite.png",
    }
    np.testing.assert_array_equal(made, _made(trained, tmp_path.with_name("fresh"), "--n", "2", "--seed", "9"))
    assert (tmp_path / "favourite.png").read_bytes() == b"my own"


def test_the_folder_says_what_it_was_made_with(trained: Path, tmp_path: Path) -> None:
    _made(trained, tmp_path, "--n", "3", "--seed", "4", "--steps", "5", "--variance", "fixed_large")
    told = json.loads((tmp_path / "samples.json").read_text())
    assert (told["run"], told["n"], told["seed"], told["steps"]) == (str(trained), 3, 4, 5)
    assert (told["sampler"], told["variance"], told["clip"]) == ("ancestral", "fixed_large", True)


def test_a_folder_with_something_else_is_refused_and_untouched(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "000000.png").write_bytes(b"a photo of mine")
    assert run(["sample", str(trained), "--out", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("000000.png", b"a photo of mine")]


def test_bad_options_are_refused_before_an_earlier_sample_is_cleared(trained: Path, tmp_path: Path) -> None:
    before = _made(trained, tmp_path, "--n", "3")
    assert run(["sample", str(trained), "--out", str(tmp_path), "--steps", "100000"]) == 2
    assert run(["sample", str(tmp_path), "--out", str(tmp_path)]) == 2
    np.testing.assert_array_equal(_pngs(tmp_path), before)


def test_a_torn_model_is_named_and_the_one_before_sampled(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    (whole,) = (trained / "checkpoints").iterdir()
    for name in (whole.name, "000000009"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        for path in whole.iterdir():
            (folder / "checkpoints" / name / path.name).write_bytes(path.read_bytes())
    (folder / "config.toml").write_bytes((trained / "config.toml").read_bytes())
    (folder / "checkpoints" / "000000009" / "model.safetensors").write_bytes(b"torn")
    made = _made(folder, tmp_path / "out", "--n", "2", "--seed", "3")
    np.testing.assert_array_equal(made, _expected(trained, 2, large=True))
    assert str(folder / "checkpoints" / "000000009") in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *, durable: bool = True) -> None:
        if path.suffix == ".png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, content, durable=durable)

    command = ["sample", str(trained), "--out", str(tmp_path / "out"), "--n", "1"]
    assert run(command) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(writing, "write_atomically", full)
    assert run([*command, "--seed", "1"]) == 1
    # What was sampled before is all there; beside it only the folder that the repeated command goes on in.
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert after == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("Error: ")] == said[-1:]
    assert "No space left on device" in said[-1]
    assert "free some space" in said[-1]


def test_the_working_folder_itself_can_be_sampled_into(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = trained.resolve()
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second replaces the first
        assert run(["sample", str(source), "--out", ".", "--n", "2"]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"000000.png", "000001.png", "grid.png", "samples.json"}
