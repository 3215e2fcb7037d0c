"""`clearwater info`, and `clearwater demo` from beginning to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageSequence

from clearwater.assembly import build_denoiser, pick_device
from clearwater.cli import demo, run
from clearwater.cli.progress import duration
from clearwater.config import Config
from clearwater.data import load_images
from clearwater.training import RunFolder
from clearwater.training.budget import Minutes


def test_info_as_json_says_what_the_run_is(
    trained: Path, tiny: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", str(trained), "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert set(facts) >= {"run", "parameters", "steps", "images_seen", "seconds", "config"}
    config = tiny("data.size=28")
    network = build_denoiser(config, pick_device("cpu")).network
    assert facts["run"] == str(trained)
    assert facts["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert (facts["steps"], facts["images_seen"]) == (8, 8 * 4)
    latest = RunFolder.open(trained).latest()
    assert latest is not None
    assert facts["seconds"] == latest.place.seconds > 0
    assert Config.model_validate(facts["config"]) == config
    assert said.err == ""


def test_info_for_people_says_the_same(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(trained), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert run(["info", str(trained)]) == 0
    said = capsys.readouterr().out
    assert Config.model_validate(facts["config"]).to_toml() in said
    lines = {tuple(line.rsplit(maxsplit=1)) for line in said.splitlines() if line}
    assert ("parameters", f"{facts['parameters']:,}") in lines
    assert ("steps", "8") in lines
    assert ("images seen", "32") in lines


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_a_duration_is_told_in_the_units_of_its_size(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _cells(picture: npt.NDArray[np.uint8], rows: int, columns: int, factor: int) -> npt.NDArray[np.uint8]:
    """The images of the grid at the left of a picture that was enlarged by `factor`."""
    small = picture[::factor, ::factor][2:, 2 : columns * 30 + 2]
    return small.reshape(rows, 30, columns, 30)[:, :28, :, :28].swapaxes(1, 2).reshape(-1, 28, 28)


def test_the_demo_ends_with_pictures_of_its_own_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_IMAGES", 20)  # 64 take three times as long
    # As many steps on every machine; after a few, all images are still the same grey.
    monkeypatch.setattr(Minutes, "fraction", lambda _, step, seconds, reserve=0.0: min(step / 12, 1.0))
    out = tmp_path / "demo"
    assert run(["demo", "--out", str(out), "--minutes", "0.02"]) == 0
    assert {"grid.png", "forward.gif", "reverse.gif", "loss.png"} <= {path.name for path in out.iterdir()}
    config = RunFolder.open(out).config()
    assert (config.data.source, config.training.minutes) == ("fashion-mini", 0.02)

    with Image.open(out / "forward.gif") as forward:
        first = _cells(np.asarray(forward.convert("L")), 4, 4, forward.width // 122)
    garments = {image.tobytes() for image in load_images("fashion-mini").images.numpy()}
    assert len({cell.tobytes() for cell in first} & garments) == 16

    # reverse.gif ends with the first 16 of the 20 images of grid.png: the same run of the sampler.
    with Image.open(out / "grid.png") as sheet:
        samples = _cells(np.asarray(sheet), 4, 5, sheet.width // 152)
    with Image.open(out / "reverse.gif") as reverse:
        frames = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(reverse)]
    assert len(frames) == 48
    np.testing.assert_array_equal(_cells(frames[-1], 4, 4, frames[-1].shape[0] // 122), samples[:16])
    assert len({image.tobytes() for image in samples}) == 20
    with Image.open(out / "loss.png") as curve:
        assert curve.format == "PNG"
