"""The pictures in a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from reports import Element
from run_folders import checkpoint_of

from clearwater.config import Config
from clearwater.pictures import png_of
from clearwater.training import RunFolder


def _save(path: Path, side: int, shade: int, *, noise: bool = False) -> bytes:
    path.parent.mkdir(exist_ok=True)
    pixels = np.full((side, side), shade, np.uint8)
    if noise:
        pixels = np.random.default_rng(shade).integers(0, 256, (side, side)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def _content(image: Element) -> bytes:
    return base64.b64decode(image.attributes["src"].partition(",")[2])


def test_the_newest_samples_are_large_and_the_earlier_ones_a_strip(
    page: Callable[..., Element], tmp_path: Path
) -> None:
    previews = tmp_path / "run" / "previews"
    page(None)
    contents = {step: _save(previews / f"{step:09d}.png", 100, step) for step in (10, 20, 30)}
    _save(previews / "other.png", 10, 1)
    images = page(None).all("img")
    assert [_content(image) for image in images] == [contents[30], contents[10], contents[20]]
    assert [image.attributes["alt"] for image in images] == [f"Samples after step {step}" for step in (30, 10, 20)]
    assert [image.attributes["width"] for image in images] == ["500", "300", "300"]  # by whole factors


def test_of_many_samples_some_are_shown_the_first_among_them(page: Callable[..., Element], tmp_path: Path) -> None:
    page(None)
    for step in range(1, 102):
        _save(tmp_path / "run" / "previews" / f"{step:09d}.png", 4, step)
    shown = [int(image.attributes["alt"].split()[-1]) for image in page(None).all("img")]
    assert shown[:2] == [101, 1]
    assert len(shown) == 10
    assert np.ptp(np.diff(shown[1:])) <= 1  # evenly spread


def test_earlier_samples_that_are_large_files_are_made_small(page: Callable[..., Element], tmp_path: Path) -> None:
    previews = tmp_path / "run" / "previews"
    page(None)
    _save(previews / "000000001.png", 500, 1, noise=True)
    newest = _save(previews / "000000002.png", 500, 2, noise=True)
    large, small = page(None).all("img")
    assert _content(large) == newest
    with Image.open(io.BytesIO(_content(small))) as image:
        assert image.size == (360, 360)
    assert len(_content(small)) < 100_000 < len(newest)


def test_a_picture_that_cannot_be_read_is_passed_over(page: Callable[..., Element], tmp_path: Path) -> None:
    previews = tmp_path / "run" / "previews"
    page(None)
    good = _save(previews / "000000002.png", 40, 2)
    whole = _save(previews / "000000001.png", 500, 1, noise=True)
    (previews / "000000001.png").write_bytes(whole[: len(whole) // 2])
    (previews / "000000003.png").write_bytes(b"\x89PNG torn")
    (image,) = page(None).all("img")
    assert _content(image) == good
    assert image.attributes["alt"] == "Samples after step 2"


def test_nearest_training_images_are_shown_if_they_were_looked_for(
    page: Callable[..., Element], tmp_path: Path
) -> None:
    assert "Nearest training images" not in page(None).text
    content = _save(tmp_path / "run" / "nearest.png", 30, 5)
    root = page(None)
    assert "Nearest training images" in [title.text for title in root.all("h2")]
    assert [_content(image) for image in root.all("img")] == [content]


def test_the_strips_of_both_processes_are_shown_and_say_if_they_are_old(
    page: Callable[..., Element], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    assert "Into noise and out of it" not in page(None).text
    run = tmp_path / "run"
    strips = {
        name: png_of(Image.new("L", (90, 20), shade), step=10) for name, shade in (("forward", 5), ("reverse", 9))
    }
    for name, content in strips.items():
        (run / f"{name}.png").write_bytes(content)
    RunFolder.open(run).save(checkpoint_of(10), tiny())
    images = page(None).all("img")
    assert [_content(image) for image in images] == list(strips.values())
    assert [image.attributes["alt"] for image in images] == ["Images sinking into noise", "Samples coming out of noise"]
    assert "Of step 10." not in page(None).text
    RunFolder.open(run).save(checkpoint_of(20), tiny())
    captions = [each.text for each in page(None).all("figcaption") if "verse" in each.text or "ward" in each.text]
    assert [caption.endswith(" Of step 10.") for caption in captions] == [False, True]  # data do not age


def test_a_strip_that_is_a_large_file_is_made_small(page: Callable[..., Element], tmp_path: Path) -> None:
    page(None)
    noise = np.random.default_rng(0).integers(0, 256, (300, 1800, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "run" / "reverse.png")
    (image,) = page(None).all("img")
    with Image.open(io.BytesIO(_content(image))) as made:
        assert (made.format, made.width) == ("JPEG", 1112)
