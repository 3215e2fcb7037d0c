"""Training that fails: what is noticed, where it goes back to, and when it gives up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.training import Event, Progress, RunFolder, Saved, Stopped, Trainer, WentBack
from clearwater.training import losses as losses_module
from clearwater.training import trainer as trainer_module
from clearwater.training.guard import Guard

CPU = torch.device("cpu")


def _trainer(config: Config, folder: Path | None = None) -> Trainer:
    images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), np.uint8)))
    return Trainer(config, images, CPU, RunFolder.create(folder, config) if folder else None)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress after every step."""
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", 0.0)


def _spoilt(trainer: Trainer, *after: int, kind: type[Event] = Saved) -> Iterator[Event]:
    """The events; once after each of these steps, when this is told of it, a weight becomes no number."""
    left = list(after)
    for event in trainer:
        yield event
        if isinstance(event, kind) and left and event.step == left[0]:
            left.pop(0)
            with torch.no_grad():
                next(trainer.denoiser.network.parameters()).fill_(math.nan)


# --- the guard alone


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=30), st.floats(0.01, 1000.0))
def test_losses_in_a_range_are_sound_and_so_is_one_that_is_far_above(means: list[float], loss: float) -> None:
    guard = Guard()
    for mean in [*means, loss, *means]:
        assert guard.fault(mean, 50) is None
        guard.remember(mean)


