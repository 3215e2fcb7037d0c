"""Monitors: what TensorBoard, W&B and trackio are shown, and that none of them can end training."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearwater.config import Config
from clearwater.errors import ClearwaterError, InputError
from clearwater.training import RunFolder, monitors
from clearwater.training.monitors import Monitor, open_monitors


@pytest.fixture
def run(tiny: Callable[..., Config], tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", tiny())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "000000003.png"
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20).save(path)
    return path


class _Library:
    """What W&B and trackio have in common, remembered."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **how: Any) -> _Library:
        self.begun.append(how)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def Image(self, path: str) -> str:
        return f"image {Path(path).name}"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> _Library:
    """Stands in for wandb and trackio."""
    known = _Library()
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, known)  # type: ignore[arg-type]
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return known


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_what_is_shown_is_sent_with_its_step(name: str, run: RunFolder, picture: Path, library: _Library) -> None:
    (monitor,) = open_monitors([name], run, run.config())
    monitor.scalars(1, {"loss": 0.5, "learning_rate": 1e-3})
    monitor.picture(3, picture)
    monitor.scalars(3, {"loss": 0.25})
    monitor.close()
    assert library.logged == [
        (1, {"loss": 0.5, "learning_rate": 1e-3}),
        (3, {"samples": "image 000000003.png"}),
        (3, {"loss": 0.25}),
    ]
    assert library.finished == 1
    (begun,) = library.begun
    assert begun["project"] == "clearwater"
    assert begun["name"].startswith("run")
    assert begun["config"] == run.config().model_dump(mode="json")


@pytest.mark.parametrize(("name", "key"), [("wandb", "id"), ("trackio", "name")])
def test_a_run_that_goes_on_is_the_same_one_and_sends_no_step_again(
    name: str, key: str, run: RunFolder, library: _Library
) -> None:
    for steps in ((10, 20, 30), (20, 30, 40)):  # the second part begins at a checkpoint of step 10
        (monitor,) = open_monitors([name], run, run.config())
        for step in steps:
            monitor.scalars(step, {"loss": 1 / step})
            run.log({"step": step, "loss": 1 / step})
    first, second = library.begun
    assert first[key] == second[key]
    assert (first["resume"], second["resume"]) == ("allow", "allow")
    assert [step for step, _ in library.logged] == [10, 20, 30, 40]


def test_two_runs_of_one_name_are_two(tiny: Callable[..., Config], tmp_path: Path, library: _Library) -> None:
    for parent in ("a", "b"):
        open_monitors(["trackio"], RunFolder.create(tmp_path / parent / "run", tiny()), tiny())
    first, second = (begun["name"] for begun in library.begun)
    assert first != second
    assert first.startswith("run-")


def test_training_that_goes_back_sends_no_step_again(run: RunFolder, library: _Library) -> None:
    (monitor,) = open_monitors(["wandb"], run, run.config())
    for step in (10, 20, 15, 25):
        monitor.scalars(step, {})
    assert [step for step, _ in library.logged] == [10, 20, 25]


