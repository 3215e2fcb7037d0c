"""`clearwater train`: train a model on images, or go on with one that was interrupted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping
from clearwater.cli.opening import begun_from, open_run, read, refuse_other_model, unseen_by_both
from clearwater.cli.options import Cache, Data, Device, NoCache, Out
from clearwater.cli.process import keep_freed_memory, set_float32
from clearwater.cli.progress import command, live_line, say
from clearwater.cli.watching import Looks, Watch

if TYPE_CHECKING:
    import torch

    from clearwater.config import Config
    from clearwater.training import RunFolder, Trainer
    from clearwater.training.monitors import Monitor
    from clearwater.world import World

__all__ = ["run_training", "train"]

_FIRST_RECIPE = "small-grey"  # until the images are known


def train(
    context: typer.Context,
    data: Data,
    out: Out,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Where the settings start from: small-grey, small-colour, medium, portrait, flow, ddpm-cifar10.",
            show_default="as suits the images, as wide as the time allows",
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
    minutes: Annotated[
        float | None, typer.Option(help="End after this much time.", show_default="the recipe's")
    ] = None,
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
    begun = None if start is None else begun_from(start, out)
    keeping = Keeping(cache, no_cache)
    shown = [name.strip() for name in log.split(",")] if log else []
    of_start = None if begun is None else begun.config()

    def settings_of(name: str) -> Config:
        return resolve(recipe=name, start=of_start, file=config, sets=set_ or (), options=options)

    settings = settings_of(recipe or _FIRST_RECIPE)
    if of_start is not None:
        refuse_other_model(of_start, settings, recipe)
    if begun is not None:
        settings = unseen_by_both(settings, begun)
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
        if recipe is None:
            settings = _suited(settings, settings_of, quiet=not processes.first)
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


def _suited(settings: Config, settings_of: Callable[[str], Config], *, quiet: bool) -> Config:
    """The settings of the recipe that suits the images, which are those of `settings`."""
    from clearwater.recipes import suited_recipe

    data = settings.data
    assert data.channels is not None and data.size is not None  # noqa: PT018
    name = suited_recipe(data.channels, data.size)
    suited = settings_of(name)
    found = {"source", "size", "channels", "held_out", "classes"}
    if not quiet:
        ends = suited.training.minutes
        of_start = " Model, chain and objective are those of the run to start from." if suited.training.start else ""
        ending = f" Training ends after {ends:g} min." if ends is not None else ""
        say(f"The recipe {name} suits them.{of_start}{ending}")
    update = data.model_dump(include=found)
    if suited.objective.coupling == "reflow":  # images have a noise of their own as they are
        update["flip"] = data.flip
    return suited.model_copy(update={"data": suited.data.model_copy(update=update)})


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
