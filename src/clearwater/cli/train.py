"""`clearwater train`: train a model on images, or go on with one that was interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.options import Data, Device, Out
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import command, duration, live_line, say, say_skipped
from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.config import Config
    from clearwater.data import ImageSet
    from clearwater.training import RunFolder, Trainer

__all__ = ["prepare", "run_training", "train"]


def train(
    data: Data,
    out: Out,
    recipe: Annotated[str, typer.Option(help="Where the settings start from: small, ddpm-cifar10.")] = "small",
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as model.channels=64.", show_default=False)
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images in pixels.", show_default="the images' own, or 32")
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option("--labels/--no-labels", help="Tell the network each image's class.", show_default="no labels"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after this many steps.", show_default=False)] = None,
    minutes: Annotated[float | None, typer.Option(help="End after this much time.", show_default="3")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images a step.", show_default="the recipe's")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of all random numbers.", show_default="0")] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Go on with a run in --out although its settings were others.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train on DATA. The same command again goes on from where it was interrupted."""
    from clearwater.assembly import build_objective, pick_device
    from clearwater.settings import resolve

    keep_freed_memory()
    settings = resolve(
        recipe=recipe,
        file=config,
        sets=set_ or (),
        options={
            "data.source": data,
            "data.size": size,
            "data.labels": labels,
            "training.steps": steps,
            "training.minutes": minutes,
            "training.batch": batch,
            "training.seed": seed,
        },
    )
    from clearwater.world import world

    build_objective(settings)  # refuses settings that contradict each other, before anything is read
    with world() as processes:
        chosen = pick_device(device)
        with processes.after_the_first():  # who makes the run folder
            settings, images, run = prepare(settings, out, override=override, quiet=not processes.first)
        from clearwater.training import Trainer

        trainer = Trainer(settings, images, chosen, run, world=processes)
        before = trainer.step
        finished = run_training(trainer, run, quiet=not processes.first)
        if not processes.first:
            return
        if not finished:
            say(f"Interrupted and saved after step {trainer.step}: repeat the command to go on.")
            raise typer.Exit(130)
        if trainer.step == before:
            say(f"'{out}' was finished before, after {before} steps: repeat with more --steps or --minutes to go on.")
        say(f"Trained: '{out}'. Now sample from it: {command('sample', out, '--out', out / 'samples')}")


def prepare(
    settings: Config, out: Path, *, override: bool = False, quiet: bool = False
) -> tuple[Config, ImageSet, RunFolder]:
    """Loads the images, fills in their size and channels, and opens the run folder; one of many processes is quiet."""
    import torch

    from clearwater.assembly import build_denoiser
    from clearwater.data import BUILT_IN, load_images
    from clearwater.files import write_atomically
    from clearwater.training import RunFolder

    RunFolder.refuse_other(out)  # before a large folder is read for nothing
    images = load_images(
        settings.data.source,
        size=settings.data.size,
        channels=settings.data.channels,
        labels=settings.data.labels,
    )
    if not quiet:
        say_skipped(images)
    channels, height, width = images.shape
    source = settings.data.source
    if source != BUILT_IN:
        source = str(Path(source).resolve())  # the run can be gone on with from anywhere
        if not source.isascii() and source.encode(errors="replace") != source.encode(errors="surrogateescape"):
            raise InputError(f"The path {source!r} is not valid text, and a run's settings are: rename the folder.")
    classes = images.classes if settings.data.labels else None
    found = settings.data.model_copy(
        update={"source": source, "size": (height, width), "channels": channels, "classes": classes}
    )
    settings = settings.model_copy(update={"data": found})
    build_denoiser(settings, torch.device("meta"))  # refuses a model that cannot be, before anything is written
    run = RunFolder.create(out, settings, override=override)
    if quiet:
        return settings, images, run
    if images.skipped:
        write_atomically(out / "skipped.txt", "\n".join([*images.skipped, ""]).encode(errors="surrogateescape"))
    say(
        f"{len(images.images):,} images of {height} × {width}, {'grey' if channels == 1 else 'RGB'}"
        + (f", of {len(classes)} classes." if classes else ".")
    )
    return settings, images, run


def run_training(trainer: Trainer, run: RunFolder, *, quiet: bool = False) -> bool:
    """Trains with a live line, a log and a loss curve in the run folder. Returns whether it came to its end.

    One of many processes that is quiet trains, and leaves the rest to the one that is not.
    """
    from clearwater.pictures import plot_loss, write_picture
    from clearwater.training import NotSaved, Progress, Saved, Stopped, WentBack

    if quiet:
        with _interruption_stops(trainer):
            return any(isinstance(event, Stopped) and event.finished for event in trainer)
    for warning in run.warnings:
        say(warning)
    parameters = sum(parameter.numel() for parameter in trainer.denoiser.network.parameters())
    say(f"{parameters / 1e6:.2f} M parameters." + (f" Going on from step {trainer.step}." if trainer.step else ""))
    finished = False
    with live_line("training") as report, _interruption_stops(trainer):
        for event in trainer:
            match event:
                case Progress():
                    left = event.seconds * (1 - event.fraction) / event.fraction
                    report(
                        event.fraction,
                        f"step {event.step}  loss {event.loss:.4f}  {event.images_per_second:.0f} images/s  "
                        f"{duration(left)} left",
                    )
                    run.log(
                        {
                            "step": event.step,
                            "seconds": round(event.seconds, 3),
                            "loss": event.loss,
                            "learning_rate": event.learning_rate,
                            "images_per_second": round(event.images_per_second, 1),
                            "gradient_norm": event.gradient_norm,
                        }
                    )
                case NotSaved():
                    why = event.error.strerror or str(event.error)
                    say(f"Step {event.step} could not be saved ({why}); training goes on, and tries again later.")
                case WentBack():
                    say(
                        f"After step {event.failed}, {event.reason}: training goes on from step {event.step}, with "
                        "images and noise in another order."
                    )
                case Saved():
                    pass
                case Stopped():
                    finished = event.finished
    entries = run.entries()
    if entries:
        write_picture(run.path / "loss.png", plot_loss(entries))
    return finished


@contextmanager
def _interruption_stops(trainer: Trainer) -> Iterator[None]:
    """Ctrl-C and SIGTERM end training after the step it is in; a second one ends the program at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        trainer.stop()
        signal.signal(number, before[number])

    before = {int(number): signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
