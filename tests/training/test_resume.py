"""Interrupted and resumed training equals unbroken training to the bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.training import Checkpoint, Progress, RunFolder, Saved, Trainer
from clearwater.training import trainer as trainer_module

STEPS = 8
_SETS = ("model.dropout=0.1", "data.flip=true", "training.save_minutes=1e-9", f"training.steps={STEPS}")


def _trainer(config: Config, folder: Path) -> Trainer:
    # 10 images in batches of 4: interruptions fall inside epochs.
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config))


def _latest(folder: Path) -> Checkpoint:
    run = RunFolder.open(folder)
    checkpoint = run.latest()
    assert checkpoint is not None
    assert run.warnings == []
    return checkpoint


def _assert_same(ours: Checkpoint, theirs: Checkpoint) -> None:
    assert ours.place.model_copy(update={"seconds": 0.0}) == theirs.place.model_copy(update={"seconds": 0.0})
    for kind in ("network", "averaged", "optimizer"):
        left, right = getattr(ours, kind), getattr(theirs, kind)
        assert left.keys() == right.keys()
        assert [name for name, value in left.items() if not torch.equal(value, right[name])] == []


@pytest.fixture(scope="module")
def unbroken(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    list(_trainer(tiny(*_SETS), folder))
    return folder


def test_a_checkpoint_holds_both_moments_of_adam_and_weights_unlike_their_average(unbroken: Path) -> None:
    saved = _latest(unbroken)
    assert saved.place.step == STEPS
    assert saved.network.keys() == saved.averaged.keys()
    assert saved.optimizer.keys() == {
        f"{name}/{moment}" for name in saved.network for moment in ("exp_avg", "exp_avg_sq", "step")
    }
    assert {float(value) for name, value in saved.optimizer.items() if name.endswith("/step")} == {STEPS}
    assert any(not torch.equal(value, saved.averaged[name]) for name, value in saved.network.items())


@settings(max_examples=6)
@given(stops=st.sets(st.integers(1, STEPS - 1), min_size=1, max_size=3))
def test_training_that_was_asked_to_stop_anywhere_ends_the_same(
    tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory, unbroken: Path, stops: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("stopped")
    with patch.object(trainer_module, "_REPORT_SECONDS", 0.0):
        for stop in [*sorted(stops), None]:
            trainer = _trainer(tiny(*_SETS), folder)
            for event in trainer:
                if isinstance(event, Progress) and event.step == stop:
                    trainer.stop()
            assert trainer.step == (stop or STEPS)
    _assert_same(_latest(folder), _latest(unbroken))


@settings(max_examples=6)
@given(crashes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_training_that_died_between_checkpoints_ends_the_same(
    tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory, unbroken: Path, crashes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("died")
    with patch.object(trainer_module, "_REPORT_SECONDS", 0.0):
        for steps in crashes:
            trainer = _trainer(tiny(*_SETS), folder)
            resumed_at = trainer.step
            for event in trainer:
                # Progress comes before the checkpoint of its step: this step's work is lost.
                if isinstance(event, Progress) and event.step == resumed_at + steps:
                    break
        list(_trainer(tiny(*_SETS), folder))
    _assert_same(_latest(folder), _latest(unbroken))


def test_a_resumed_trainer_stands_where_the_checkpoint_was_taken(
    tiny: Callable[..., Config], tmp_path: Path, unbroken: Path
) -> None:
    folders = []
    for event in _trainer(tiny(*_SETS), tmp_path):
        if isinstance(event, Saved):
            folders.append(event.folder.name)
            if event.step == 5:
                break
    resumed = _trainer(tiny(*_SETS), tmp_path)
    assert folders == [f"{step:09d}" for step in range(1, 6)]
    assert (resumed.step, resumed.images_seen) == (5, 20)
    assert resumed.seconds == _latest(tmp_path).place.seconds > 0


def test_a_finished_run_has_nothing_left_to_do(tiny: Callable[..., Config], tmp_path: Path) -> None:
    list(_trainer(tiny(*_SETS), tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = _trainer(tiny(*_SETS), tmp_path)
    (stopped,) = again
    assert (stopped.step, stopped.finished) == (STEPS, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_torn_checkpoint_is_written_anew_when_its_step_is_reached_again(
    tiny: Callable[..., Config], tmp_path: Path, unbroken: Path
) -> None:
    list(_trainer(tiny(*_SETS), tmp_path))
    torn = tmp_path / "checkpoints" / f"{STEPS:09d}" / "state.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    resumed = _trainer(tiny(*_SETS), tmp_path)
    assert resumed.step == STEPS - 1
    list(resumed)
    _assert_same(_latest(tmp_path), _latest(unbroken))


def test_ctrl_c_and_the_same_command_again_equal_the_unbroken_command(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny(*_SETS[:2], "data.size=28").to_toml())
    # The console script, with a report after every step: the first says when it can be interrupted.
    script = "import clearwater.cli, clearwater.training.trainer as t; t._REPORT_SECONDS = 0; clearwater.cli.main()"
    options = ["--config", "tiny.toml", "--steps", "250", "--batch", "32", "--device", "cpu"]

    def start(out: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, "train", "fashion-mini", "--out", out, *options]
        return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)

    interrupted = start("interrupted")
    assert interrupted.stderr is not None
    for line in interrupted.stderr:
        if line.startswith("training"):
            interrupted.send_signal(signal.SIGINT)
            break
    said = interrupted.communicate()[1].splitlines()
    assert interrupted.returncode == 130
    step = _latest(tmp_path / "interrupted").place.step
    assert 0 < step < 250
    assert said[-1] == f"Interrupted and saved after step {step}: repeat the command to go on."

    again, whole = start("interrupted"), start("whole")
    outputs = [process.communicate()[1] for process in (again, whole)]
    assert (again.returncode, whole.returncode) == (0, 0)
    assert f"Going on from step {step}." in outputs[0]
    _assert_same(_latest(tmp_path / "interrupted"), _latest(tmp_path / "whole"))
    steps = [entry["step"] for entry in RunFolder.open(tmp_path / "interrupted").entries()]
    assert steps == list(range(1, 251))
