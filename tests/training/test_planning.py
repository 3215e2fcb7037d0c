"""What is chosen for a time: by the rule, with made-up speeds; the shape of the network; once with real ones."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from clearwater.config import Config
from clearwater.errors import ClearwaterError
from clearwater.settings import resolve
from clearwater.training import planning
from clearwater.training.planning import plan, shaped, undisturbed_threads
from clearwater.world import World

Tiny = Callable[..., Config]


def _speeds(monkeypatch: pytest.MonkeyPatch, of: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """Images a second as this function of width and batch says; returns what is measured, as it is."""
    asked: list[tuple[int, int]] = []

    def measured(config: Config, device: torch.device, world: World) -> float:
        asked.append((config.model.channels, config.training.batch))
        return of(*asked[-1])

    monkeypatch.setattr(planning, "_images_per_second", measured)
    return asked


def _chosen(config: Config, minutes: float, device: str = "cpu", fixed: tuple[str, ...] = ()) -> tuple[int, int, int]:
    made = plan(config, fixed, minutes, torch.device(device), World())
    return made.config.model.channels, made.config.training.batch, made.steps


@pytest.fixture
def config(tiny: Tiny) -> Config:
    return tiny("model.channels=32", "training.batch=32")


@pytest.mark.parametrize(
    ("minutes", "width"),
    [(0.1, 32), (3, 32), (20, 32), (24, 48), (30, 48), (36, 64), (60, 96), (100, 128), (10**6, 256)],
)
def test_the_widest_network_is_taken_that_gets_enough_steps(
    config: Config, monkeypatch: pytest.MonkeyPatch, minutes: float, width: int
) -> None:
    def speed(width: int, batch: int) -> float:
        return 800 * (32 / width) ** 1.3

    _speeds(monkeypatch, speed)
    channels, batch, steps = _chosen(config, minutes)
    assert (channels, batch) == (width, 32)
    assert steps == int(60 * minutes * speed(width, 32) / 32)
    wider = next((each for each in (48, 64, 96, 128, 192, 256) if each > width), None)
    if width > 32:
        assert steps >= 20_000
    if wider is not None:
        assert 60 * minutes * speed(wider, 32) / 32 < 20_000 or steps < 1.2 * 20_000


def test_in_a_short_time_nothing_wider_is_measured(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _speeds(monkeypatch, lambda width, batch: 800.0)
    assert _chosen(config, 3)[0] == 32
    assert asked == [(32, 32)]


def test_on_a_gpu_the_batch_is_doubled_while_that_pays(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    # A card that is idle up to 128 images, and then as fast as it can be.
    asked = _speeds(monkeypatch, lambda width, batch: 50.0 * min(batch, 128))
    assert _chosen(config, 3, "cuda")[:2] == (32, 128)
    assert asked == [(32, 32), (32, 64), (32, 128), (32, 256)]


def test_what_does_not_fit_into_the_memory_is_not_taken(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _speeds(monkeypatch, lambda width, batch: 0.0 if width > 48 else 10_000.0)
    assert _chosen(config, 100)[0] == 48


@pytest.mark.parametrize(
    ("fixed", "chosen"), [(("model.channels",), (32, 128)), (("training.batch",), (256, 32))], ids=["width", "batch"]
)
def test_what_a_person_has_set_stays(
    config: Config, monkeypatch: pytest.MonkeyPatch, fixed: tuple[str, ...], chosen: tuple[int, int]
) -> None:
    _speeds(monkeypatch, lambda width, batch: 50.0 * min(batch, 128))
    assert _chosen(config, 10**5, "cuda", fixed)[:2] == chosen


def test_the_reasons_name_what_was_chosen(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _speeds(monkeypatch, lambda width, batch: 400.0)
    made = plan(config, (), 2, torch.device("cpu"), World())
    said = " ".join(made.reasons)
    for part in ("32 channels", "400 images/s", "1,500 steps", "2 min", "a smaller --size"):
        assert part in said


@pytest.mark.parametrize(
    ("side", "patch", "levels"), [(28, 2, 2), (32, 2, 2), (48, 2, 2), (64, 2, 3), (96, 4, 2), (128, 4, 3), (256, 8, 3)]
)
def test_the_network_has_feature_maps_of_8_to_32_pixels(tiny: Tiny, side: int, patch: int, levels: int) -> None:
    config = tiny("model.patch=2", "model.multipliers=[1, 2]", f"data.size={side}")
    made = shaped(config, ()).model
    assert (made.patch, len(made.multipliers)) == (patch, levels)
    assert set(made.multipliers[2:]) <= {2}
    assert shaped(config, ("model.patch", "model.multipliers")) == config
    deeper = tiny("model.patch=2", "model.multipliers=[1, 2, 2]", f"data.size={side}")
    assert shaped(deeper, ()).model == made  # of a recipe for larger images as well


@pytest.mark.parametrize(
    ("name", "side"), [("small-grey", 28), ("small-colour", 32), ("medium", 64), ("portrait", 128)]
)
def test_a_recipe_has_the_network_that_is_shaped_for_its_size(name: str, side: int) -> None:
    config = resolve(recipe=name, sets=[f"data.size={side}"])
    assert shaped(config, ()) == config


@pytest.mark.parametrize(
    ("side", "minutes", "patch", "steps"),
    [
        (64, 30, 2, 1800),
        (64, 10, 4, 2400),  # 600 steps of the finer network would be too few
        (128, 10, 8, 2400),
        (128, 2, 8, 480),  # 64 × 64 pixels as one would leave nothing to see
        (32, 1, 2, 240),
    ],
)
def test_pixels_are_seen_less_finely_if_there_would_hardly_be_any_steps(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, side: int, minutes: float, patch: int, steps: int
) -> None:
    config = tiny("training.batch=32", "model.patch=2", "model.multipliers=[1, 2]", f"data.size={side}")

    def measured(config: Config, device: torch.device, world: World) -> float:
        return 32 * (side / config.model.patch / 32) ** -2

    monkeypatch.setattr(planning, "_images_per_second", measured)
    made = plan(config, (), minutes, torch.device("cpu"), World())
    assert (made.config.model.patch, made.steps) == (patch, steps)
    assert made.config.model == shaped(made.config, ()).model  # its levels are those of its feature maps
    coarser = made.config.model.patch != shaped(config, ()).model.patch
    assert any("seen as one" in reason for reason in made.reasons) == coarser
    if steps >= 700:
        assert plan(config, ("model.patch",), minutes, torch.device("cpu"), World()).config.model.patch == 2


def test_real_speeds_are_of_the_machine(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is sixteen times as wide cannot be as fast."""
    monkeypatch.setattr(planning, "_REPORTS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for one another where other tests run beside this one
    try:
        speeds = [
            planning._images_per_second(tiny(f"model.channels={width}"), torch.device("cpu"), World())
            for width in (16, 256)
        ]
    finally:
        torch.set_num_threads(threads)
    assert speeds[0] > 2 * speeds[1] > 0


@pytest.mark.parametrize(
    ("load", "alone", "threads"),
    [
        (0.4, 900, 4),  # nothing else runs: nothing else is tried
        (1.2, 900, 3),
        (2.2, 900, 2),
        (9.0, 900, 1),
        (1.2, 620, 4),  # hardly faster
    ],
)
def test_threads_are_given_up_on_a_busy_machine_if_that_is_faster(
    config: Config, monkeypatch: pytest.MonkeyPatch, load: float, alone: int, threads: int
) -> None:
    before = torch.get_num_threads()
    _speeds(monkeypatch, lambda width, batch: 600 if torch.get_num_threads() == 4 else alone)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    torch.set_num_threads(4)
    try:
        found, reason = undisturbed_threads(config, torch.device("cpu"), World())
        assert torch.get_num_threads() == 4  # it is the caller who sets them
    finally:
        torch.set_num_threads(before)
    assert found == threads
    assert (reason is None) == (threads == 4)
    assert reason is None or reason.endswith("1.5 times slower.")


def test_a_network_that_does_not_fit_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    _speeds(monkeypatch, lambda width, batch: 0.0)
    with pytest.raises(ClearwaterError, match="not enough memory"):
        plan(config, (), 3, torch.device("cpu"), World())
