"""Pictures as files: what Pillow reads back is what was written, and a failure leaves the old file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from clearwater.chains import linear
from clearwater.pictures import plot_chain, png_of, step_of, write_animation, write_picture


def _random(*shape: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.mark.parametrize("shape", [(9, 12), (9, 12, 3)])
def test_a_picture_is_a_png_with_its_pixels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = _random(*shape)
    write_picture(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as read:
        assert (read.format, read.mode) == ("PNG", picture.mode)
        np.testing.assert_array_equal(read, picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_figure_is_a_png_of_what_it_draws(tmp_path: Path) -> None:
    figure = plot_chain(linear(100), "linear")
    write_picture(tmp_path / "a.png", figure)
    with Image.open(tmp_path / "a.png") as read:
        assert read.format == "PNG"
        assert read.size == tuple((figure.get_size_inches() * 150).astype(int))
        pixels = np.asarray(read.convert("RGB")).reshape(-1, 3)
    # Its curves are in this blue, on white.
    assert (pixels == (0x1F, 0x6F, 0x8B)).all(1).any()
    assert (pixels == 255).all(1).mean() > 0.5


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_animation_has_its_frames_and_holds_the_last(tmp_path: Path, count: int) -> None:
    frames = [_random(9, 12, seed=seed) for seed in range(count)]
    write_animation(tmp_path / "a.gif", frames, frame_ms=70, hold_ms=1500)
    with Image.open(tmp_path / "a.gif") as read:
        assert read.format == "GIF"
        assert getattr(read, "n_frames", 1) == count
        durations = []
        for frame, expected in zip(ImageSequence.Iterator(read), frames, strict=True):
            durations.append(frame.info["duration"])
            np.testing.assert_array_equal(frame.convert("L"), expected)
        assert durations == [70] * (count - 1) + [1500]
        if count > 1:
            assert read.info["loop"] == 0  # for ever


def test_a_colour_animation_keeps_colours_that_fit_a_palette(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "teal", "navy")]
    write_animation(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as read:
        seen = [frame.convert("RGB").getpixel((1, 1)) for frame in ImageSequence.Iterator(read)]
    assert seen == [frame.getpixel((1, 1)) for frame in frames]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_picture(path, _random(4, 4)),
        lambda path: write_animation(path, [_random(4, 4), _random(4, 4, seed=1)]),
    ],
    ids=["picture", "animation"],
)
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"the old one")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for seed in (0, 1):
        write_picture(path, _random(5, 5, seed=seed))
    with Image.open(path) as read:
        np.testing.assert_array_equal(read, _random(5, 5, seed=1))


def test_a_picture_says_of_which_step_it_is_and_its_pixels_are_the_same(tmp_path: Path) -> None:
    picture = _random(9, 12)
    (tmp_path / "a.png").write_bytes(png_of(picture, step=1234))
    write_picture(tmp_path / "b.png", picture)
    assert (step_of(tmp_path / "a.png"), step_of(tmp_path / "b.png")) == (1234, None)
    with Image.open(tmp_path / "a.png") as read:
        np.testing.assert_array_equal(read, picture)


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG torn"])
def test_what_is_no_picture_says_no_step(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    assert step_of(tmp_path / "a.png") is None
