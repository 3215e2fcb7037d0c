"""`clearwater show`: the pictures show the data, the samples and the chain that were named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageSequence

from clearwater.chains import chain
from clearwater.cli import run
from clearwater.data import load_images
from clearwater.pictures import grid, plot_chain, write_picture

Pixels = npt.NDArray[np.uint8]
SIDE = 28
CELL = SIDE + 2  # an image and the gap after it


def _cells(picture: Pixels, rows: int, columns: int) -> Pixels:
    """The images of a grid, whatever it was enlarged by: (rows, columns, SIDE, SIDE)."""
    factor = picture.shape[1] // (columns * CELL + 2)
    assert picture.shape == ((rows * CELL + 2) * factor, (columns * CELL + 2) * factor)
    small = picture[::factor, ::factor]
    return small[2:, 2:].reshape(rows, CELL, columns, CELL)[:, :SIDE, :, :SIDE].swapaxes(1, 2)


def _show(*arguments: str) -> list[Pixels]:
    """The frames of the picture that the command writes."""
    assert run(["show", *arguments]) == 0
    path = arguments[arguments.index("--out") + 1]
    with Image.open(path) as read:
        return [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(read)]


def _samples(trained: Path, out: Path, n: int, *options: str) -> Pixels:
    ancestral = ["--sampler", "ancestral", *(option.replace("--levels", "--steps") for option in options)]
    assert run(["sample", str(trained), "--out", str(out), "--n", str(n), "--device", "cpu", *ancestral]) == 0
    return np.stack([np.asarray(Image.open(out / f"{i:06d}.png")) for i in range(n)])


@pytest.fixture(scope="module")
def garments() -> set[bytes]:
    return {image.tobytes() for image in load_images("fashion-mini").images.numpy()}


def test_the_forward_strip_begins_with_six_images_of_the_data_and_ends_in_noise(
    tmp_path: Path, garments: set[bytes]
) -> None:
    (strip,) = _show("forward", "fashion-mini", "--out", str(tmp_path / "a.png"))
    cells = _cells(strip, 6, 11)
    first = [cell.tobytes() for cell in cells[:, 0]]
    assert len(set(first) & garments) == 6
    # At the prior of the linear chain alpha is 0.006: what is left is N(0, 1), clipped to [-1, 1]: it is
    # black or white with the probability that |z| > 1, and mean grey.
    noise = cells[:, -1]
    assert ((noise == 0) | (noise == 255)).mean() == pytest.approx(0.3173, abs=0.03)
    assert noise.mean() == pytest.approx(127.5, abs=5)


def test_the_forward_animation_sinks_sixteen_images_in_noise(tmp_path: Path, garments: set[bytes]) -> None:
    frames = _show("forward", "fashion-mini", "--out", str(tmp_path / "a.gif"), "--chain", "cosine")
    assert len(frames) == 48
    first = _cells(frames[0], 4, 4).reshape(16, -1)
    assert len({cell.tobytes() for cell in first} & garments) == 16
    # The distance to the first frame grows, up to the change of sides that clipping allows.
    distance = [np.abs(frame.astype(float) - frames[0]).mean() for frame in frames[::6]]
    assert distance == sorted(distance)


def test_seed_and_chain_change_the_forward_strip(tmp_path: Path) -> None:
    def strip(*options: str) -> bytes:
        (pixels,) = _show("forward", "fashion-mini", "--out", str(tmp_path / "a.png"), *options)
        return pixels.tobytes()

    strips = [strip(), strip("--seed", "1"), strip("--chain", "cosine")]
    assert len(set(strips)) == 3
    assert strip("--seed", "0", "--chain", "linear") == strips[0]


def test_the_forward_process_of_a_folder_with_few_images_shows_them_all(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), np.uint8)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    (strip,) = _show("forward", str(tmp_path / "images"), "--out", str(tmp_path / "a.png"))
    assert {cell.tobytes() for cell in _cells(strip, 3, 11)[:, 0]} == {image.tobytes() for image in pixels}


@pytest.mark.parametrize("options", [[], ["--seed", "5"], ["--levels", "4"]])
def test_the_reverse_strip_ends_with_the_samples_of_the_same_seed(
    trained: Path, tmp_path: Path, options: list[str]
) -> None:
    (strip,) = _show("reverse", str(trained), "--device", "cpu", "--out", str(tmp_path / "a.png"), *options)
    columns = 5 if options == ["--levels", "4"] else 11
    cells = _cells(strip, 12, columns)
    samples = _samples(trained, tmp_path / "samples", 6, *options)
    np.testing.assert_array_equal(cells[::2, -1], samples)
    # The last step is the mean at s = 0, which is the prediction itself.
    np.testing.assert_allclose(cells[1::2, -1].astype(int), samples.astype(int), atol=1)


def test_the_forward_strip_of_a_run_is_of_its_images_and_its_chain(
    trained: Path, tmp_path: Path, garments: set[bytes]
) -> None:
    (strip,) = _show("forward", str(trained), "--out", str(tmp_path / "a.png"), "--n", "3", "--seed", "7")
    cells = _cells(strip, 3, 11)
    assert len({cell.tobytes() for cell in cells[:, 0]} & garments) == 3
    (of_data,) = _show("forward", "fashion-mini", "--out", str(tmp_path / "b.png"), "--n", "3", "--seed", "7")
    np.testing.assert_array_equal(cells[:, 0], _cells(of_data, 3, 11)[:, 0])
    (other,) = _show("forward", str(trained), "--out", str(tmp_path / "c.png"), "--n", "3", "--chain", "linear")
    assert not np.array_equal(strip[:, -28:], other[:, -28:])


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_the_reverse_strip_shows_the_sampler_that_is_asked_for(trained: Path, tmp_path: Path, sampler: str) -> None:
    options = ["--device", "cpu", "--n", "2", "--sampler", sampler, "--levels", "5"]
    (strip,) = _show("reverse", str(trained), "--out", str(tmp_path / "a.png"), *options)
    sampled = ["--sampler", sampler, "--steps", "5", "--n", "2", "--device", "cpu"]
    assert run(["sample", str(trained), "--out", str(tmp_path / "samples"), *sampled]) == 0
    samples = [np.asarray(Image.open(tmp_path / "samples" / f"{i:06d}.png")) for i in range(2)]
    np.testing.assert_array_equal(_cells(strip, 4, 6)[::2, -1], samples)


def test_a_sampler_that_shows_no_steps_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["show", "reverse", str(trained), "--out", str(tmp_path / "a.png"), "--sampler", "adaptive"]) == 2
    assert "take another one" in capsys.readouterr().err


def test_the_reverse_animation_begins_in_noise_and_ends_with_the_samples(trained: Path, tmp_path: Path) -> None:
    frames = _show("reverse", str(trained), "--device", "cpu", "--out", str(tmp_path / "a.gif"))
    samples = _samples(trained, tmp_path / "samples", 16)
    sheet = np.asarray(grid(torch.from_numpy(samples)[:, None]))
    factor = frames[-1].shape[0] // sheet.shape[0]
    assert len(frames) == 11  # the ten levels of the run's chain, and the noise
    last = frames[-1][::factor, ::factor]
    np.testing.assert_array_equal(last[:, : sheet.shape[1]], sheet)
    assert last.shape[1] == 2 * sheet.shape[1] + 6
    first = _cells(frames[0][:, : sheet.shape[1] * factor], 4, 4)
    assert ((first == 0) | (first == 255)).mean() == pytest.approx(0.3173, abs=0.03)  # |z| > 1


@pytest.mark.parametrize(("name", "levels"), [("linear", None), ("cosine", 50)])
def test_the_chain_picture_is_the_plot_of_that_chain(tmp_path: Path, name: str, levels: int | None) -> None:
    options = ["--levels", str(levels)] if levels else []
    (shown,) = _show("chain", name, "--out", str(tmp_path / "a.png"), *options)
    write_picture(tmp_path / "b.png", plot_chain(chain(name, levels or 1000), name))
    with Image.open(tmp_path / "b.png") as expected:
        np.testing.assert_array_equal(shown, expected.convert("L"))


def test_an_uppercase_suffix_is_as_good(tmp_path: Path) -> None:
    _show("chain", "linear", "--out", str(tmp_path / "a.PNG"))
    with Image.open(tmp_path / "a.PNG") as read:
        assert read.format == "PNG"


def test_the_chain_of_a_run_is_its_own(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["show", "chain", str(trained), "--out", str(tmp_path / "a.png")]) == 0
    ends = chain("cosine", 10).levels.log_snr[[1, -1]].tolist()
    assert f"log SNR {ends[0]:.3f} at level 1, {ends[1]:.3f} at level 10" in capsys.readouterr().out
