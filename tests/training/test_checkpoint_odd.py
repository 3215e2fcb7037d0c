"""Checkpoints that are whole but odd, and those that are whole but out of reach: no traceback, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_folders import checkpoint_of, contents, cut, folder_of, latest_step, run_with

from clearwater.cli import run as command
from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.evaluation.report import report_page
from clearwater.training import RunFolder, Trainer
from clearwater.training import checkpoint as checkpoint_module
from clearwater.training.checkpoint import TornError, read_place, read_state, read_weights

FILES = ("config.toml", "model.safetensors", "state.safetensors", "state.json")


# --- whole, but odd


def _rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes state.json, and gives it the checksum that it then has to have."""
    told = json.loads((folder / "state.json").read_bytes())
    del told["checksum"]
    change(told)
    told["checksum"] = checkpoint_module._of_place(told)
    (folder / "state.json").write_text(json.dumps(told))


_ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "no format": lambda told: told.pop("format"),
    "a format that is no number": lambda told: told.update(format="2"),
    "no checksums": lambda told: told.pop("checksums"),
    "checksums that are none": lambda told: told.update(checksums=None),
    "checksums in a list": lambda told: told.update(checksums=["model.safetensors"]),
    "a checksum too few": lambda told: told["checksums"].pop("model.safetensors"),
    "no checksum of the configuration": lambda told: told["checksums"].pop("config.toml"),
    "a checksum that is a number": lambda told: told["checksums"].update({"model.safetensors": 7}),
    "no step": lambda told: told.pop("step"),
    "a step in words": lambda told: told.update(step="three"),
    "half a step": lambda told: told.update(step=2.5),
    "no time": lambda told: told.update(seconds=None),
    "no digest of the data": lambda told: told.pop("data"),
    "losses in words": lambda told: told.update(losses=["x"]),
    "one loss": lambda told: told.update(losses=0.5),
    "a scaler in a list": lambda told: told.update(scaler=[1.0]),
    "text that is no text": lambda told: told.update(measured="\ud800"),
}


@pytest.mark.parametrize("odd", _ODD)
def test_a_place_that_is_whole_but_odd_is_a_torn_checkpoint(
    tiny: Callable[..., Config], tmp_path: Path, odd: str
) -> None:
    run_with(tmp_path, tiny())
    _rewritten(folder_of(tmp_path, 3), _ODD[odd])
    run = RunFolder.open(tmp_path)
    assert run.model()[1].step == 2
    (warning,) = run.warnings
    assert str(folder_of(tmp_path, 3)) in warning
    assert len(warning.splitlines()) == 1
    assert latest_step(tmp_path) == 2
    with pytest.raises(TornError):
        read_state(folder_of(tmp_path, 3))
    assert "Last checkpoint after step" in report_page(run)