def _events(run: RunFolder) -> Any:
    pytest.importorskip("tensorboard")
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_it_was_shown(run: RunFolder, picture: Path) -> None:
    pytest.importorskip("tensorboard")
    (monitor,) = open_monitors(["tensorboard"], run, run.config())
    monitor.scalars(1, {"loss": 0.5, "gradient_norm": 2.0})
    monitor.picture(3, picture)
    monitor.scalars(3, {"loss": 0.25, "gradient_norm": 1.0})
    monitor.close()
    events = _events(run)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (3, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("gradient_norm")] == [(1, 2.0), (3, 1.0)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (3, 4, 3)
    (text,) = events.Tensors("configuration/text_summary")
    assert 'source = "fashion-mini"' in text.tensor_proto.string_val[0].decode()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_one_curve_of_a_run_in_parts(run: RunFolder, picture: Path) -> None:
    pytest.importorskip("tensorboard")
    parts = (((10, 1.0), (20, 0.5), (30, 0.25)), ((20, 0.375), (40, 0.125)), ((30, 0.75), (25, 0.625)))
    for part in parts:
        (monitor,) = open_monitors(["tensorboard"], run, run.config())
        for step, loss in part:
            monitor.scalars(step, {"loss": loss})
        monitor.close()
    # Part two came again from step 20 on, part three from 30; there training went back to 25.
    assert [(event.step, event.value) for event in _events(run).Scalars("loss")] == [
        (10, 1.0),
        (20, 0.375),
        (25, 0.625),
    ]


class _Breaks:
    """A monitor that works until it is broken."""

    def __init__(self) -> None:
        self.broken = False
        self.shown: list[int] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.broken:
            raise ConnectionError("No route to host.\nTraceback …")
        self.shown.append(step)

    def picture(self, step: int, path: Path) -> None:
        self.scalars(step, {})

    def close(self) -> None:
        self.scalars(-1, {})


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> _Breaks:
    inner = _Breaks()
    monkeypatch.setitem(monitors.MONITORS, "breaks", ("json", lambda library, run, config: inner))
    return inner


def test_a_monitor_that_fails_is_told_of_once_and_left_alone(run: RunFolder, picture: Path, breaks: _Breaks) -> None:
    told: list[str] = []
    (monitor,) = open_monitors(["breaks"], run, run.config(), told.append)
    monitor.scalars(1, {})
    breaks.broken = True
    monitor.scalars(2, {})
    monitor.picture(2, picture)
    breaks.broken = False
    monitor.scalars(3, {})
    monitor.close()
    assert breaks.shown == [1]
    assert told == ["breaks failed (No route to host) and is shown nothing more; training goes on."]


def test_an_interruption_is_not_held_back(run: RunFolder, monkeypatch: pytest.MonkeyPatch, breaks: _Breaks) -> None:
    def interrupted(step: int, values: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    (monitor,) = open_monitors(["breaks"], run, run.config())
    monkeypatch.setattr(breaks, "scalars", interrupted)
    with pytest.raises(KeyboardInterrupt):
        monitor.scalars(1, {})


def test_a_failure_is_told_on_standard_error_where_nobody_listens(
    run: RunFolder, breaks: _Breaks, capsys: pytest.CaptureFixture[str]
) -> None:
    (monitor,) = open_monitors(["breaks"], run, run.config())
    breaks.broken = True
    monitor.scalars(1, {})
    said = capsys.readouterr()
    assert (said.out, said.err.count("breaks failed")) == ("", 1)


def test_a_name_that_is_none_is_refused(run: RunFolder) -> None:
    with pytest.raises(InputError) as refused:
        open_monitors(["tensorbord"], run, run.config())
    assert str(refused.value) == "There is no monitor 'tensorbord': --log takes tensorboard, trackio, wandb."


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_library_that_is_not_there_is_named_before_any_monitor_begins(
    name: str, run: RunFolder, library: _Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, monitors.MONITORS[name][0], None)
    other = "wandb" if name == "trackio" else "trackio"
    with pytest.raises(InputError) as refused:
        open_monitors([other, name], run, run.config())
    assert str(refused.value) == f"--log {name} needs {name}: pip install 'clearwater[{name}]'."
    assert library.begun == []


def test_a_name_twice_is_one_monitor(run: RunFolder, library: _Library) -> None:
    assert len(open_monitors(["trackio", "trackio"], run, run.config())) == 1
    assert open_monitors([], run, run.config()) == []


def test_a_library_that_does_not_begin_is_told_and_the_others_are_closed(
    run: RunFolder, library: _Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(**how: Any) -> None:
        raise RuntimeError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuses, Settings=dict))  # type: ignore[arg-type]
    with pytest.raises(ClearwaterError, match=r"^wandb does not begin \(No API key configured\): .* --log wandb"):
        open_monitors(["trackio", "wandb"], run, run.config())
    assert library.finished == 1


_SCRIPT = """
import sys
from pathlib import Path
from clearwater.training import RunFolder
from clearwater.training.monitors import open_monitors
run, name, picture = RunFolder.open(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
for part in (1, 2):
    (monitor,) = open_monitors([name], run, run.config())
    monitor.scalars(10 * part, {"loss": 0.5 / part})
    monitor.picture(10 * part, picture)
    monitor.close()
    run.log({"step": 10 * part, "loss": 0.5 / part})
"""


def _shown(name: str, run: RunFolder, picture: Path, **environment: str) -> str:
    """Shows a run in two parts to the real library, in a process of its own, and returns what was said on errors."""
    arguments = [sys.executable, "-c", _SCRIPT, str(run.path), name, str(picture)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO", "HF_"))}
    done = subprocess.run(arguments, env={**clean, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_wandb_itself_keeps_a_run_in_two_parts_under_one_name(run: RunFolder, picture: Path) -> None:
    pytest.importorskip("wandb")
    said = _shown("wandb", run, picture, WANDB_MODE="offline", WANDB_ERROR_REPORTING="false", HOME=str(run.path.parent))
    assert "failed" not in said
    kept = sorted((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    identity = (run.path / "monitor-id.txt").read_text()
    assert {path.name for path in kept} == {f"run-{identity}.wandb"}
    content = b"".join(path.read_bytes() for path in kept)
    assert content.count(b"samples_10_") >= 1 <= content.count(b"samples_20_")


def test_trackio_itself_keeps_a_run_in_two_parts_as_one(run: RunFolder, picture: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    folder = tmp_path / "kept"
    said = _shown("trackio", run, picture, TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1", HOME=str(tmp_path))
    assert "failed" not in said
    script = (
        "import trackio; (run,) = trackio.Api().runs('clearwater'); "
        "from trackio.sqlite_storage import SQLiteStorage; "
        "print([(row['step'], row['loss']) for row in SQLiteStorage.get_logs('clearwater', run.name) if 'loss' in row])"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[(10, 0.5), (20, 0.25)]", done.stderr


def test_a_monitor_is_whatever_has_the_three_methods(breaks: _Breaks) -> None:
    monitor: Monitor = breaks
    monitor.scalars(1, {})
    assert breaks.shown == [1]
