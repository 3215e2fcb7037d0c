"""`clearwater compare`: its figures are those of `measure` and `bound`, are made once, and stand side by side."""

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

from clearwater import Clipped, UniPC, load_denoiser, sample
from clearwater.cli import run
from clearwater.cli.comparison import best
from clearwater.cli.findings import Distance
from clearwater.cli.making import Making
from clearwater.cli.subjects import names_of
from clearwater.config import Config
from clearwater.data import default_cache, load_images
from clearwater.evaluation import Moments, extractor, features_of, frechet_distance
from clearwater.evaluation.results import results
from clearwater.pictures import to_uint8
from clearwater.training import RunFolder

Said = pytest.CaptureFixture[str]
Compare = Callable[..., dict[str, Any]]

_N = 70  # more than the 65 that the features need, and than one batch of 64
_WAY = ("--n", str(_N), "--evaluations", "3,2", "--seed", "5", "--device", "cpu")


@pytest.fixture(scope="module")
def kept(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in images that kept averages on the way; read it, don't change it."""
    home = tmp_path_factory.mktemp("kept")
    (home / "tiny.toml").write_text(tiny("data.size=28", "training.ema_snapshots=4").to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu", "--seed", "3"]
    assert run(["train", "fashion-mini", *options]) == 0
    return home / "run"


@pytest.fixture
def two(trained: Path, kept: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run without averages and one with them, to write into."""
    # Other tests may have measured the run that all of them share.
    bare = shutil.copytree(trained, tmp_path / "plain", ignore=shutil.ignore_patterns("measured"))
    return bare, shutil.copytree(kept, tmp_path / "kept")


@pytest.fixture
def compare(tmp_path: Path, capsys: Said) -> Compare:
    def command(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert run(["compare", *map(str, arguments), *_WAY, "--json", "--out", str(tmp_path / "a.png")]) == 0
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    return command


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each batch that is made from here on."""
    batches: list[int] = []
    images = Making.images

    def counted(self: Making, indices: range, report: Callable[[float], None]) -> torch.Tensor:
        batches.append(len(indices))
        return images(self, indices, report)

    monkeypatch.setattr(Making, "images", counted)
    return batches


def _distance(images: torch.Tensor) -> float:
    seeing, data = extractor("garments", (1, 28, 28)), load_images("fashion-mini")
    of_data = features_of(data, seeing, cache=default_cache() / "features")  # where the commands keep it
    return frechet_distance(Moments.of(seeing(images).features), Moments.of(of_data.features))


def test_runs_stand_side_by_side_with_the_figures_of_measure_and_the_bound(
    two: tuple[Path, Path], tmp_path: Path, compare: Compare, capsys: Said
) -> None:
    told = compare(*two)
    assert (told["features"], told["is_fid"], told["sampler"]) == ("garments-64", False, "unipc")
    assert told["images"] == {"samples": _N, "data": 9000, "held-out": 1000}
    plain, kept = told["runs"]
    assert [each["name"] for each in (plain, kept)] == ["plain", "kept"]
    for folder, found in zip(two, (plain, kept), strict=True):
        weights, place = RunFolder.open(folder).model()
        assert found["parameters"] == sum(value.numel() for value in weights.values())
        assert (found["steps"], found["images_seen"], found["seconds"]) == (8, 32, place.seconds)
        assert found["images_per_second"] == pytest.approx(32 / place.seconds)
        assert [(each["evaluations"], each["sampler_steps"]) for each in found["by_evaluations"]] == [(2, 2), (3, 3)]
        for each in (*found["by_evaluations"], *found["by_time"]):
            assert each["interval"][0] < each["value"] < each["interval"][1]
            assert each["floor"] == told["floor"]
            assert (each["n"], each["of"], each["floor"]["n"]) == (_N, 9000, _N)
        assert found["by_time"][-1] == found["by_evaluations"][-1]
    capsys.readouterr()
    options = ["--variance", "optimal", "--n", "1000", "--budget", "40000", "--json", "--device", "cpu"]
    assert run(["bound", str(two[0]), "fashion-mini", *options]) == 0
    bound = json.loads(capsys.readouterr().out)
    errors = {"error": pytest.approx(bound["stderr"]), "population": pytest.approx(bound["stderr_population"])}
    assert plain["bits_per_dim"] == {"value": pytest.approx(bound["total"], rel=1e-9), **errors}
    assert kept["bits_per_dim"]["value"] != plain["bits_per_dim"]["value"]
    assert told["bits_per_dim_of"] == {"images": 1000, "of": "held-out"}
    capsys.readouterr()
    arguments = ["--n", str(_N), "--steps", "3", "--sampler", "unipc", "--seed", "5", "--only", "frechet_distance"]
    assert run(["measure", str(two[1]), *arguments, "--json", "--device", "cpu"]) == 0
    measured = json.loads(capsys.readouterr().out)["figures"]["frechet_distance"]
    shown = kept["by_evaluations"][1]
    assert shown["value"] == pytest.approx(measured["value"], rel=1e-6)
    assert shown["interval"] == pytest.approx(measured["interval"], rel=1e-6)
    assert told["floor"]["value"] == pytest.approx(measured["floor"]["value"], rel=1e-6)
    # On the way are the averages that were kept, in the time of the log.
    assert [each["training_steps"] for each in kept["by_time"]] == [2, 4, 6, 8]
    assert [each["training_steps"] for each in plain["by_time"]] == [8]
    assert kept["length_on_the_way"] == 0.1  # the recipe's own average is of this length
    tensors = RunFolder.open(two[1]).snapshots.copy(4, 0.1)
    early = load_denoiser(two[1], "cpu", tensors=tensors)
    images = to_uint8(
        sample(Clipped(early), _N, (1, 28, 28), seed=5, batch=64, chain=early.chain.strided(3), stepper=UniPC())
    )
    assert kept["by_time"][1]["value"] == pytest.approx(_distance(images), rel=1e-5)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"


def test_what_was_found_is_not_made_again_and_the_same_run_twice_has_equal_rows(
    two: tuple[Path, Path], compare: Compare, made: list[int], capsys: Said, tmp_path: Path
) -> None:
    told = compare(two[1])
    each = [64, _N - 64]
    assert made == [12, *each * 5]  # images to look at; two numbers of evaluations, and three moments
    first, *_ = kept = results(two[1], "comparison")
    assert len(kept) == 6  # and the bound
    assert {result.step for result in kept} == {2, 4, 6, 8}
    assert first.command[:2] == ("compare", str(two[1]))
    made.clear()
    assert compare(two[1]) == told
    again = compare(two[1], two[1])
    one, other = again["runs"]
    assert (one.pop("name"), other.pop("name")) == ("kept (1)", "kept (2)")
    assert one == other == {name: value for name, value in told["runs"][0].items() if name != "name"}
    assert made == []
    # Another way is another figure, and of the same way only what is missing is made.
    assert run(["compare", str(two[1]), *_WAY, "--evaluations", "3,4", "--out", str(tmp_path / "a.png")]) == 0
    assert made == [12, *each * 4]  # four evaluations at the end and at three moments
    # With other weights nothing is taken for theirs.
    made.clear()
    shutil.rmtree(two[0] / "checkpoints")
    shutil.copytree(two[1] / "measured", two[0] / "measured")
    shutil.copytree(two[1] / "checkpoints", two[0] / "checkpoints")
    assert compare(two[0])["runs"][0]["by_evaluations"] == told["runs"][0]["by_evaluations"]
    assert made == [12]


def test_what_an_interrupted_comparison_has_found_is_kept(
    two: tuple[Path, Path], compare: Compare, made: list[int], capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Making.images

    def interrupted(self: Making, indices: range, report: Callable[[float], None]) -> torch.Tensor:
        if len(made) == 4:
            raise KeyboardInterrupt
        return counted(self, indices, report)

    with monkeypatch.context() as patch:
        patch.setattr(Making, "images", interrupted)
        assert run(["compare", str(two[1]), *_WAY]) == 130
    assert "repeat the command to go on" in capsys.readouterr().err
    assert made == [12, 64, _N - 64, 64]
    made.clear()
    compare(two[1])
    assert made == [64, _N - 64] * 4


def test_training_time_is_interpolated_between_the_reports_of_the_log(two: tuple[Path, Path], compare: Compare) -> None:
    folder = RunFolder.open(two[1])
    (two[1] / "log.jsonl").unlink()
    for step, seconds in ((1, 10.0), (5, 50.0), (7, None)):
        folder.log({"step": step, "loss": 1.0, "seconds": seconds})
    (found,) = compare(two[1])["runs"]
    end = folder.model()[1].seconds
    expected = [20.0, 40.0, 50 + (end - 50) / 3, end]
    assert [each["seconds"] for each in found["by_time"]] == pytest.approx(expected)


def test_a_damaged_average_is_left_out_with_a_word(two: tuple[Path, Path], tmp_path: Path, capsys: Said) -> None:
    path = two[1] / "averages" / "000000004.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert run(["compare", str(two[1]), *_WAY, "--json", "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    (found,) = json.loads(said.out)["runs"]
    assert [each["training_steps"] for each in found["by_time"]] == [2, 6, 8]
    assert "000000004.safetensors' cannot be read" in said.err


def test_without_held_out_images_there_is_no_floor_and_the_bound_is_of_training_images(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    assert train("run", "--set", "data.held_out=0") == 0
    capsys.readouterr()
    options = ["--n", "8", "--evaluations", "2", "--features", "pixels", "--device", "cpu"]
    assert run(["compare", str(tmp_path / "run"), *options, "--out", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].endswith("bits/dim of training images")
    assert lines[1].split()[0] == "run"
    assert lines[3] == "Fréchet distance of 8 samples of unipc, in the features pixels-64"
    assert not any(line.startswith("floor") for line in lines)
    assert "6 training images" in said.out
    assert "No images are held out" in said.err
    assert "8 samples are few for 64 features" in said.err
    assert "No averages were kept on the way of run" in said.err


def _at(value: float, low: float, high: float) -> Distance:
    return Distance(20, 20, 100, 1.0, {"value": value, "interval": [low, high]})


def test_the_best_is_marked_only_if_its_interval_lies_below_all_others() -> None:
    a, b, c = _at(1.0, 0.9, 1.1), _at(1.3, 1.2, 1.4), _at(1.2, 1.0, 1.4)
    assert best([b, a]) == 1
    assert best([a, b, c]) is None
    assert best([a]) is None
    assert best([a, a]) is None


def test_names_tell_runs_apart(tmp_path: Path) -> None:
    a, b, c = (tmp_path / path for path in ("a/run", "b/run", "c"))
    assert names_of([a, c]) == ["run", "c"]
    assert names_of([a, b, c, c]) == ["a/run", "b/run", "c (1)", "c (2)"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "run"),
        ("TMP/none", "none"),
        ("RUN TMP/none", "none"),
        ("RUN COLOUR", "3 × 8 × 8"),
        ("RUN OTHER", "--data"),
        ("RUN HOLDS", "with 5 held out"),
        ("RUN --evaluations 2 --data TMP/none", "none"),
        ("RUN --evaluations 2,many", "--evaluations"),
        ("RUN --evaluations 0", "--evaluations"),
        ("RUN --evaluations 11", "10 levels"),
        ("RUN --sampler heun --evaluations 1,2", "leave 1 out"),
        ("RUN --sampler adaptive", "adaptive"),
        ("RUN --sampler magic", "magic"),
        ("RUN --n 1", "--n"),
        ("RUN --out TMP/a.jpg", "a.jpg"),
        ("RUN --out TMP/notes.png", "notes.png"),
        ("RUN --evaluations 2 --features inception", "inception:WEIGHTS"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    trained: Path,
    home: Path,
    tmp_path: Path,
    capsys: Said,
    made: list[int],
    arguments: str,
    named: str,
) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    before = sorted(trained.rglob("*"))  # other tests may have measured it
    other = shutil.copytree(trained, tmp_path / "other")
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace('"fashion-mini"', '"elsewhere"'))
    holds = shutil.copytree(trained, tmp_path / "holds")
    lines = [line for line in config.splitlines() if not line.startswith("held_out")]
    (holds / "config.toml").write_text("\n".join(lines).replace("[data]", "[data]\nheld_out = 5"))
    places = {"RUN": trained, "COLOUR": home / "colour", "OTHER": other, "HOLDS": holds}
    words = [str(places.get(word, word)).replace("TMP", str(tmp_path)) for word in arguments.split()]
    out = [] if "--out" in words else ["--out", str(tmp_path / "a.png")]
    capsys.readouterr()
    assert run(["compare", *words, *out, "--device", "cpu"]) == 2
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert named in last.lower() if not arguments else named in last
    assert (said.out, made) == ("", [])
    assert (tmp_path / "notes.png").read_text() == "no picture"
    assert sorted(trained.rglob("*")) == before


def test_runs_on_different_images_are_compared_on_images_that_are_named(
    two: tuple[Path, Path], tmp_path: Path, capsys: Said
) -> None:
    config = (two[0] / "config.toml").read_text()
    (two[0] / "config.toml").write_text(config.replace('"fashion-mini"', '"elsewhere"'))
    pixels = np.random.default_rng(0).integers(0, 256, (90, 28, 28, 1), np.uint8)
    np.savez(tmp_path / "real.npz", images=pixels[:60])
    np.savez(tmp_path / "unseen.npz", images=pixels[60:])
    where = ["--data", str(tmp_path / "real.npz"), "--held-out", str(tmp_path / "unseen.npz")]
    assert run(["compare", *map(str, two), *_WAY, *where, "--json", "--out", str(tmp_path / "a.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == {"samples": _N, "data": 60, "held-out": 30}
    # The floor is of as many images as there are, and beside it is the figure of as many samples.
    for found in told["runs"]:
        assert all(each["floor"]["n"] == each["at_floor"]["n"] == 30 for each in found["by_evaluations"])
    assert run(["compare", *map(str, two), *_WAY, *where, "--out", str(tmp_path / "a.png")]) == 0
    assert "floor: 30 real images that were held out, fewer than the samples" in capsys.readouterr().out