@given(st.lists(st.floats(0.5, 4.0), min_size=5, max_size=30), st.floats(10.01, 1e3), st.floats(10.01, 1e3))
def test_two_in_a_row_of_more_than_ten_times_the_largest_are_a_leap(
    means: list[float], once: float, again: float
) -> None:
    guard = Guard()
    for mean in means:
        guard.remember(mean)
    largest = max(means[-20:])  # it remembers as many
    assert guard.fault(once * largest, 50) is None
    guard.remember(once * largest)
    assert guard.suspect
    assert guard.history == means[-20:]
    assert guard.fault(again * largest, 9) is None  # of few steps it says nothing
    fault = Guard(guard.history, suspect=True).fault(again * largest, 50)  # as after a resume
    assert fault is not None
    assert fault.startswith("the loss leapt to ")
    guard.remember(largest)  # or the second is as ever
    assert not guard.suspect


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=30), st.floats(1.01e4, 1e20))
def test_ten_thousand_times_the_median_is_a_leap_at_once(means: list[float], factor: float) -> None:
    guard = Guard()
    for mean in means:
        guard.remember(mean)
    last = sorted(means[-20:])
    median = (last[len(last) // 2] + last[(len(last) - 1) // 2]) / 2
    assert guard.fault(factor * median, 50) is not None


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_a_fault_at_any_time(loss: float) -> None:
    assert Guard().fault(loss, 1) == f"the loss is {loss}"


def test_a_first_loss_is_sound_whatever_it_is() -> None:
    assert Guard().fault(1e9, 50) is None


# --- in training


@pytest.mark.parametrize("report", [0.0, math.inf], ids=["reported", "before any report"])
def test_a_loss_that_is_no_number_is_gone_back_from_and_training_ends(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: float
) -> None:
    monkeypatch.setattr(trainer_module, "_REPORT_SECONDS", report)
    config = tiny("training.save_minutes=1e-9")  # a checkpoint a step
    trainer = _trainer(config, tmp_path)
    events = list(_spoilt(trainer, 3))
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert (back.step, back.failed, back.attempt) == (3, 4, 1)
    assert back.reason == "the loss is nan"
    assert events[-1] == Stopped(8, trainer.seconds, finished=True)
    assert all(math.isfinite(event.loss) for event in events if isinstance(event, Progress))
    kept = RunFolder.open(tmp_path).latest()
    assert kept is not None
    assert (kept.place.step, kept.place.attempt) == (8, 1)
    assert all(bool(value.isfinite().all()) for value in [*kept.averaged.values(), *kept.network.values()])


@pytest.mark.usefixtures("every_step")
def test_before_the_first_checkpoint_it_goes_back_to_the_beginning(tiny: Callable[..., Config]) -> None:
    config = tiny()
    beginning = {name: value.clone() for name, value in _trainer(config).ema.parameters.items()}
    trainer = _trainer(config)
    back = next(event for event in _spoilt(trainer, 2, kind=Progress) if isinstance(event, WentBack))
    # After two steps nobody had looked: what is wrong is seen in the report of the third.
    assert (back.step, back.failed, back.attempt) == (0, 3, 1)
    assert trainer.step == 0
    for name, value in trainer._parameters.items():
        assert torch.equal(value.detach(), beginning[name])
        assert torch.equal(trainer.ema.parameters[name], beginning[name])
    assert trainer._optimization.moments() == {}


@pytest.mark.usefixtures("every_step")
def test_after_going_back_images_and_noise_are_others(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.save_minutes=1e-9", "training.steps=4")
    losses: list[dict[int, float]] = []
    for name, spoil in (("sound", ()), ("spoilt", (2,))):
        events = list(_spoilt(_trainer(config, tmp_path / name), *spoil))
        losses.append({event.step: event.loss for event in events if isinstance(event, Progress)})
    sound, spoilt = losses
    assert [sound[step] == spoilt[step] for step in (1, 2, 3, 4)] == [True, True, False, False]


def test_a_leap_is_gone_back_from(tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "CHECK_STEPS", 20)
    config = tiny("training.steps=60")
    trainer = _trainer(config, tmp_path)
    plain, spoilt = trainer._optimization.step, [30]

    def step(number: int, seed: int, rate: float) -> torch.Tensor:
        if number in spoilt:  # finite, and no good
            spoilt.remove(number)
            with torch.no_grad():
                trainer.denoiser.network.get_parameter("last.bias").fill_(1e5)
        return plain(number, seed, rate)

    monkeypatch.setattr(trainer._optimization, "step", step)
    events = list(trainer)
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert (back.step, back.failed) == (0, 40)
    assert back.reason.startswith("the loss leapt to ")
    assert events[-1] == Stopped(60, trainer.seconds, finished=True)


@pytest.mark.usefixtures("every_step")
def test_after_the_third_failure_it_gives_up_with_a_diagnosis(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.save_minutes=1e-9")
    trainer = _trainer(config, tmp_path)
    events = []

    def train() -> None:
        for event in trainer:
            events.append(event)
            if isinstance(event, Saved) and event.step == 3:
                next(trainer.denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.nan)

    with pytest.raises(ClearwaterError, match=r"failed so 3 times.*last checkpoint is kept.*learning_rate") as caught:
        train()
    assert caught.value.exit_code == 1
    assert len(str(caught.value).splitlines()) == 1
    assert [(back.step, back.attempt) for back in events if isinstance(back, WentBack)] == [(3, 1), (3, 2)]
    kept = RunFolder.open(tmp_path).latest()
    assert kept is not None
    assert kept.place.step == 3


@pytest.mark.usefixtures("every_step")
def test_failures_far_from_each_other_do_not_add_up(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("training.save_minutes=1e-9", "training.steps=12")
    events = list(_spoilt(_trainer(config, tmp_path), 1, 3, 5, 7))
    backs = [(event.step, event.attempt) for event in events if isinstance(event, WentBack)]
    assert backs == [(1, 1), (3, 2), (5, 3), (7, 4)]
    assert isinstance(events[-1], Stopped)
    assert events[-1].finished


def test_a_checkpoint_is_not_taken_of_weights_that_are_no_numbers(tiny: Callable[..., Config], tmp_path: Path) -> None:
    # The loss of the last step is finite: what is not a number are the weights after it.
    config = tiny("training.steps=1")
    trainer = _trainer(config, tmp_path)
    next(trainer.denoiser.network.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(ClearwaterError, match="A weight is no number after step 1"):
        list(trainer)
    assert RunFolder.open(tmp_path).latest() is None


@pytest.mark.parametrize("stop", [5, 20, 33])
def test_what_the_guard_remembers_is_that_of_an_unbroken_run(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_step: None, stop: int
) -> None:
    monkeypatch.setattr(losses_module, "CHECK_STEPS", 10)
    config = tiny("training.steps=40")
    places = []
    for name, stops in (("unbroken", ()), ("broken", (stop,))):
        for last in (*stops, 0):
            trainer = _trainer(config, tmp_path / name)
            for event in trainer:
                if event.step == last:
                    trainer.stop()
        kept = RunFolder.open(tmp_path / name).latest()
        assert kept is not None
        places.append(kept.place)
    assert places[0].losses == places[1].losses
    assert len(places[0].losses) == 5  # after step 1, and every ten
