"""`clearwater train`: train a model on images, or go on with one that was interrupted."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping
from clearwater.cli.options import Cache, Data, Device, NoCache, Out
from clearwater.cli.process import keep_freed_memory, set_float32
from clearwater.cli.progress import command, live_line, say, say_skipped
from clearwater.cli.watching import Looks, Watch
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch

    from clearwater.config import Config
    from clearwater.data import ImageSet, StreamedImages
    from clearwater.training import RunFolder, Trainer
    from clearwater.training.monitors import Monitor
    from clearwater.world import World

__all__ = ["open_run", "read", "run_training", "train"]


def train(
    context: typer.Context,
    data: Data,
    out: Out,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Where the settings start from: small, ddpm-cifar10.", show_default="small, as wide as the time allows"
        ),
    ] = None,
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
    start: Annotated[
        Path | None,
        typer.Option("--from", help="A run, or a checkpoint in one, to start from: fine-tuning.", show_default=False),
    ] = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    log: Annotated[
        str | None,
        typer.Option(help="Also to tensorboard, wandb, trackio, with commas between.", show_default="log.jsonl alone"),
    ] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Go on with a run in --out although its settings were others.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train on DATA. The same command again goes on from where it was interrupted."""
    from clearwater.assembly import build_objective, pick_device
    from clearwater.settings import given_names, resolve, without_effect
    from clearwater.training import Trainer
    from clearwater.training.monitors import libraries, open_monitors
    from clearwater.training.planning import shaped
    from clearwater.world import world

    keep_freed_memory()
    options = {
        "data.source": data,
        "data.size": size,
        "data.labels": labels,
        "training.steps": steps,
        "training.minutes": minutes,
        "training.batch": batch,
        "training.seed": seed,
        "training.start": None if start is None else str(start.resolve()),
    }
    begun = None if start is None else _begun(start, out)
    keeping = Keeping(cache, no_cache)
    shown = [name.strip() for name in log.split(",")] if log else []
    settings = resolve(
        recipe=recipe or "small",
        start=None if begun is None else begun.config(),
        file=config,
        sets=set_ or (),
        options=options,
    )
    if begun is not None and begun.config().objective.target != settings.objective.target:
        raise InputError(
            f"The run to start from predicts {begun.config().objective.target}, and weights that have learned that do "
            f"not predict {settings.objective.target}: leave objective.target as it is there."
        )
    if begun is not None:
        settings = _unseen_by_both(settings, begun)
    set_float32(settings.training.precision)
    build_objective(settings)  # refuses settings that contradict each other, before anything is read
    plans = recipe is None and start is None
    given = given_names(file=config, sets=set_ or (), options=options) if plans else None
    with world() as processes:
        if processes.first:
            libraries(shown)  # a slip is told of before anything is read, too
            for sentence in without_effect(settings, given_names(file=None, sets=set_ or (), options={})):
                say(sentence)
        chosen = pick_device(device)
        with processes.after_the_first():  # who tells of broken files
            settings, images = read(settings, out, keeping, quiet=not processes.first)
        there = (out / "config.toml").is_file()  # what is refused of a run is refused before anything is measured
        if settings.training.minutes is not None and not there:
            _leave_threads(settings if given is None else shaped(settings, given), chosen, processes)
        if given is not None:
            settings = _planned(settings, given, out, chosen, processes, began=context.obj)
        with processes.after_the_first():  # who makes the run folder
            run = open_run(settings, images, out, override=override, quiet=not processes.first)
        with run.held() if processes.first else nullcontext():
            weights = None if begun is None or begun.path == out else begun.model()[0]
            for warning in begun.warnings if begun is not None and processes.first else ():
                say(warning)
            trainer = Trainer(settings, images, chosen, run, world=processes, start=weights)
            before, minutes = trainer.step, settings.training.minutes
            if there and minutes is not None and trainer.seconds < 60 * minutes:
                _leave_threads(settings, chosen, processes)
            looks = Looks(None if settings.training.shard else images, keeping)
            monitors = open_monitors(shown, run, settings, tell=say) if processes.first else []
            # A budget of time is the person's, not the loop's; a pause, and what follows it, is not part of it.
            began = None if before else context.obj
            finished = run_training(trainer, run, looks, monitors, quiet=not processes.first, began=began)
        if not processes.first:
            return
        if not finished:
            say(f"Interrupted and saved after step {trainer.step}: repeat the command to go on.")
            raise typer.Exit(130)
        if trainer.step == before:
            say(f"'{out}' was finished before, after {before} steps: repeat with more --steps or --minutes to go on.")
            return
        say(f"Trained: '{out}'. Now sample from it: {command('sample', out, '--out', out / 'samples')}")