def test_a_place_too_deep_to_be_read_is_a_torn_checkpoint(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_with(tmp_path, tiny())
    (folder_of(tmp_path, 3) / "state.json").write_text("[" * 100_000)
    assert latest_step(tmp_path) == 2


def test_a_place_that_an_earlier_version_wrote_has_what_that_did_not_know(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    run_with(tmp_path, tiny())
    for name in ("suspect", "measured"):
        _rewritten(folder_of(tmp_path, 3), lambda told, name=name: told.pop(name))  # type: ignore[misc]
    place = read_place(folder_of(tmp_path, 3))
    assert place == checkpoint_of(3).place
    assert (place.suspect, place.measured) == (False, "")


@pytest.mark.parametrize("read", [read_place, read_weights, read_state])
def test_the_place_is_read_once(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    run_with(tmp_path, tiny())
    seen, plain = [], Path.open

    def counted(self: Path, *arguments: Any, **more: Any) -> Any:
        seen.append(self.name)
        return plain(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", counted)
    read(folder_of(tmp_path, 3))
    assert seen.count("state.json") == 1


# --- out of reach


@contextmanager
def _out_of_reach(path: Path, code: int = errno.EIO) -> Iterator[None]:
    """The system cannot read this file, or list this folder, for a while."""
    plain_open, plain_iterdir = Path.open, Path.iterdir

    def fail(self: Path) -> None:
        if self == path:
            raise OSError(code, os.strerror(code), str(self))

    def opened(self: Path, *arguments: Any, **more: Any) -> Any:
        fail(self)
        return plain_open(self, *arguments, **more)

    def listed(self: Path) -> Any:
        fail(self)
        return plain_iterdir(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        patch.setattr(Path, "iterdir", listed)
        yield


def _trainer(config: Config, folder: Path) -> Trainer:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config))


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(
    tiny: Callable[..., Config], tmp_path: Path, name: str, code: int
) -> None:
    run_with(tmp_path, tiny())
    path = folder_of(tmp_path, 3) / name
    with _out_of_reach(path, code):
        run = RunFolder.open(tmp_path)
        with pytest.raises(ClearwaterError) as caught:
            run.latest()
        assert run.warnings == []
        assert "Last checkpoint after step" in report_page(run)  # it shows what there is
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert all(each in said for each in (str(path.parent), name, os.strerror(code), "repeat the command"))
    assert latest_step(tmp_path) == 3


def test_training_refuses_to_go_on_from_before_a_checkpoint_out_of_reach_and_goes_on_when_it_is_back(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    list(_trainer(tiny("training.save_minutes=1e-9", "training.steps=3"), tmp_path))
    before, config = contents(tmp_path / "checkpoints"), tiny("training.save_minutes=1e-9", "training.steps=5")
    with _out_of_reach(folder_of(tmp_path, 3) / "state.safetensors"), pytest.raises(ClearwaterError, match="000000003"):
        _trainer(config, tmp_path)
    assert contents(tmp_path / "checkpoints") == before
    trainer = _trainer(config, tmp_path)
    assert trainer.step == 3
    list(trainer)
    assert latest_step(tmp_path) == 5


def test_a_folder_of_checkpoints_out_of_reach_is_not_an_empty_one(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.steps=3")
    list(_trainer(config, tmp_path))
    with _out_of_reach(tmp_path / "checkpoints", errno.EACCES), pytest.raises(PermissionError, match="checkpoints"):
        _trainer(config, tmp_path)
    assert _trainer(config, tmp_path).step == 3


def test_the_command_says_it_in_a_sentence(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(tmp_path, tiny())
    for path, said in (
        (folder_of(tmp_path, 3) / "model.safetensors", "000000003"),
        (tmp_path / "checkpoints", "Input/output error"),
    ):
        with _out_of_reach(path):
            assert command(["info", str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert said in line


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_damage(tiny: Callable[..., Config], tmp_path: Path, name: str) -> None:
    run_with(tmp_path, tiny())
    (folder_of(tmp_path, 3) / name).unlink()
    (folder_of(tmp_path, 3) / name).mkdir()
    assert latest_step(tmp_path) == 2


# --- what is kept beside


def test_a_torn_checkpoint_is_not_counted_among_those_that_are_kept(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    run_with(tmp_path, config)
    cut(folder_of(tmp_path, 3) / "state.safetensors", 60)
    run = RunFolder.open(tmp_path)
    assert run.latest() is not None
    run.save(checkpoint_of(4), config)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000002", "000000004"]
    cut(folder_of(tmp_path, 4) / "state.safetensors", 60)
    assert latest_step(tmp_path) == 2


def test_a_torn_checkpoint_that_was_mended_counts_again(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    run_with(tmp_path, config)
    cut(folder_of(tmp_path, 3) / "state.safetensors", 60)
    run = RunFolder.open(tmp_path)
    assert run.latest() is not None
    for step in (3, 4):
        run.save(checkpoint_of(step), config)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000003", "000000004"]


def test_a_checkpoint_that_is_written_is_saved_even_if_the_spent_ones_cannot_be_listed(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    run = run_with(tmp_path, config)
    with _out_of_reach(tmp_path / "checkpoints"):
        assert run.save(checkpoint_of(4), config) == folder_of(tmp_path, 4)
    assert latest_step(tmp_path) == 4
