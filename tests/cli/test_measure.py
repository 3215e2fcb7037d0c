"""`clearwater measure`: what it says is what the figures are, of runs and of folders that any program made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clearwater.cli import run
from clearwater.data import load_images
from clearwater.evaluation import Moments, frechet_distance, load_garment_classifier
from clearwater.evaluation.results import results

Said = pytest.CaptureFixture[str]
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(tmp_path: Path, capsys: Said) -> Measure:
    def command(*arguments: object) -> dict[str, Any]:
        options = ["--json", "--cache", str(tmp_path / "cache"), "--device", "cpu"]
        assert run(["measure", *map(str, arguments), *options]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    return command


def _folder(path: Path, images: torch.Tensor) -> Path:
    path.mkdir()
    for i, image in enumerate(images.numpy()):
        Image.fromarray(image[0]).save(path / f"{i:06d}.png")
    return path


def _distance(images: torch.Tensor) -> float:
    classifier = load_garment_classifier()
    features = [classifier.seen(of)[0].float() for of in (images, load_images("fashion-mini").images)]
    return frechet_distance(*map(Moments.of, features))


def test_a_run_is_sampled_and_the_samples_are_measured(trained: Path, tmp_path: Path, measure: Measure) -> None:
    of_run = shutil.copytree(trained, tmp_path / "run")
    told = measure(of_run, "--n", 80, "--steps", 3, "--seed", 5, "--only", "frechet_distance,precision")
    (samples,) = (path for path in (of_run / "measured").iterdir() if path.is_dir())
    (kept,) = results(of_run, "fidelity")
    assert (kept.step, kept.found) == (8, told)
    options = ["--n", "80", "--steps", "3", "--seed", "5", "--only", "frechet_distance,precision"]
    assert kept.command[:2] == ("measure", str(of_run))
    assert all(
        pair in zip(kept.command, kept.command[1:], strict=False)
        for pair in zip(options[::2], options[1::2], strict=True)
    )
    assert told["images"] == {"samples": 80, "data": 9000, "held-out": 1000}
    assert (told["samples"], told["features"], told["is_fid"]) == (str(samples), "garments-64", False)
    assert list(told["figures"]) == ["frechet_distance", "precision"]
    assert (
        run(["sample", str(of_run), "--out", str(tmp_path / "same"), "--n", "80", "--steps", "3", "--seed", "5"]) == 0
    )
    images = load_images(tmp_path / "same").images
    assert len(images) == 80  # grid.png is none of them
    figure = told["figures"]["frechet_distance"]
    assert figure["value"] == pytest.approx(_distance(images), rel=1e-5)
    assert figure["interval"][0] < figure["value"] < figure["interval"][1]
    assert 0 < figure["floor"]["value"] < figure["value"]
    # The same as of the folder by itself, and as of an archive of the images.
    again = measure(samples, "fashion-mini", "--seed", 5, "--only", "frechet_distance,precision")
    assert again["figures"] == told["figures"]
    np.savez(tmp_path / "samples.npz", images=images.permute(0, 2, 3, 1).numpy())
    archive = measure(tmp_path / "samples.npz", "fashion-mini", "--only", "frechet_distance")
    assert archive["figures"]["frechet_distance"]["value"] == pytest.approx(figure["value"], rel=1e-6)


def test_copies_of_training_images_are_caught_and_unseen_images_are_not(tmp_path: Path, measure: Measure) -> None:
    drawn = torch.Generator().manual_seed(0)
    seen = load_images("fashion-mini").images[torch.randperm(9000, generator=drawn)[:300]]
    noisy = (seen.float() + 2 * torch.randn(seen.shape, generator=drawn)).round().clamp(0, 255).to(torch.uint8)
    unseen = load_images("fashion-mini", split="held_out").images
    half = torch.randperm(1000, generator=drawn)
    others = _folder(tmp_path / "others", unseen[half[500:]])
    wanted = ("--only", "copying_score,copies,closer_than_held_out", "--held-out", others)
    copied = measure(_folder(tmp_path / "copied", noisy), "fashion-mini", *wanted)["figures"]
    fresh = measure(_folder(tmp_path / "fresh", unseen[half[:300]]), "fashion-mini", *wanted)["figures"]
    assert copied["copying_score"]["value"] < -10
    assert copied["copies"]["value"] > 0.9
    assert copied["closer_than_held_out"]["value"] > 0.95
    assert abs(fresh["copying_score"]["value"]) < 3.5
    assert fresh["copies"]["value"] < 0.05
    assert fresh["closer_than_held_out"]["value"] == pytest.approx(0.5, abs=0.1)


def test_a_table_names_the_features_and_what_is_left_out(tmp_path: Path, capsys: Said) -> None:
    colours = torch.randint(256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.savez(tmp_path / "a.npz", images=colours[:20].permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "b.npz", images=colours[20:].permute(0, 2, 3, 1).numpy())
    options = ["--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert run(["measure", str(tmp_path / "a.npz"), str(tmp_path / "b.npz"), *options]) == 0
    said = capsys.readouterr()
    assert "20 samples against 40 images, in the features random-256 (untrained)." in said.out
    assert "20 samples are few for 256 features: below 257 the Fréchet distance says little" in said.err
    assert "Left out, Inception score: " in said.err
    assert "FID" not in said.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("TMP/none fashion-mini", "none"),
        ("TMP/a.npz", "against images"),
        ("TMP/a.npz TMP/none", "none"),
        ("TMP/a.npz fashion-mini --steps 3", "leave out the options of sampling"),
        ("TMP/a.npz fashion-mini --features garments", "28 × 28"),
        ("TMP/a.npz fashion-mini --features inception", "inception:WEIGHTS"),
        ("TMP/a.npz fashion-mini --features inception:TMP/none.pth", "none.pth"),
        ("TMP/a.npz fashion-mini --only beauty", "beauty"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    tmp_path: Path, capsys: Said, arguments: str, named: str
) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((9, 8, 8, 1), np.uint8))
    words = [word.replace("TMP", str(tmp_path)) for word in arguments.split()]
    assert run(["measure", *words, "--cache", str(tmp_path / "cache"), "--device", "cpu"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert named in last


def test_what_cannot_be_is_refused_before_an_earlier_sample_is_replaced(
    trained: Path, tmp_path: Path, measure: Measure, capsys: Said
) -> None:
    of_run = shutil.copytree(trained, tmp_path / "run")
    measure(of_run, "--n", 70, "--steps", 2, "--only", "precision")
    before = sorted((of_run / "measured").rglob("*.png"))
    for options, said in ((["--features", "nonsense"], "no extractor"), (["--only", "nonsense"], "no figure")):
        assert run(["measure", str(of_run), "-n", "5", "--steps", "2", *options]) == 2
        assert said in capsys.readouterr().err
        assert sorted((of_run / "measured").rglob("*.png")) == before
    assert run(["measure", str(tmp_path / "nosuch")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_fewer_samples_of_the_same_are_the_first_of_those_that_are_there(
    trained: Path, tmp_path: Path, measure: Measure
) -> None:
    of_run = shutil.copytree(trained, tmp_path / "run")
    options = ("--steps", 2, "--only", "sliced_wasserstein")
    measure(of_run, "--n", 80, *options)
    (samples,) = (path for path in (of_run / "measured").iterdir() if path.is_dir())
    written = {path.name: path.stat().st_mtime_ns for path in samples.iterdir()}
    fewer = measure(of_run, "--n", 70, *options)
    assert {path.name: path.stat().st_mtime_ns for path in samples.iterdir()} == written
    assert fewer["images"]["samples"] == 70
    of_folder = measure(samples, "fashion-mini", "--n", 70, "--only", "sliced_wasserstein")
    assert of_folder["figures"] == fewer["figures"]
    measure(of_run, "--n", 70, *options, "--seed", 1)  # other images: these are made
    assert len(list(samples.glob("0*.png"))) == 70


def test_few_images_are_told_only_of_figures_that_need_many(tmp_path: Path, measure: Measure, capsys: Said) -> None:
    images = load_images("fashion-mini").images
    samples, held_out = _folder(tmp_path / "samples", images[:20]), _folder(tmp_path / "unseen", images[20:35])
    arguments = (samples, "fashion-mini", "--held-out", held_out, "--n", 30)
    command = ["measure", *map(str, arguments), "--cache", str(tmp_path / "cache"), "--device", "cpu", "--only"]
    assert run([*command, "frechet_distance"]) == 0
    said = capsys.readouterr().err
    assert "20 samples are few for 64 features" in said
    assert "15 held-out images are few for 64 features" in said
    assert f"'{samples}' holds 20 images: all are taken, and not 30." in said
    assert run([*command, "sliced_wasserstein"]) == 0
    assert "few for" not in capsys.readouterr().err
