"""The demonstrations of `clearwater show` write a picture and print what they measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from clearwater.cli import run


def shown(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(["show", *arguments, "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(10**7) or []) > 20
    return capsys.readouterr().out


def test_the_reverse_steps_grow_gaussian_with_the_third_power(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(tmp_path / "a.png", capsys, "reverse-steps")
    slopes = [float(slope) for slope in re.findall(r"\d\.\d\d", out.splitlines()[-1])]
    assert len(slopes) == 3
    assert all(2.7 < slope < 3.1 for slope in slopes)


def test_the_weights_have_the_papers_anchors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the linear chain with beta: smallest, 0.0049679, at level 349; 0.0102045 at level 1000."""
    out = shown(tmp_path / "a.png", capsys, "weights")
    assert "0.00496786 at level 349" in out
    assert "0.0102045 at level 1000" in out


def test_one_shot_predictions_and_samples_are_told_apart(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(tmp_path / "a.png", capsys, "one-shot", str(trained), "--n", "4", "--device", "cpu")
    rows = [line for line in out.splitlines() if re.search(r"\d\.\d{3}", line)]
    assert len(rows) == 3
    # The images trained on: their spread is also their distance from their mean.
    spread, distance = (float(figure) for figure in re.findall(r"\d\.\d{3}", rows[-1]))
    assert spread == pytest.approx(distance, abs=1e-3)


def test_the_gradients_of_both_objectives_are_listed_by_level(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(tmp_path / "a.png", capsys, "gradients", str(trained), "fashion-mini", "--device", "cpu")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [int(row[0]) for row in rows][::9] == [1]
    for _, merged, euclidean, ratio, _ in rows:
        assert float(ratio) == pytest.approx(float(euclidean) / float(merged), rel=0.05)


@pytest.mark.parametrize("name", ["a.gif", "missing/a.png"])
def test_another_kind_of_file_or_no_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["show", "weights", "--out", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")
