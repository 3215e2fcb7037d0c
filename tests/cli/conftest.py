"""What several tests of the command line use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from labelled_runs import CLASSES, LEVELS
from PIL import Image

from clearwater import (
    Config,
)
from clearwater.cli import run
from clearwater.training import trainer as trainer_module


@pytest.fixture(scope="session")
def home(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, and runs: with classes, one trained less, less without classes, one in colours."""
    home = tmp_path_factory.mktemp("options")
    drawn = np.random.default_rng(0)
    for i, name in enumerate(CLASSES):
        (home / "images" / name).mkdir(parents=True)
        for j in range(4):
            pixels = np.clip(20 + 100 * i + drawn.normal(0, 20, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / "images" / name / f"{j}.png")
    for out, steps, *options in (("run", 200, "--labels"), ("weak", 40, "--labels"), ("plain", 40), ("colour", 1)):
        sets = ("objective=v", f"chain.levels={LEVELS}", f"training.steps={steps}", "training.learning_rate=4e-3")
        channels = f"data.channels={3 if out == 'colour' else 1}"
        (home / "tiny.toml").write_text(tiny(*sets, channels, "training.label_dropout=0.3").to_toml())
        where = ["--out", str(home / out), "--config", str(home / "tiny.toml"), "--device", "cpu"]
        assert run(["train", str(home / "images"), *where, *map(str, options)]) == 0
    return home


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of six grey images of 8 x 8."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def train(tiny: Callable[..., Config], tmp_path: Path, pictures: Path) -> Callable[..., int]:
    """The command on `pictures` with the tiny configuration; returns the exit code."""
    (tmp_path / "tiny.toml").write_text(tiny().to_toml())

    def command(out: str, *options: str, data: str | None = None) -> int:
        config = ["--config", str(tmp_path / "tiny.toml"), "--device", "cpu"]
        return run(["train", data or str(pictures), "--out", str(tmp_path / out), *config, *options])

    return command


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in the log after every step."""
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)
