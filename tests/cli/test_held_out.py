"""Of a person's own images some are held out by `train`, and every command measures on those."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearwater.cli import run
from clearwater.data import load_images
from clearwater.training import RunFolder

Train = Callable[..., int]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 grey images of 8 × 8."""
    folder = tmp_path_factory.mktemp("many")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (240, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


def test_one_in_twenty_is_held_out_and_said_and_kept(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", data=str(many)) == 0
    assert "228 images of 8 × 8, grey; 12 more are held out, to measure with." in capsys.readouterr().err
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config().data.held_out == 12
    assert folder.entries()[-1]["unseen_images"] == "held_out"
    seen = load_images(many, held_out=12).digest()
    kept = json.loads((folder.path / "checkpoints" / "000000008" / "state.json").read_text())
    assert seen in json.dumps(kept)  # what was trained on are the others
    assert train("run", data=str(many)) == 0  # the same command goes on
    assert "was finished before" in capsys.readouterr().err


def test_the_bound_of_the_same_images_is_of_those_held_out(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--set", "data.held_out=5", data=str(many)) == 0
    capsys.readouterr()
    assert run(["bound", str(tmp_path / "run"), str(many), "--json", "--per-image"]) == 0
    own = json.loads(capsys.readouterr().out)
    unseen = tmp_path / "unseen"
    unseen.mkdir()
    for i, image in enumerate(load_images(many, held_out=5, split="held_out").images):
        Image.fromarray(image[0].numpy()).save(unseen / f"{i}.png")
    assert run(["bound", str(tmp_path / "run"), str(unseen), "--json", "--per-image"]) == 0
    assert own["images"] == 5
    assert json.loads(capsys.readouterr().out)["per_image"] == own["per_image"]


def test_measure_has_a_floor_of_those_held_out(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--set", "data.held_out=40", data=str(many)) == 0
    capsys.readouterr()
    options = ["-n", "60", "--features", "pixels", "--only", "frechet_distance,copies", "--json"]
    assert run(["measure", str(tmp_path / "run"), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert run(["measure", str(tmp_path / "run"), str(many), *options]) == 0  # the same, named
    assert json.loads(capsys.readouterr().out) == told
    assert told["images"] == {"samples": 60, "data": 200, "held-out": 40}
    assert told["figures"]["frechet_distance"]["floor"]["n"] == 40


def test_none_are_if_that_is_said_and_none_of_a_run_that_was_begun_without(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--set", "data.held_out=0", data=str(many)) == 0
    assert "240 images of 8 × 8, grey.\n" in capsys.readouterr().err
    path = tmp_path / "run" / "config.toml"
    assert "held_out = 0\n" in path.read_text()
    path.write_text(path.read_text().replace("held_out = 0\n", ""))  # as runs were before there was the setting
    assert train("run", "--steps", "9", data=str(many)) == 0
    assert "Going on from step 8" in capsys.readouterr().err
    assert train("run", "--steps", "9", "--set", "data.held_out=7", data=str(many)) == 2
    assert "data.held_out None and 7" in capsys.readouterr().err


def test_more_than_there_are_is_one_sentence(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("run", "--set", "data.held_out=240", data=str(many)) == 2
    said = capsys.readouterr().err
    assert "has 240 image(s), of which 240 cannot be held out: set data.held_out to fewer, or to 0." in said
    assert not (tmp_path / "run").exists()


def test_a_run_that_starts_from_another_holds_out_nothing_that_this_one_has_seen(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("all", "--set", "data.held_out=0", data=str(many)) == 0
    assert train("some", "--set", "data.held_out=9", data=str(many)) == 0
    for out, options, expected in (("a", (), 0), ("b", ("--set", "data.held_out=4"), 4)):
        capsys.readouterr()
        assert train(out, "--from", str(tmp_path / "all"), *options, data=str(many)) == 0
        assert RunFolder.open(tmp_path / out).config().data.held_out == expected
        assert ("has seen some of the 4 images that are held out now" in capsys.readouterr().err) == bool(options)
    assert train("c", "--from", str(tmp_path / "some"), data=str(many)) == 0
    assert RunFolder.open(tmp_path / "c").config().data.held_out == 9


def test_images_that_have_changed_since_are_not_taken_for_unseen_ones(
    train: Train, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(many, tmp_path / "grows")
    for out, options in (("kept", ()), ("streamed", ("--no-cache",))):
        assert train(out, *options, data=str(folder)) == 0
    of_figures = ["-n", "20", "--features", "pixels", "--only", "precision"]
    commands: list[list[str]] = [
        [*words, *rest]
        for out in ("kept", "streamed")
        for words, rest in (
            (["measure", str(tmp_path / out)], of_figures),
            (["bound", str(tmp_path / out), str(folder)], []),
        )
    ]
    for command in commands:
        assert run([*command, "--json"]) == 0
    shutil.copy(folder / "000.png", folder / "more.png")
    for command in commands:
        capsys.readouterr()
        assert run(command) == 2
        assert "are not those that the run was trained on, so it is not known which" in capsys.readouterr().err
    assert run([*commands[0], "--held-out", str(many)]) == 0
    capsys.readouterr()
    assert run(["ema", str(tmp_path / "kept")]) == 2
    assert "are not those that the run was trained on" in capsys.readouterr().err