def read(
    settings: Config, out: Path, keeping: Keeping, *, quiet: bool = False
) -> tuple[Config, ImageSet | StreamedImages]:
    """Loads the images and fills in their size, channels and classes.

    Args:
        settings: what is to be read.
        out: the run folder, which must be one or be nothing.
        keeping: of decoded images.
        quiet: whether this is one of many processes that leaves it to another to speak.
    """
    from clearwater.data import lasting_name
    from clearwater.training import RunFolder

    RunFolder.refuse_other(out)  # before a large folder is read for nothing
    data = settings.data
    begun = (out / "config.toml").is_file() and any((out / "checkpoints").glob("[0-9]*"))
    if begun and data.held_out is None:  # as many as when it was begun
        data = data.model_copy(update={"held_out": RunFolder.open(out).config().data.held_out})
    images = keeping.open(data, chooses=not begun, quiet=quiet)
    channels, height, width = images.shape
    source = lasting_name(data.source)  # the run can be gone on with from anywhere
    if not source.isascii() and source.encode(errors="replace") != source.encode(errors="surrogateescape"):
        raise InputError(f"The path {source!r} is not valid text, and a run's settings are: rename the folder.")
    classes = images.classes if settings.data.labels else None
    found = data.model_copy(
        update={
            "source": source,
            "size": (height, width),
            "channels": channels,
            "held_out": images.held_out if images.held_out is None or not begun else data.held_out,
            "classes": classes,
        }
    )
    if not quiet:
        say_skipped(images.skipped)
        say(
            f"{len(images):,} images of {height} × {width}, {'grey' if channels == 1 else 'RGB'}"
            + (f", of {len(classes)} classes" if classes else "")
            + (f"; {images.held_out:,} more are held out, to measure with." if images.held_out else ".")
        )
    return settings.model_copy(update={"data": found}), images


def open_run(
    settings: Config, images: ImageSet | StreamedImages, out: Path, *, override: bool = False, quiet: bool = False
) -> RunFolder:
    """The run folder, made if it is not there; one of many processes that is quiet writes nothing of its own."""
    import torch

    from clearwater.assembly import build_denoiser
    from clearwater.files import write_atomically
    from clearwater.training import RunFolder

    build_denoiser(settings, torch.device("meta"))  # refuses a model that cannot be, before anything is written
    run = RunFolder.create(out, settings, override=override)
    if images.skipped and not quiet:
        write_atomically(out / "skipped.txt", "\n".join([*images.skipped, ""]).encode(errors="surrogateescape"))
    return run


def _begun(start: Path, out: Path) -> RunFolder:
    """The run to start from; if that is gone, the one in `out` that has started from it and can go on without."""
    from clearwater.training import RunFolder

    try:
        return RunFolder.open(start)
    except InputError:
        if not (out / "config.toml").is_file():
            raise
        run = RunFolder.open(out)
        if run.config().training.start != str(start.resolve()) or run.latest() is None:
            raise
        return run


def _unseen_by_both(settings: Config, begun: RunFolder) -> Config:
    """The settings with no image held out that the run to start from has seen, unless somebody says so."""
    from clearwater.data import lasting_name, unseen_split

    data, before = settings.data, begun.config().data
    if lasting_name(data.source) != before.source or unseen_split(before.source) == "held_out":
        return settings
    if data.held_out is None:
        return settings.model_copy(update={"data": data.model_copy(update={"held_out": before.held_out or 0})})
    if data.held_out > (before.held_out or 0):
        say(
            f"The run to start from has seen some of the {data.held_out:,} images that are held out now, so figures on "
            f"them are too good: it held out {before.held_out or 0:,}."
        )
    return settings


def _leave_threads(settings: Config, device: torch.device, world: World) -> None:
    """Leaves processors to other programs if training is faster so; of a run of steps it would change the bits."""
    import torch

    from clearwater.training.planning import undisturbed_threads

    with live_line("measuring", shown=world.first) as report:
        threads, reason = undisturbed_threads(settings, device, world, lambda text: report(0.0, text))
    torch.set_num_threads(threads)
    if reason is not None:
        say(reason)


def _planned(
    settings: Config, given: set[str], out: Path, device: torch.device, world: World, *, began: float
) -> Config:
    """The settings with what was not given chosen for the images and the time, or as it was chosen for the run."""
    from clearwater.training import RunFolder
    from clearwater.training.planning import PLANNED, plan, shaped, with_settings

    if (out / "config.toml").is_file():
        before = RunFolder.open(out).config().model_dump()
        names = [name.split(".") for name in PLANNED if name not in given]
        return with_settings(settings, {f"{section}.{name}": before[section][name] for section, name in names})
    if settings.training.minutes is None:
        return shaped(settings, given)
    with live_line("measuring", shown=world.first) as report:
        left = world.told(settings.training.minutes - (time.monotonic() - began) / 60)
        made = plan(settings, given, left, device, world, lambda text: report(0.0, text))
    for reason in made.reasons if world.first else ():
        say(reason)
    return made.config


def run_training(
    trainer: Trainer,
    run: RunFolder,
    looks: Looks,
    monitors: Sequence[Monitor] = (),
    *,
    quiet: bool = False,
    began: float | None = None,
) -> bool:
    """Trains with a live line, a log, pictures and a page in the run folder. Returns whether it came to its end.

    Args:
        trainer: what trains.
        run: where everything is written.
        looks: what the model is looked at with on the way.
        monitors: who else is told.
        quiet: whether this is one of many processes that trains, and leaves the rest to another.
        began: when the time that is given began, on the monotonic clock; now if None.
    """
    from clearwater.training import Stopped

    def spent() -> float:
        return 0.0 if began is None else time.monotonic() - began

    if quiet:
        trainer.seconds += spent()
        with _interruption_stops(trainer):
            return any(isinstance(event, Stopped) and event.finished for event in trainer)
    for warning in run.warnings:
        say(warning)
    parameters = sum(parameter.numel() for parameter in trainer.denoiser.network.parameters())
    say(f"{parameters / 1e6:.2f} M parameters." + (f" Going on from step {trainer.step}." if trainer.step else ""))
    with live_line("training") as report, _interruption_stops(trainer):
        watch = Watch(trainer, run, report, looks, monitors)
        trainer.seconds += spent()  # a budget of time is the person's, not the loop's
        for event in trainer:
            watch(event)
    watch.close()
    return watch.finished


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
