"""The trainer and the clock: budgets of minutes, pauses, checkpoints at intervals, what is counted when it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError, InputError
from clearwater.training import Progress, RunFolder, Saved, Stopped, Trainer, WentBack
from clearwater.training import trainer as trainer_module
from clearwater.training.optimization import Optimization

CPU = torch.device("cpu")


def _images(n: int = 10, size: int = 8) -> ImageSet:
    drawn = np.random.default_rng(0).integers(0, 256, (n, 1, size, size), np.uint8)
    return ImageSet(torch.from_numpy(drawn))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after every step."""
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on by a second a step, however fast the machine is."""
    fake, step = SimpleNamespace(now=100.0), Optimization.step

    def ticking(self: Optimization, *args: Any) -> Tensor:
        fake.now += 1
        return step(self, *args)

    monkeypatch.setattr(Optimization, "step", ticking)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


def test_minutes_end_training_by_the_clock_and_anneal_by_it(
    tiny: Callable[..., Config], clock: SimpleNamespace, every_step: None
) -> None:
    events = list(Trainer(tiny("training.minutes=0.1", "training.warmup=0"), _images(), CPU))
    reports = [event for event in events if isinstance(event, Progress)]
    assert events[-1] == Stopped(6, 6.0, finished=True)
    rates = [1e-3 * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]
    assert [report.learning_rate for report in reports] == pytest.approx(rates)
    assert [report.images_per_second for report in reports] == [4.0] * 6


def test_the_time_of_a_pause_does_not_count(
    tiny: Callable[..., Config], clock: SimpleNamespace, every_step: None, tmp_path: Path
) -> None:
    config = tiny("training.minutes=0.1")
    run = RunFolder.create(tmp_path, config)
    trainer = Trainer(config, _images(), CPU, run)
    for event in trainer:
        if event.step == 2:
            trainer.stop()
    clock.now += 1e6
    resumed = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    assert (resumed.step, resumed.seconds) == (2, 2.0)
    assert list(resumed)[-1] == Stopped(6, 6.0, finished=True)


def test_what_listens_to_training_does_not_slow_the_speed_that_is_told(
    tiny: Callable[..., Config], clock: SimpleNamespace, every_step: None
) -> None:
    speeds = []
    for event in Trainer(tiny(), _images(), CPU):
        if isinstance(event, Progress):
            speeds.append(event.images_per_second)
            clock.now += 7
    assert speeds == [4.0] * 8


def test_a_finished_run_of_minutes_stays_finished_although_its_reserve_is_not_spent(
    tiny: Callable[..., Config], clock: SimpleNamespace, tmp_path: Path
) -> None:
    config = tiny("training.minutes=0.1")
    trainer = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    trainer.reserve = 2.0
    assert list(trainer)[-1] == Stopped(4, 6.0, finished=True)
    again = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    assert list(again) == [Stopped(4, 6.0, finished=True)]


def test_a_run_whose_time_is_over_before_it_goes_on_is_finished_for_good(
    tiny: Callable[..., Config], clock: SimpleNamespace, every_step: None, tmp_path: Path
) -> None:
    config = tiny("training.minutes=0.1")
    trainer = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    for event in trainer:
        if event.step == 3:
            trainer.stop()
    late = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    late.seconds += 10
    assert list(late)[-1] == Stopped(3, 13.0, finished=True)
    again = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    assert list(again) == [Stopped(3, 13.0, finished=True)]


def test_a_time_that_is_over_before_the_first_step_is_told(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.minutes=0.1")
    trainer = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    trainer.seconds += 6.5
    with pytest.raises(ClearwaterError, match=r"over before the first step \(6 s\).*more minutes"):
        list(trainer)
    assert RunFolder.open(tmp_path).latest() is None


def test_a_run_of_minutes_loses_at_most_a_tenth_when_it_goes_back(
    tiny: Callable[..., Config], clock: SimpleNamespace, tmp_path: Path
) -> None:
    config = tiny("training.minutes=0.5", "training.save_minutes=5")
    events = list(Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config)))
    assert [event.step for event in events if isinstance(event, Saved)] == [*range(3, 31, 3)]


def test_what_a_listener_stops_is_looked_at_before_it_is_kept(
    tiny: Callable[..., Config], every_step: None, tmp_path: Path
) -> None:
    config = tiny("training.save_minutes=1e-9")
    trainer = Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config))
    events = []
    for event in trainer:
        events.append(event)
        if isinstance(event, Saved) and event.step == 2:
            with torch.no_grad():
                next(trainer.denoiser.network.parameters()).fill_(math.nan)
            trainer.stop()
    assert [type(event) for event in events[-3:]] == [WentBack, Saved, Stopped]
    latest = RunFolder.open(tmp_path).latest()
    assert latest is not None
    assert all(value.isfinite().all() for value in latest.network.values())


def test_a_run_that_starts_from_another_has_to_be_given_its_weights(tiny: Callable[..., Config]) -> None:
    with pytest.raises(InputError, match="'/some/run', has to give the weights"):
        Trainer(tiny("training.start=/some/run"), _images(), CPU)


def test_images_are_counted_with_the_batches_they_were_seen_in(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.steps=2")
    list(Trainer(config, _images(), CPU, RunFolder.create(tmp_path, config)))
    larger = tiny("training.steps=4", "training.batch=8")
    trainer = Trainer(larger, _images(), CPU, RunFolder.create(tmp_path, larger, override=True))
    list(trainer)
    assert trainer.images_seen == 2 * 4 + 2 * 8


def test_checkpoints_come_at_their_interval_and_at_the_end(
    tiny: Callable[..., Config], clock: SimpleNamespace, tmp_path: Path
) -> None:
    config = tiny("training.save_minutes=0.05", "training.steps=8")
    run = RunFolder.create(tmp_path, config)
    events = list(Trainer(config, _images(), CPU, run))
    assert [event.step for event in events if isinstance(event, Saved)] == [3, 6, 8]
