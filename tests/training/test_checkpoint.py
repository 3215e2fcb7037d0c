"""Run folders: what is in them, what is done with torn ones, what is refused."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_folders import checkpoint_of, contents, cut, folder_of, latest_step, run_with
from safetensors import SafetensorError
from safetensors.torch import load_file

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.training import RunFolder, Trainer, load_denoiser
from clearwater.training import checkpoint as checkpoint_module

# --- contents


def test_a_checkpoint_is_a_folder_of_four_files(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    run = RunFolder.create(tmp_path, config)
    folder = run.save(checkpoint_of(3), config)
    assert folder == folder_of(tmp_path, 3)
    assert {path.name for path in folder.iterdir()} == {
        "config.toml",
        "model.safetensors",
        "state.safetensors",
        "state.json",
    }
    assert Config.from_toml((folder / "config.toml").read_text(), "checkpoint") == config
    told = json.loads((folder / "state.json").read_text())
    assert (told["format"], told["step"], told["seconds"], told["images"], told["data"]) == (2, 3, 1.5, 12, "digest")
    assert told["checksums"].keys() == {"config.toml", "model.safetensors", "state.safetensors"}
    model = load_file(folder / "model.safetensors")
    assert {name: value.tolist() for name, value in model.items()} == {
        name: value.tolist() for name, value in checkpoint_of(3).averaged.items()
    }
    assert set(load_file(folder / "state.safetensors")) == {
        "network/a.weight",
        "network/b",
        "optimizer/a.weight/exp_avg",
        "optimizer/b/exp_avg",
    }


def test_what_was_saved_is_what_is_loaded(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_with(tmp_path, tiny())
    latest, saved = RunFolder.open(tmp_path).latest(), checkpoint_of(3)
    assert latest is not None
    assert latest.place == saved.place
    for kind in ("averaged", "network", "optimizer"):
        assert {name: value.tolist() for name, value in getattr(latest, kind).items()} == {
            name: value.tolist() for name, value in getattr(saved, kind).items()
        }


def test_the_model_of_a_run_is_the_average_of_the_weights(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    images = ImageSet(torch.arange(640, dtype=torch.int64).reshape(10, 1, 8, 8).to(torch.uint8))
    trainer = Trainer(config, images, torch.device("cpu"), RunFolder.create(tmp_path, config))
    list(trainer)
    denoiser = load_denoiser(tmp_path, "cpu")
    assert not denoiser.network.training
    loaded = dict(denoiser.network.named_parameters())
    assert loaded.keys() == trainer.ema.parameters.keys()
    assert all(torch.equal(value, trainer.ema.parameters[name]) for name, value in loaded.items())
    live = dict(trainer.denoiser.network.named_parameters())
    assert any(not torch.equal(value, live[name]) for name, value in loaded.items())


def test_a_checkpoint_saved_from_a_view_of_memory_holds_only_its_values(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    # Channels-last weights are not contiguous; the file's are, with the same values.
    config = tiny()
    weights = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    saved = replace(checkpoint_of(1), averaged={"w": weights}, network={"w": weights}, optimizer={})
    folder = RunFolder.create(tmp_path, config).save(saved, config)
    loaded = load_file(folder / "model.safetensors")["w"]
    assert loaded.is_contiguous()
    assert torch.equal(loaded, weights)


def test_the_last_two_checkpoints_are_kept(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_with(tmp_path, tiny(), steps=5)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000004", "000000005"]


def test_there_is_no_checkpoint_before_the_first(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, tiny())
    assert run.latest() is None
    assert run.warnings == []
    with pytest.raises(ClearwaterError, match="no checkpoint"):
        run.model()


# --- torn checkpoints


def test_a_checkpoint_that_was_never_finished_is_ignored_and_cleared_away(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    run = run_with(tmp_path, config)
    part = tmp_path / "checkpoints" / "000000009.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half of")
    assert latest_step(tmp_path) == 3
    run.save(checkpoint_of(4), config)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000003", "000000004"]


def test_an_unfinished_checkpoint_of_the_same_step_is_in_nobodys_way(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny()
    run = run_with(tmp_path, config)
    part = tmp_path / "checkpoints" / "000000004.part"
    part.mkdir()
    (part / "extra").write_bytes(b"left over")
    folder = run.save(checkpoint_of(4), config)
    assert not (folder / "extra").exists()
    assert latest_step(tmp_path) == 4


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "model cut short": lambda folder: cut(folder / "model.safetensors", 60),
    "state cut short": lambda folder: cut(folder / "state.safetensors", 60),
    "model empty": lambda folder: cut(folder / "model.safetensors", 0),
    "state empty": lambda folder: cut(folder / "state.safetensors", 0),
    "model missing": lambda folder: (folder / "model.safetensors").unlink(),
    "state missing": lambda folder: (folder / "state.safetensors").unlink(),
    "place missing": lambda folder: (folder / "state.json").unlink(),
    "place empty": lambda folder: cut(folder / "state.json", 0),
    "place cut short": lambda folder: cut(folder / "state.json", 20),
    "place no text": lambda folder: (folder / "state.json").write_bytes(b"\xff\x00\xfe\x01"),
    "place no object": lambda folder: (folder / "state.json").write_text("null"),
    "place a list": lambda folder: (folder / "state.json").write_text("[]"),
    "place without step": lambda folder: (folder / "state.json").write_text('{"format": 2}'),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_before_a_torn_checkpoint_the_earlier_one_is_used_with_a_warning(
    tiny: Callable[..., Config], tmp_path: Path, damage: str
) -> None:
    run_with(tmp_path, tiny())
    _DAMAGE[damage](folder_of(tmp_path, 3))
    run = RunFolder.open(tmp_path)
    latest = run.latest()
    assert latest is not None
    assert latest.place.step == 2
    assert latest.averaged["b"].tolist() == [2.0, 2.0, 2.0]
    (warning,) = run.warnings
    assert str(folder_of(tmp_path, 3)) in warning
    assert len(warning.splitlines()) == 1


@pytest.mark.parametrize("damage", [name for name in _DAMAGE if not name.startswith("state")])
def test_sampling_too_uses_the_earlier_model(tiny: Callable[..., Config], tmp_path: Path, damage: str) -> None:
    run_with(tmp_path, tiny())
    _DAMAGE[damage](folder_of(tmp_path, 3))
    run = RunFolder.open(tmp_path)
    weights, place = run.model()
    assert place.step == 2
    assert weights["b"].tolist() == [2.0, 2.0, 2.0]
    (warning,) = run.warnings
    assert str(folder_of(tmp_path, 3)) in warning


def test_if_every_checkpoint_is_torn_each_is_named_and_there_is_no_model(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    run_with(tmp_path, tiny())
    for step in (2, 3):
        cut(folder_of(tmp_path, step) / "model.safetensors", 30)
    run = RunFolder.open(tmp_path)
    assert run.latest() is None
    assert [str(folder_of(tmp_path, step)) in warning for step, warning in zip((3, 2), run.warnings, strict=True)] == [
        True,
        True,
    ]
    with pytest.raises(ClearwaterError, match="no checkpoint that can be read"):
        RunFolder.open(tmp_path).model()


def test_saving_over_a_torn_checkpoint_of_the_same_step_mends_it(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny()
    run_with(tmp_path, config)
    cut(folder_of(tmp_path, 3) / "state.safetensors", 60)
    run = RunFolder.open(tmp_path)
    run.save(checkpoint_of(3), config)
    assert latest_step(tmp_path) == 3


@pytest.mark.parametrize("read", ["latest", "model"])
def test_a_format_of_the_future_is_refused_and_named(tiny: Callable[..., Config], tmp_path: Path, read: str) -> None:
    run_with(tmp_path, tiny())
    place = folder_of(tmp_path, 3) / "state.json"
    told = json.loads(place.read_text()) | {"format": 3}
    del told["checksum"]
    place.write_text(json.dumps({**told, "checksum": checkpoint_module._of_place(told)}))
    with pytest.raises(ClearwaterError, match=r"format 3, this one reads 2") as caught:
        getattr(RunFolder.open(tmp_path), read)()
    assert str(folder_of(tmp_path, 3)) in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_checkpoint_of_the_first_format_is_named_too(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_with(tmp_path, tiny())
    place = {"format": 1, "step": 3, "seconds": 1.5, "images": 12, "data": "digest"}  # it had no checksums
    (folder_of(tmp_path, 3) / "state.json").write_text(json.dumps(place))
    with pytest.raises(ClearwaterError, match=r"format 1, this one reads 2"):
        RunFolder.open(tmp_path).latest()


# --- a disk that is full


def _safetensors_failure(*arguments: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def _fsync_failure(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["safetensors", "fsync"])
def test_a_full_disk_is_an_os_error_and_costs_no_earlier_checkpoint(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config = tiny()
    run = run_with(tmp_path, config)
    before = contents(tmp_path)
    if where == "safetensors":
        monkeypatch.setattr(checkpoint_module, "save_file", _safetensors_failure)
    else:
        monkeypatch.setattr(os, "fsync", _fsync_failure)
    with pytest.raises(OSError, match="No space left on device"):
        run.save(checkpoint_of(4), config)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["000000002", "000000003"]
    assert latest_step(tmp_path) == 3
