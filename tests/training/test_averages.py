"""Copies of averages on the disk: what is damaged is not used, what is stale or half written does not stay."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clearwater import files
from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError, InputError
from clearwater.training import NotSaved, RunFolder, Saved, Stopped, Trainer
from clearwater.training.posthoc import LENGTHS, Snapshot, Snapshots, combination

STEPS = (40, 60, 80, 100)
LENGTH = 0.07


def _of(step: int) -> dict[float, dict[str, Tensor]]:
    """Averages that differ by step, length and parameter."""
    drawn = torch.Generator().manual_seed(step)
    return {
        length: {"a.weight": torch.randn(4, 5, generator=drawn), "b": torch.randn(3, generator=drawn)}
        for length in LENGTHS
    }


def _kept(folder: Path, steps: tuple[int, ...] = STEPS) -> Snapshots:
    folder.mkdir()
    for step in steps:
        Snapshots(folder / "averages").keep(step, _of(step))
    return Snapshots(folder / "averages")


def _file(folder: Path, step: int) -> Path:
    return folder / "averages" / f"{step:09d}.safetensors"


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# --- damage


def _by_hand(steps: tuple[int, ...]) -> tuple[dict[str, Tensor], float]:
    """The average that these copies give, by its definition."""
    snapshots = [Snapshot(step, length) for step in steps for length in LENGTHS]
    factors, missed = combination(snapshots, 100, LENGTH)
    copies = [_of(snapshot.step)[snapshot.length] for snapshot in snapshots]
    return {
        name: sum(float(factor) * copy[name].half().double() for factor, copy in zip(factors, copies, strict=True))
        for name in ("a.weight", "b")
    }, missed  # type: ignore[return-value]


@pytest.mark.parametrize("damaged", [(), (40,), (100,), (60, 100), (40, 60, 100)])
def test_the_average_is_made_of_the_whole_copies_and_says_what_that_misses(
    tmp_path: Path, damaged: tuple[int, ...]
) -> None:
    snapshots = _kept(tmp_path / "run")
    for step in damaged:
        path = _file(tmp_path / "run", step)
        path.write_bytes(path.read_bytes()[:-1])
    found, missed = snapshots.average(100, LENGTH)
    expected, misses = _by_hand(tuple(step for step in STEPS if step not in damaged))
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-6, atol=1e-6)
    assert missed == misses
    paths = [str(_file(tmp_path / "run", step)) for step in damaged]
    assert all(path in said for path, said in zip(paths, snapshots.warnings, strict=True))
    assert all(len(warning.splitlines()) == 1 for warning in snapshots.warnings)
    snapshots.average(100, 0.1)
    assert len(snapshots.warnings) == len(damaged)  # each is told once


def test_a_copy_of_the_end_that_is_lost_is_missed(tmp_path: Path) -> None:
    whole = _kept(tmp_path / "whole").average(100, LENGTH)[1]
    snapshots = _kept(tmp_path / "run")
    _file(tmp_path / "run", 100).write_bytes(b"")
    assert snapshots.average(100, LENGTH)[1] > 0.5 > 0.1 > whole


def test_a_bit_that_is_flipped_anywhere_is_seen(tmp_path: Path) -> None:
    _kept(tmp_path / "run", (60, 100))
    (alone, missed), drawn = _kept(tmp_path / "alone", (60,)).average(100, LENGTH), np.random.default_rng(0)
    path = _file(tmp_path / "run", 100)
    content = path.read_bytes()
    for place in range(len(content)):  # of the length of the header, the header, its checksum, the numbers
        bit = 1 << int(drawn.integers(8))
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        snapshots = Snapshots(tmp_path / "run" / "averages")
        found, misses = snapshots.average(100, LENGTH)
        assert _same(found, alone), place
        assert misses == missed
        (warning,) = snapshots.warnings
        assert str(path) in warning
        assert len(warning.splitlines()) == 1


def test_a_file_that_is_cut_anywhere_is_seen(tmp_path: Path) -> None:
    snapshots = _kept(tmp_path / "run", (60, 100))
    path = _file(tmp_path / "run", 100)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        snapshots = Snapshots(tmp_path / "run" / "averages")
        snapshots.average(100, LENGTH)
        assert len(snapshots.warnings) == 1, end


def test_a_folder_in_the_place_of_a_copy_is_damage(tmp_path: Path) -> None:
    snapshots = _kept(tmp_path / "run")
    _file(tmp_path / "run", 80).unlink()
    _file(tmp_path / "run", 80).mkdir()
    assert _same(snapshots.average(100, LENGTH)[0], _kept(tmp_path / "rest", (40, 60, 100)).average(100, LENGTH)[0])
    assert len(snapshots.warnings) == 1


def test_if_all_are_damaged_that_is_one_sentence(tmp_path: Path) -> None:
    snapshots = _kept(tmp_path / "run")
    for step in STEPS:
        _file(tmp_path / "run", step).write_bytes(b"nothing of it")
    with pytest.raises(ClearwaterError, match=r"All copies .* are damaged") as caught:
        snapshots.average(100, LENGTH)
    assert caught.value.exit_code == 1
    assert str(tmp_path / "run" / "averages") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_if_nothing_was_kept_the_sentence_says_where_and_what_to_set(tmp_path: Path) -> None:
    for snapshots in (Snapshots(tmp_path / "averages"), _kept(tmp_path / "run", (40,))):
        with pytest.raises(InputError, match=r"averages' up to step 30.*training\.ema_snapshots above 0"):
            snapshots.average(30, LENGTH)


def test_copies_from_before_there_were_checksums_are_read(tmp_path: Path) -> None:
    expected, missed = _kept(tmp_path / "new").average(100, LENGTH)
    _kept(tmp_path / "run", (100,))
    for step in (40, 60, 80):  # as they were written then
        tensors = {f"{length:.3f}/{name}": v.half() for length, of in _of(step).items() for name, v in of.items()}
        save_file(tensors, _file(tmp_path / "run", step))
    snapshots = Snapshots(tmp_path / "run" / "averages")
    found, misses = snapshots.average(100, LENGTH)
    assert _same(found, expected)
    assert (misses, snapshots.warnings) == (missed, [])
    path = _file(tmp_path / "run", 60)
    path.write_bytes(path.read_bytes()[:-1])
    assert snapshots.average(100, LENGTH)[1] >= missed
    assert len(snapshots.warnings) == 1


def test_the_same_averages_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _kept(tmp_path / name)
    contents = [[_file(tmp_path / name, step).read_bytes() for step in STEPS] for name in ("a", "b")]
    assert contents[0] == contents[1]


# --- writing


def _trainer(config: Config, folder: Path) -> Trainer:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "averages").iterdir())


@pytest.mark.parametrize("where", ["write", "fsync", "rename", "folder"])
def test_a_full_disk_costs_one_copy_and_is_told(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config = tiny("training.ema_snapshots=4", "training.steps=8")
    trainer = _trainer(config, tmp_path)
    plain_write, plain_sync, plain_replace, plain_mkdir = files.write_through, os.fsync, Path.replace, Path.mkdir

    def full() -> None:
        if trainer.step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(path: Path, content: bytes) -> None:
        plain_write(path, content[: len(content) // 2])
        full()
        plain_write(path, content)

    def sync(descriptor: int) -> None:
        full()
        plain_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        full()
        return plain_replace(self, target)

    def mkdir(self: Path, *arguments: int, **more: bool) -> None:
        full()
        plain_mkdir(self, *arguments, **more)

    match where:
        case "write":
            monkeypatch.setattr(files, "write_through", write)
        case "fsync":
            monkeypatch.setattr(os, "fsync", sync)
        case "rename":
            monkeypatch.setattr(Path, "replace", replace)
        case "folder":
            monkeypatch.setattr(Path, "mkdir", mkdir)
    events = [event for event in trainer if isinstance(event, NotSaved | Saved | Stopped)]
    assert [(type(event), event.step) for event in events] == [(NotSaved, 2), (Saved, 8), (Stopped, 8)]
    assert isinstance(events[0], NotSaved)
    assert events[0].error.errno == errno.ENOSPC
    assert _names(tmp_path) == [f"{step:09d}.safetensors" for step in (4, 6, 8)]


_LEFT = ".000000003.safetensors.part"


def test_what_a_killed_write_left_is_not_read_and_does_not_stay(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.ema_snapshots=4", "training.steps=8")
    list(_trainer(config, tmp_path))
    before = RunFolder.open(tmp_path).snapshots.average(8, LENGTH)
    (tmp_path / "averages" / _LEFT).write_bytes(b"the beginning of")
    snapshots = RunFolder.open(tmp_path).snapshots
    made, missed = snapshots.average(8, LENGTH)
    assert _same(made, before[0])
    assert (missed, snapshots.warnings) == (before[1], [])
    _trainer(config, tmp_path)
    assert _names(tmp_path) == [f"{step:09d}.safetensors" for step in (2, 4, 6, 8)]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_without_its_copies(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("training.ema_snapshots=4", "training.steps=8")
    RunFolder.create(tmp_path, config)
    for step in (1, 3, 5, 90):
        RunFolder.open(tmp_path).snapshots.keep(step, _of(step))
    (tmp_path / "averages" / _LEFT).write_bytes(b"the beginning of")
    trainer = _trainer(config, tmp_path)
    assert trainer.step == 0
    assert _names(tmp_path) == []
    list(trainer)
    assert _names(tmp_path) == [f"{step:09d}.safetensors" for step in (2, 4, 6, 8)]
