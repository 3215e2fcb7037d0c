"""Checkpoints that are damaged anywhere, disks that are full, runs with other settings: nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import InputError
from clearwater.training import NotSaved, RunFolder, Saved, Stopped, Trainer
from clearwater.training import run as run_module

FILES = ("config.toml", "model.safetensors", "state.safetensors", "state.json")


def _trainer(config: Config, folder: Path, *, override: bool = False) -> Trainer:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config, override=override))


@pytest.fixture(scope="module")
def trained(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints after steps 2 and 3."""
    folder = tmp_path_factory.mktemp("damage")
    list(_trainer(tiny("training.save_minutes=1e-9", "training.steps=3"), folder))
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["000000002", "000000003"]
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_is_flipped_anywhere_costs_one_checkpoint_and_is_told(trained: Path, name: str) -> None:
    drawn = np.random.default_rng(FILES.index(name))
    path = trained / "checkpoints" / "000000003" / name
    whole = path.read_bytes()
    places = {0, len(whole) - 1, *drawn.integers(0, len(whole), 48).tolist()}
    try:
        for place in places:
            bit = 1 << int(drawn.integers(8))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            run = RunFolder.open(trained)
            latest = run.latest()
            assert latest is not None, place
            assert latest.place.step == 2, place
            (warning,) = run.warnings
            assert "000000003" in warning
            assert len(warning.splitlines()) == 1
            weights, of_model = RunFolder.open(trained).model()
            assert of_model.step == (3 if name == "state.safetensors" else 2)  # which sampling does not read
            assert all(bool(value.isfinite().all()) for value in weights.values())
    finally:
        path.write_bytes(whole)
    latest = RunFolder.open(trained).latest()
    assert latest is not None
    assert latest.place.step == 3


def test_a_full_disk_on_the_way_is_told_and_training_goes_on(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("training.save_minutes=1e-9", "training.steps=5")
    trainer, plain = _trainer(config, tmp_path), run_module.write_checkpoint

    def full(folder: Path, *rest: object) -> None:
        if trainer.step in (2, 3):
            (folder / "model.safetensors").write_bytes(b"the beginning")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(folder, *rest)

    monkeypatch.setattr(run_module, "write_checkpoint", full)
    events = [event for event in trainer if isinstance(event, Saved | NotSaved | Stopped)]
    assert [(type(event), event.step) for event in events] == [
        (Saved, 1),
        (NotSaved, 2),
        (NotSaved, 3),
        (Saved, 4),
        (Saved, 5),
        (Stopped, 5),
    ]
    assert isinstance(events[1], NotSaved)
    assert events[1].error.errno == errno.ENOSPC
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000004", "000000005"]


def test_a_disk_that_is_full_at_the_end_is_an_error(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("training.save_minutes=1e-9", "training.steps=3")
    trainer, plain = _trainer(config, tmp_path), run_module.write_checkpoint

    def full(folder: Path, *rest: object) -> None:
        if trainer.step == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(folder, *rest)

    monkeypatch.setattr(run_module, "write_checkpoint", full)
    with pytest.raises(OSError, match="No space"):
        list(trainer)
    latest = RunFolder.open(tmp_path).latest()
    assert latest is not None
    assert latest.place.step == 2


# --- other settings


@pytest.mark.parametrize(
    "change", ["training.learning_rate=5e-4", "training.batch=5", "objective.weight=p2", "training.precision=bf16"]
)
def test_other_settings_are_named_and_refused_or_taken_if_that_is_said(
    tiny: Callable[..., Config], tmp_path: Path, change: str
) -> None:
    list(_trainer(tiny("training.steps=2"), tmp_path))
    changed = tiny("training.steps=4", change)
    with pytest.raises(InputError, match=rf"{change.partition('=')[0]} .*--override") as caught:
        _trainer(changed, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    trainer = _trainer(changed, tmp_path, override=True)
    assert trainer.step == 2
    assert list(trainer)[-1] == Stopped(4, trainer.seconds, finished=True)
    assert RunFolder.open(tmp_path).config() == changed
    _trainer(changed, tmp_path)  # these are the settings of the run now


@pytest.mark.parametrize("change", ["model.channels=32", "chain.levels=20", "objective.target=v", "data.size=4"])
def test_what_the_weights_depend_on_cannot_be_overridden(
    tiny: Callable[..., Config], tmp_path: Path, change: str
) -> None:
    config = tiny("training.steps=2")
    list(_trainer(config, tmp_path))
    with pytest.raises(InputError, match=rf"{change.partition('=')[0]} .*cannot be overridden"):
        RunFolder.create(tmp_path, tiny("training.steps=2", "training.clip=3", change), override=True)
    assert RunFolder.open(tmp_path).config() == config


def test_settings_that_the_run_then_does_not_go_on_with_are_not_written_down(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("training.steps=2")
    list(_trainer(config, tmp_path))
    run = RunFolder.create(tmp_path, tiny("training.steps=4", "training.clip=3"), override=True)
    others = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="not those that this run was trained on"):
        Trainer(tiny("training.steps=4", "training.clip=3"), others, torch.device("cpu"), run)
    assert RunFolder.open(tmp_path).config() == config


def test_losses_of_another_objective_are_not_compared_with_the_new_one_s(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    list(_trainer(tiny("training.steps=2", "chain.levels=20"), tmp_path))
    changed = tiny("training.steps=4", "chain.levels=20", "objective.weight=p2")
    trainer = _trainer(changed, tmp_path, override=True)
    assert trainer._losses.history == []
    list(trainer)
    kept = RunFolder.open(tmp_path).latest()
    assert kept is not None
    assert "p2" in kept.place.measured
