"""What fits into a time on a machine: a network and a batch, chosen by measuring.

How wide a network should be depends on how many steps it gets: in few steps narrow networks are the better ones
(docs/experiments.md), so the widest is taken that still gets enough.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.training.events import Progress
from clearwater.training.trainer import Trainer
from clearwater.world import World

__all__ = ["PLANNED", "Plan", "plan", "shaped", "undisturbed_threads", "with_settings"]

PLANNED = ("model.patch", "model.multipliers", "model.channels", "training.batch")
"""The settings that are chosen, in this order."""

_WIDTHS = (32, 48, 64, 96, 128, 192, 256)
_ENOUGH = 20_000  # steps that a wider network must get
_FEW = 2_000  # below which pictures can hardly become good
_COARSEST, _FINEST = 8, 32  # sides of the feature maps: as few pixels as the last level has, as many as the first
_COARSE = 14  # the side of the first level's that is enough where there is no time for more
_BARELY = 700  # steps, below which a network that sees the pixels less finely, and makes more of them, is as good
_GAIN = 1.6  # of images a second, for which a batch is doubled
_LARGEST_BATCH = 512
_IDLE = 0.5  # of a processor's load, in which a command that has just begun may itself have a part
_CLEARLY = 1.1  # times faster, for which threads are given up
_REPORTS = 2  # of half a second; the first one is of a machine that is warming up


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        config: with it.
        steps: how many fit, about.
        reasons: sentences that say what was chosen and why.
    """

    config: Config
    steps: int
    reasons: tuple[str, ...]


def shaped(config: Config, fixed: Collection[str]) -> Config:
    """The configuration with a network for images of its size: small feature maps, but not too small.

    Args:
        config: whose data's size is known.
        fixed: names of settings that stay.
    """
    assert config.data.size is not None
    side = max(config.data.size)
    patch = config.model.patch
    if "model.patch" not in fixed:
        while side / patch > _FINEST:
            patch *= 2
    multipliers = config.model.multipliers
    if "model.multipliers" not in fixed:
        while len(multipliers) > 2 and side / patch / 2 ** (len(multipliers) - 1) < _COARSEST:
            multipliers = multipliers[:-1]
        while side / patch / 2 ** len(multipliers) >= _COARSEST:
            multipliers = (*multipliers, multipliers[-1])
    return with_settings(config, {"model.patch": patch, "model.multipliers": multipliers})


def plan(
    config: Config,
    fixed: Collection[str],
    minutes: float,
    device: torch.device,
    world: World,
    report: Callable[[str], None] = lambda text: None,
) -> Plan:
    """The widest network and the largest batch that are worth their time.

    Args:
        config: a recipe, with the size, the channels and the classes of the data.
        fixed: names of settings that stay, since someone has set them.
        minutes: the time that is left.
        device: where to train.
        world: the processes that train; all of them measure together.
        report: is told what is being measured.
    """
    shape = shaped(config, fixed)
    batch, width = shape.training.batch, shape.model.channels
    reasons = []

    def measured(candidate: Config) -> float:
        name = f"{candidate.model.channels} channels, batches of {candidate.training.batch}"
        report(f"measuring {name}")
        return world.told(_images_per_second(candidate, device, world))

    speed = measured(shape)
    finer = shape.model.patch
    while speed > 0 and 60 * minutes * speed / batch < _BARELY and (coarser := _coarser(config, shape, fixed)):
        shape, speed = coarser, measured(coarser)
    if shape.model.patch != finer:
        reasons.append(
            f"{shape.model.patch} × {shape.model.patch} pixels are seen as one: with {finer} × {finer} there would be "
            f"fewer than {_BARELY} steps."
        )
    if device.type != "cpu" and "training.batch" not in fixed:
        while speed > 0 and batch < _LARGEST_BATCH:
            doubled = measured(with_settings(shape, {"training.batch": 2 * batch}))
            if doubled < _GAIN * speed:
                break
            batch, speed = 2 * batch, doubled
        reasons.append(f"Batches of {batch}: larger ones are hardly faster.")
    chosen = with_settings(shape, {"training.batch": batch})
    if "model.channels" not in fixed:
        for wider in (each for each in _WIDTHS if each > width):
            if 60 * minutes * speed / batch < 1.2 * _ENOUGH:  # a wider one would have fewer steps by more than that
                break
            candidate = with_settings(chosen, {"model.channels": wider})
            slower = measured(candidate)
            if 60 * minutes * slower / batch < _ENOUGH:
                break
            chosen, speed, width = candidate, slower, wider
    if speed == 0:
        raise ClearwaterError("There is not enough memory for this: set a smaller --batch, --size or network.")
    steps = int(60 * minutes * speed / batch)
    reasons.insert(
        0,
        f"{width} channels: {speed:.0f} images/s here, so about {steps:,} steps in {_told(minutes)}"
        + (f"; a wider network is taken where it gets {_ENOUGH:,} or more." if "model.channels" not in fixed else "."),
    )
    if steps < _FEW:
        reasons.append(
            f"{steps:,} steps are few for these images: expect rough ones, or give more --minutes or a smaller --size."
        )
    return Plan(chosen, steps, tuple(reasons))


