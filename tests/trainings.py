"""What tests of `clearwater train` do to a training, and what they ask of its checkpoints."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clearwater.training import RunFolder


def interrupt_after(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> None:
    log = RunFolder.log

    def interrupting(self: RunFolder, entry: dict[str, float]) -> None:
        log(self, entry)
        if entry["step"] == step:
            for _ in range(times):
                signal.raise_signal(number)

    monkeypatch.setattr(RunFolder, "log", interrupting)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").iterdir())
    loaded = {**load_file(newest / "model.safetensors"), **load_file(newest / "state.safetensors")}
    return {name: value.clone() for name, value in loaded.items()}  # the files are mapped, and a test tears them


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
