"""`clearwater train`: what it leaves in the run folder, and how it is interrupted and gone on with."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from trainings import interrupt_after, same, weights_of

from clearwater.cli import run
from clearwater.config import Config
from clearwater.data import load_images
from clearwater.settings import resolve
from clearwater.training import RunFolder, Trainer
from clearwater.training import checkpoint as checkpoint_module

Said = pytest.CaptureFixture[str]


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_trains_the_model_that_the_library_trains(
    tiny: Callable[..., Config], train: Callable[..., int], tmp_path: Path, pictures: Path
) -> None:
    assert train("run") == 0
    trainer = Trainer(tiny(), load_images(str(pictures)), torch.device("cpu"))
    list(trainer)
    assert same(load_file(tmp_path / "run/checkpoints/000000008/model.safetensors"), trainer.ema.parameters)


@pytest.mark.usefixtures("every_step")
def test_a_run_folder_holds_configuration_log_loss_curve_and_the_last_checkpoints(
    tiny: Callable[..., Config], train: Callable[..., int], tmp_path: Path, pictures: Path
) -> None:
    assert train("run", "--set", "training.save_minutes=1e-9") == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "config.toml",
        "log.jsonl",
        "loss.png",
        "report.html",
        "nearest.png",
        "forward.png",
        "reverse.png",
        "previews",
        "checkpoints",
    }
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000000007", "000000008"]
    written = RunFolder.open(folder).config()
    assert written.differences(tiny(f"data.source={pictures}", "training.save_minutes=1e-9", "data.held_out=0")) == []
    entries = RunFolder.open(folder).entries()
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [entry["learning_rate"] for entry in entries] == pytest.approx(
        [1e-3 * min(1, (n + 1) / 2) * (1 + np.cos(np.pi * n / 8)) / 2 for n in range(8)]
    )
    with Image.open(folder / "loss.png") as curve:
        assert curve.format == "PNG"
        assert len(curve.convert("RGB").getcolors(10**7) or []) > 2


def test_options_win_over_settings_over_the_file_over_the_recipe(train: Callable[..., int], tmp_path: Path) -> None:
    options = ["--batch", "3", "--seed", "7", "--steps", "2", "--size", "4"]
    sets = ["--set", "training.batch=5", "--set", "training.seed=5", "--set", "model.dropout=0.25"]
    assert train("run", "--recipe", "small-grey", *sets, *options) == 0
    config = RunFolder.open(tmp_path / "run").config()
    assert (config.training.batch, config.training.seed, config.training.steps, config.data.size) == (3, 7, 2, (4, 4))
    assert config.model.dropout == 0.25  # the setting's
    assert config.model.channels == 16  # the file's
    assert config.training.minutes is None  # the recipe's 3 are replaced by the steps


def test_the_recipe_is_the_one_that_suits_the_images(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "colours").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (90 * i, 20, 70)).save(tmp_path / "colours" / f"{i}.png")
    words = ["train", str(tmp_path / "colours"), "--device", "cpu", "--steps", "1"]
    assert run([*words, "--out", str(tmp_path / "own")]) == 0
    own, found = RunFolder.open(tmp_path / "own").config(), {"data.source", "data.size", "data.channels"}
    differences = own.differences(resolve(recipe="small-colour", options={"training.steps": 1}))
    assert {each.split()[0] for each in differences} <= {*found, "data.held_out"}
    assert own.data.flip  # which the recipe for grey images has not
    assert "The recipe small-colour suits them." in capsys.readouterr().err
    assert run([*words, "--out", str(tmp_path / "large"), "--size", "100", "--set", "model.channels=4"]) == 0
    assert "The recipe portrait suits them." in capsys.readouterr().err
    assert run([*words, "--out", str(tmp_path / "named"), "--recipe", "small-grey"]) == 0
    assert not RunFolder.open(tmp_path / "named").config().data.flip
    assert "suits" not in capsys.readouterr().err


def test_a_relative_path_is_kept_whole_so_that_the_run_goes_on_from_anywhere(
    train: Callable[..., int], tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    assert train("run", data="pictures") == 0
    assert RunFolder.open(tmp_path / "run").config().data.source == str(pictures.resolve())
    monkeypatch.chdir(pictures)
    assert train("run", data="../pictures") == 0


def test_the_images_and_the_parameters_are_told(train: Callable[..., int], tmp_path: Path, capsys: Said) -> None:
    assert train("run") == 0
    said = capsys.readouterr()
    parameters = sum(
        value.numel() for value in load_file(tmp_path / "run/checkpoints/000000008/model.safetensors").values()
    )
    assert "6 images of 8 × 8, grey." in said.err.splitlines()
    assert f"{parameters / 1e6:.2f} M parameters." in said.err
    assert f" sample {tmp_path / 'run'} " in said.err  # what to do next
    assert said.out == ""


@pytest.mark.parametrize(("broken", "named", "dots"), [(2, 2, False), (5, 5, False), (7, 5, True)])
def test_broken_images_are_counted_and_the_first_five_named(
    train: Callable[..., int], pictures: Path, capsys: Said, broken: int, named: int, dots: bool
) -> None:
    for i in range(broken):
        (pictures / f"broken{i}.png").write_bytes(b"")
    assert train("run") == 0
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Skipped")]
    assert told.startswith(f"Skipped {broken} broken image(s): ")
    assert [f"broken{i}.png" in told for i in range(broken)] == [i < named for i in range(broken)]
    assert told.endswith("…") == dots


# --- interruptions


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_saves_says_how_to_go_on_and_ends_as_if_unbroken(
    train: Callable[..., int], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        interrupt_after(3, number, patched)
        assert train("run") == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Interrupted and saved after step 3: repeat the command to go on."
    )
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert train("run") == 0
    assert "Going on from step 3." in capsys.readouterr().err
    assert train("whole") == 0
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    assert [entry["step"] for entry in RunFolder.open(tmp_path / "run").entries()] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.usefixtures("every_step")
def test_a_second_ctrl_c_ends_the_command_at_once_and_the_last_checkpoint_stays(
    train: Callable[..., int], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(3, signal.SIGINT, monkeypatch, times=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
    try:
        assert train("run", "--set", "training.save_minutes=1e-9") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Traceback" not in capsys.readouterr().err
    latest = RunFolder.open(tmp_path / "run").latest()
    assert latest is not None
    assert latest.place.step == 2


def test_a_finished_run_run_again_changes_nothing(train: Callable[..., int], tmp_path: Path) -> None:
    assert train("run") == 0
    checkpoints = _contents(tmp_path / "run" / "checkpoints")
    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    assert train("run") == 0
    assert _contents(tmp_path / "run" / "checkpoints") == checkpoints
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


@pytest.mark.usefixtures("every_step")
def test_a_torn_checkpoint_is_named_and_training_goes_on_from_the_one_before(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    save_often = ("--set", "training.save_minutes=1e-9")
    assert train("run", *save_often) == 0
    whole = weights_of(tmp_path / "run")
    torn = tmp_path / "run" / "checkpoints" / "000000008"
    (torn / "state.safetensors").write_bytes(b"")
    capsys.readouterr()
    assert train("run", *save_often) == 0
    said = capsys.readouterr().err
    assert str(torn) in said
    assert "Going on from step 7." in said
    assert same(weights_of(tmp_path / "run"), whole)


# --- refusals


def test_other_settings_are_refused_by_name_and_the_run_stays(
    train: Callable[..., int], tmp_path: Path, capsys: Said
) -> None:
    assert train("run") == 0
    before = _contents(tmp_path / "run")
    capsys.readouterr()
    assert train("run", "--batch", "2", "--set", "model.channels=32") == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert "training.batch 4 and 2" in said
    assert "model.channels 16 and 32" in said
    assert "training.seed" not in said
    assert _contents(tmp_path / "run") == before


def test_a_folder_that_holds_something_else_is_refused_and_untouched(
    train: Callable[..., int], tmp_path: Path, pictures: Path, capsys: Said
) -> None:
    before = _contents(pictures)
    assert train("pictures") == 2
    assert str(pictures) in capsys.readouterr().err.splitlines()[-1]
    assert _contents(pictures) == before


@pytest.mark.parametrize(
    "setting",
    ["model.heads=3", "model.attention=[7]", "chain.name=linear"],  # a linear chain takes more than ten levels
)
def test_a_model_that_cannot_be_leaves_nothing_in_the_way_of_the_corrected_command(
    train: Callable[..., int], capsys: Said, setting: str
) -> None:
    assert train("run", "--set", setting) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("Error: ")
    assert train("run") == 0


def test_a_loss_that_is_no_number_is_an_error_with_advice(train: Callable[..., int], capsys: Said) -> None:
    assert train("run", "--set", "training.learning_rate=1e30", "--set", "training.warmup=0") == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("Error: The loss is ")
    assert "training.learning_rate" in said.splitlines()[-1]


def _safetensors_failure(*arguments: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def _fsync_failure(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("where", ["safetensors", "fsync"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_from_the_checkpoint_before(
    train: Callable[..., int], tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(3, signal.SIGINT, patched)
        assert train("run") == 130
    checkpoints = _contents(tmp_path / "run" / "checkpoints")
    capsys.readouterr()
    with monkeypatch.context() as patched:
        if where == "safetensors":
            patched.setattr(checkpoint_module, "save_file", _safetensors_failure)
        else:
            patched.setattr(os, "fsync", _fsync_failure)
        assert train("run") == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert "No space left on device" in sentence
    assert "free some space" in sentence
    assert _contents(tmp_path / "run" / "checkpoints") == checkpoints
    assert train("run") == 0
    assert train("whole") == 0
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))


@pytest.mark.parametrize("sets", [["objective=vlb"], ["objective=vlb", "chain.name=learned"]], ids=["range", "chain"])
def test_training_that_diverges_says_so_and_what_to_try(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: list[str]
) -> None:
    wild = ["training.learning_rate=1e9", "training.warmup=0", "training.anneal=constant", "training.steps=200"]
    (tmp_path / "tiny.toml").write_text(tiny("data.size=28", *sets, *wild).to_toml())
    options = ["--out", str(tmp_path / "run"), "--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert "training has failed so 3 times" in error
    assert "learning_rate" in error
