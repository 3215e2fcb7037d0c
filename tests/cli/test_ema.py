"""`clearwater ema`: an average of another length as a run of its own, and lengths compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clearwater import load_denoiser
from clearwater.cli import run
from clearwater.config import Config
from clearwater.training import RunFolder


@pytest.fixture(scope="module")
def kept(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the built-in images that kept copies."""
    home = tmp_path_factory.mktemp("ema")
    sets = ("data.size=28", "training.ema_snapshots=8", "training.steps=80", "chain.levels=20")
    (home / "tiny.toml").write_text(tiny(*sets).to_toml())
    options = ["--out", str(home / "run"), "--config", str(home / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    return home / "run"


def test_the_average_is_a_run_that_can_be_sampled(kept: Path, tmp_path: Path) -> None:
    assert run(["ema", str(kept), "--length", "0.07", "--out", str(tmp_path / "new")]) == 0
    made, own = (dict(load_denoiser(path, "cpu").network.named_parameters()) for path in (tmp_path / "new", kept))
    expected, _ = RunFolder.open(kept).snapshots.average(80, 0.07)
    for name, value in made.items():
        assert torch.equal(value, expected[name])
    assert any(not torch.equal(value, own[name]) for name, value in made.items())
    options = ["--out", str(tmp_path / "samples"), "--n", "2", "--steps", "3", "--device", "cpu"]
    assert run(["sample", str(tmp_path / "new"), *options]) == 0


def test_lengths_are_compared_by_the_loss_and_by_samples(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--lengths", "0.05,0.2", "--n", "70", "--json", "--plot", str(tmp_path / "a.png"), "--device", "cpu"]
    assert run(["ema", str(kept), *options]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["lengths"]
    assert [each["length"] for each in found] == [0.05, 0.2]
    # A network that has hardly learned: the average that remembers less of its beginning is the better one.
    assert found[0]["loss"] < found[1]["loss"]
    assert all(each["distance"] > 0 for each in found)
    assert found[0]["missed"] < 1e-6 < found[1]["missed"] < 0.1
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert "--length" in said.err.splitlines()[-1]


def test_without_samples_the_table_is_of_the_loss_alone(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ema", str(kept), "--lengths", "0.05", "--device", "cpu"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["length", "loss"]
    assert line.split()[0] == "0.050"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("RUN --length 0.1", "--out"),
        ("RUN --out TMP/new", "--length"),
        ("RUN --length 0.5 --out TMP/new", "0.289"),
        ("RUN --length nan --out TMP/new", "0.289"),
        ("RUN --lengths 0.1,x", "0.1,x"),
        ("RUN --lengths 0.1 --plot TMP/a.gif", "a.gif"),
        ("RUN --length 0.1 --out RUN", "holds a run already"),
        ("RUN --length 0.1 --out TMP/full", "not a run"),
        ("TRAINED --length 0.1 --out TMP/new", "ema_snapshots"),
        ("TRAINED", "ema_snapshots"),
        ("TMP/none", "none"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    kept: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, named: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("content")
    for name, path in (("RUN", kept), ("TRAINED", trained), ("TMP", tmp_path)):
        options = options.replace(name, str(path))
    assert run(["ema", *options.split()]) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    assert named in lines[-1]
    assert not (tmp_path / "new").exists()
