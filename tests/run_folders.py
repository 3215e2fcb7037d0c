"""For the tests of run folders: small checkpoints, and what is on the disk."""

from __future__ import annotations

from pathlib import Path

import torch

from clearwater.config import Config
from clearwater.training import Checkpoint, Place, RunFolder


def checkpoint_of(step: int) -> Checkpoint:
    def full(more: float, *shape: int) -> torch.Tensor:
        return torch.full(shape, float(step + more))

    return Checkpoint(
        Place(step=step, seconds=step / 2, images=4 * step, data="digest"),
        averaged={"a.weight": full(0, 2, 3), "b": full(0, 3)},
        network={"a.weight": full(0.25, 2, 3), "b": full(0.25, 3)},
        optimizer={"a.weight/exp_avg": full(0.5, 2, 3), "b/exp_avg": full(0.5, 3)},
    )


def run_with(folder: Path, config: Config, steps: int = 3) -> RunFolder:
    run = RunFolder.create(folder, config)
    for step in range(1, steps + 1):
        run.save(checkpoint_of(step), config)
    return run


def latest_step(folder: Path) -> int:
    latest = RunFolder.open(folder).latest()
    assert latest is not None
    return latest.place.step


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:09d}"


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