def _coarser(config: Config, shape: Config, fixed: Collection[str]) -> Config | None:
    """The network that `shaped` gives if twice as many pixels a side are seen as one; None if that is too few."""
    assert config.data.size is not None
    patch = 2 * shape.model.patch
    if "model.patch" in fixed or max(config.data.size) / patch < _COARSE:
        return None
    return shaped(with_settings(config, {"model.patch": patch}), fixed)


def _told(minutes: float) -> str:
    return f"{minutes:.3g} min" if minutes >= 2 else f"{60 * minutes:.0f} s"


def undisturbed_threads(
    config: Config, device: torch.device, world: World, report: Callable[[str], None] = lambda text: None
) -> tuple[int, str | None]:
    """How many threads train fastest beside the machine's other work, and why if that is not all of them.

    Every operation waits for its slowest thread, so a thread that another program disturbs slows all of them.
    Arguments as of `plan`.
    """
    threads = torch.get_num_threads()
    if sys.platform == "win32" or device.type != "cpu" or world.size > 1:  # Windows does not say how busy it is
        return threads, None
    fewer = max(1, threads - math.ceil(os.getloadavg()[0] - _IDLE))
    if fewer >= threads:
        return threads, None
    report(f"measuring {threads} and {fewer} threads")
    try:
        of_all = _images_per_second(config, device, world)
        torch.set_num_threads(fewer)
        of_fewer = _images_per_second(config, device, world)
    finally:
        torch.set_num_threads(threads)
    if of_fewer <= _CLEARLY * of_all:
        return threads, None
    return fewer, (
        f"{fewer} of {threads} threads: the machine has other work, and all of them would be "
        f"{of_fewer / max(of_all, 1e-9):.1f} times slower."
    )


def with_settings(config: Config, values: dict[str, object]) -> Config:
    """The configuration with these settings."""
    update: dict[str, dict[str, object]] = {}
    for name, value in values.items():
        section, _, setting = name.partition(".")
        update.setdefault(section, {})[setting] = value
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=of) for section, of in update.items()}
    )


def _images_per_second(config: Config, device: torch.device, world: World) -> float:
    """Of training on noise; zero if it does not fit into the memory."""
    assert config.data.size is not None and config.data.channels is not None  # noqa: PT018
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, config.data.channels, *config.data.size), generator=drawn).to(torch.uint8)
    classes = config.data.classes if config.data.labels else None
    labels = torch.arange(64) % len(classes) if classes else None
    endless = with_settings(config, {"training.steps": 10**9, "training.minutes": None, "training.start": None})
    seen = 0.0
    try:
        trainer = Trainer(endless, ImageSet(images, labels, classes or ()), device, world=world)
        reports = 0
        for event in trainer:
            if isinstance(event, Progress):
                reports, seen = reports + 1, event.images_per_second
                if reports == _REPORTS:
                    trainer.stop()
    except ClearwaterError:
        raise
    except (MemoryError, RuntimeError) as error:
        if world.size > 1 or "memory" not in str(error).lower():
            raise
        return 0.0
    return seen
