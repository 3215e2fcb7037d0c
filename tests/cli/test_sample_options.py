"""`clearwater sample`: classes and guidance; what cannot be is refused in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_runs import made_by, model_of, samples_of

from clearwater import (
    Guided,
)
from clearwater.cli import run
from clearwater.pictures import to_uint8

# --- classes


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("hat", [2]),
        ("hat,1,coat", [2, 0, 1]),
        ("0,2", [0, 2]),
        ("1", [0]),  # a name comes before a number
        ("coat, 2", [1, 2]),
        ("all", [0, 1, 2]),
    ],
)
def test_the_images_are_of_the_classes_in_turn(home: Path, tmp_path: Path, given: str, numbers: list[int]) -> None:
    made = made_by(home, tmp_path, "--classes", given)
    np.testing.assert_array_equal(made, samples_of(model_of(home, labels=numbers)))
    assert json.loads((tmp_path / "samples.json").read_text())["classes"] == numbers


def test_without_classes_the_network_is_told_none_and_each_class_makes_other_images(home: Path, tmp_path: Path) -> None:
    untold = made_by(home, tmp_path)
    np.testing.assert_array_equal(untold, samples_of(model_of(home)))
    of_each = [samples_of(model_of(home, labels=[label])) for label in range(3)]
    assert len({images.tobytes() for images in [untold, *of_each]}) == 4
    # As the data: each class is brighter than the one before.
    means = [float(images.mean()) for images in of_each]
    assert means[0] + 10 < means[1] < means[2] - 10


def test_the_classes_go_on_in_turn_from_batch_to_batch(home: Path, tmp_path: Path) -> None:
    made = made_by(home, tmp_path, "--classes", "hat,1,coat", "--batch", "1")
    difference = made.astype(int) - samples_of(model_of(home, labels=[2, 0, 1]))
    # A kernel may add in another order in another batch: that moves no value by more than its rounding.
    assert np.abs(difference).max() <= 1


# --- guidance


def _guided(home: Path, *, scale: float, labels: Sequence[int] = (2, 0), **options: object) -> Guided:
    return Guided(model_of(home, labels=labels), model_of(home), scale, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--guidance", "2"], {"scale": 2.0}),
        (["--guidance", "0"], {"scale": 0.0}),
        (["--guidance", "3", "--guidance-interval", "0.2", "0.7"], {"scale": 3.0, "interval": (0.2, 0.7)}),
        (["--guidance", "3", "--guidance-rescale", "0.7"], {"scale": 3.0, "rescale": 0.7}),
        (["--guidance", "1"], {"scale": 1.0}),
    ],
)
def test_guidance_goes_away_from_no_class(
    home: Path, tmp_path: Path, options: list[str], expected: dict[str, float]
) -> None:
    made = made_by(home, tmp_path, "--classes", "hat,1", *options)
    np.testing.assert_array_equal(made, samples_of(_guided(home, **expected)))


def test_each_kind_of_guidance_makes_other_images(home: Path) -> None:
    guided = [
        _guided(home, scale=1.0),
        _guided(home, scale=3.0),
        _guided(home, scale=3.0, interval=(0.2, 0.7)),
        _guided(home, scale=3.0, rescale=0.7),
        Guided(model_of(home, labels=[2, 0]), model_of(home, "weak", [2, 0]), 3.0),
        Guided(model_of(home, labels=[2, 0]), model_of(home, "plain"), 3.0),
    ]
    assert len({samples_of(each).tobytes() for each in guided}) == len(guided)


@pytest.mark.parametrize(
    ("of", "guide", "classes", "told"),
    [
        ("run", "weak", "hat,1", True),  # a guide that knows the same classes is told them
        ("run", "plain", "hat,1", False),
        ("run", "weak", None, False),
        ("plain", "weak", None, False),
        ("run", "weak/checkpoints/000000040", "hat,1", True),  # one checkpoint of a run
    ],
)
def test_another_run_can_be_the_guide(
    home: Path, tmp_path: Path, of: str, guide: str, classes: str | None, told: bool
) -> None:
    options = ["--guidance", "3", "--guide", str(home / guide), *(["--classes", classes] if classes else [])]
    made = made_by(home, tmp_path, *options, of=of)
    model = model_of(home, of, [2, 0] if classes else None)
    np.testing.assert_array_equal(made, samples_of(Guided(model, model_of(home, guide, [2, 0] if told else None), 3.0)))


def test_the_page_s_example_in_python_makes_what_it_says_the_command_makes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text()
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    code = block[1].replace('"RUN"', f'"{home / "run"}", "cpu"').replace("[0, 3, 9, 0]", "[0, 1, 2, 0]")
    names: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    exec(code.replace("(1, 28, 28)", "(1, 8, 8)").replace("seed=7", "seed=3"), names)
    options = ["--classes", "1,coat,hat,1", "--guidance", "2", "--guidance-interval", "0.1", "0.7"]
    made = made_by(home, tmp_path / "out", *options)
    images = names["images"]
    assert isinstance(images, torch.Tensor)
    np.testing.assert_array_equal(to_uint8(images)[:, 0].numpy(), made)


# --- refusals

# options, what the sentence names; HOME is the folder with the runs
WRONG = [
    ("--classes scarf", "'scarf'"),
    ("--classes 3", "'3'"),
    ("--classes hat,,coat", "''"),
    ("--classes -1", "'-1'"),
    ("--guidance 2", "--classes"),
    ("--classes hat --guidance 2 --guidance-interval 0.7 0.2", "(0.7, 0.2)"),
    ("--classes hat --guidance 2 --guidance-interval -0.1 1", "(-0.1, 1.0)"),
    ("--classes hat --guidance 2 --guidance-rescale 1.5", "1.5"),
    ("--classes hat --guidance nan", "nan"),
    ("--classes hat --guidance-rescale 0.5", "--guidance 2"),
    ("--classes hat --guidance-interval 0.2 0.7", "--guidance 2"),
    ("--sampler adaptive --steps 3", "--steps"),
    ("--sampler adaptive --grid all", "--grid"),
    ("--guidance 2 --guide HOME/none", "none"),
    ("--guidance 2 --guide HOME/images", "images"),
    ("--guidance 2 --guide HOME/colour", "colour"),
    ("--sampler magic", "'magic'"),
    ("--sampler heun --eta 0.5", "eta"),
    ("--eta 0.5", "eta"),
    ("--sampler ddim --churn 1", "churn"),
    ("--sampler ddim --tolerance 0.1", "tolerance"),
    ("--sampler ddim --eta 1.5", "1.5"),
    ("--sampler heun --churn -1", "-1"),
    ("--sampler adaptive --tolerance 0", "0.0"),
    ("--grid magic", "'magic'"),
    ("--grid=", "''"),
    ("--sampler ancestral --eta 1", "of ddim"),
    ("--sampler adaptive --tolerance 1e-300", "1e-300"),
    ("--grid all --steps 5", "5"),
    ("--grid leading --steps 61", "61"),
]


def _refused(of: Path, out: Path, options: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The only sentence that a refused command says; nothing is written."""
    capsys.readouterr()
    given = options.replace("HOME", str(of.parent)).split()
    assert run(["sample", str(of), "--out", str(out), "--n", "2", "--device", "cpu", *given]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert said.out == ""
    assert not out.exists()
    return lines[-1].replace(str(of), "")


@pytest.mark.parametrize(("options", "named"), WRONG, ids=[options for options, _ in WRONG])
def test_what_cannot_be_is_one_sentence_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    assert named in _refused(home / "run", tmp_path / "out", options, capsys)


@pytest.mark.parametrize("options", ["--classes hat", "--classes all", "--guidance 2 --classes 0"])
def test_classes_of_a_run_that_knows_none_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str
) -> None:
    assert "This run knows no classes" in _refused(home / "plain", tmp_path / "out", options, capsys)
