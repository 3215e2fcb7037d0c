"""`clearwater ema`: an average of another length as a run of its own, and lengths compared."""

from __future__ import annotations

import json
import shutil
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


# --- folders that are damaged, or half there


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be changed."""
    return shutil.copytree(kept, tmp_path / "run")


def _copies(folder: Path) -> list[Path]:
    return sorted((folder / "averages").iterdir())


def _flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes([content[-100] ^ 64]) + content[-99:])


def test_damaged_copies_are_told_once_and_done_without(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    early, late = _copies(copied)[1], _copies(copied)[-1]
    _flip(early)
    late.write_bytes(late.read_bytes()[:-1])
    assert run(["ema", str(copied), "--lengths", "0.05,0.1,0.2", "--json", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if "passed over" in line]
    assert [str(early) in told[0], str(late) in told[1], len(told)] == [True, True, 2]
    assert all(each["missed"] > 0.1 for each in json.loads(said.out)["lengths"])  # of the end there is no copy

    assert run(["ema", str(copied), "--length", "0.05", "--out", str(tmp_path / "new")]) == 0
    *told, made = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    for path in (early, late):
        path.unlink()
    expected, missed = RunFolder.open(copied).snapshots.average(80, 0.05)
    assert f"{missed:.1%} of its profile is missed" in made
    made_of = dict(load_denoiser(tmp_path / "new", "cpu").network.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in made_of.items())


def test_a_checkpoint_that_is_passed_over_is_told(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = shutil.copytree(copied / "checkpoints" / "000000080", copied / "checkpoints" / "000000090")
    (torn / "state.json").write_bytes(b"")
    assert run(["ema", str(copied), "--lengths", "0.05,0.1", "--device", "cpu"]) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if "000000090" in line]) == 1


@pytest.mark.parametrize("options", ["--lengths 0.05", "--length 0.05 --out TMP/new"])
@pytest.mark.parametrize(
    ("what", "code", "named"),
    [
        ("copies damaged", 1, "All copies of averages"),
        ("no copies", 2, "There are no copies"),
        ("no folder of copies", 2, "There are no copies"),
        ("no checkpoints", 1, "no checkpoint that can be read"),
        ("checkpoints torn", 1, "no checkpoint that can be read"),
        ("no configuration", 2, "no config.toml"),
    ],
)
def test_a_folder_that_is_half_there_is_one_sentence(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, code: int, named: str, options: str
) -> None:
    match what:
        case "copies damaged":
            for path in _copies(copied):
                _flip(path)
        case "no copies":
            for path in _copies(copied):
                path.unlink()
        case "no folder of copies":
            shutil.rmtree(copied / "averages")
        case "no checkpoints":
            shutil.rmtree(copied / "checkpoints")
        case "checkpoints torn":
            (copied / "checkpoints" / "000000080" / "model.safetensors").write_bytes(b"")
        case "no configuration":
            (copied / "config.toml").unlink()
    assert run(["ema", str(copied), *options.replace("TMP", str(tmp_path)).split(), "--device", "cpu"]) == code
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("Error: ")
    assert named in line
    assert said.out == ""
    assert not (tmp_path / "new").exists()


def test_the_page_of_a_folder_that_is_half_there_is_made(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("averages", "checkpoints", "previews"):
        shutil.rmtree(copied / name)
        assert run(["report", str(copied), "--quick"]) == 0
    for name in ("log.jsonl", "nearest.png"):
        (copied / name).unlink()
        assert run(["report", str(copied), "--quick"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 5
