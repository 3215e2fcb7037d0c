"""What a run begins with: its images and its folder, and the run that it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clearwater.cli.loading import Keeping
from clearwater.cli.progress import say, say_skipped
from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.config import Config
    from clearwater.data import ImageSet, StreamedImages
    from clearwater.training import RunFolder

__all__ = ["begun_from", "open_run", "read", "refuse_other_model", "unseen_by_both"]


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
    from clearwater.data import lasting_name, unseen_split
    from clearwater.training import RunFolder

    RunFolder.refuse_other(out)  # before a large folder is read for nothing
    data = settings.data
    begun = (out / "config.toml").is_file() and any((out / "checkpoints").glob("[0-9]*"))
    if begun and data.held_out is None:  # as many as when it was begun
        data = data.model_copy(update={"held_out": RunFolder.open(out).config().data.held_out})
    if data.held_out is None and settings.objective.coupling == "reflow":  # images are known by their numbers
        data = data.model_copy(update={"held_out": 0})
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
        own = "; its own held-out part is measured with." if unseen_split(source) == "held_out" else "."
        say(
            f"{len(images):,} images of {height} × {width}, {'grey' if channels == 1 else 'RGB'}"
            + (f", of {len(classes)} classes" if classes else "")
            + (f"; {images.held_out:,} more are held out, to measure with." if images.held_out else own)
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


def begun_from(start: Path, out: Path) -> RunFolder:
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


def refuse_other_model(begun: Config, settings: Config, recipe: str | None) -> None:
    """Refuses to begin with weights that have learned something else than is trained now, or than a recipe is of."""
    from clearwater.settings import resolve

    before, now = begun.objective.target, settings.objective.target
    if before != now:
        raise InputError(
            f"The run to start from predicts {before}, and weights that have learned that do not predict {now}: leave "
            "objective.target as it is there."
        )
    levels_before, levels_now = begun.chain.name, settings.chain.name
    if levels_before != levels_now:
        if now == "path_velocity":
            raise InputError(
                f"The run to start from predicts the velocity of the chain {levels_before}, which is not that of "
                f"{levels_now}: leave chain.name as it is there."
            )
        say(
            f"The run to start from knows the noise of the chain {levels_before}: it has to learn that of {levels_now}."
        )
    if recipe is not None:
        named = resolve(recipe=recipe)
        of_recipe, of_run = ((each.chain.name, each.objective.target) for each in (named, settings))
        if of_recipe != of_run:
            raise InputError(
                f"The recipe {recipe} trains {of_recipe[1]} on the chain {of_recipe[0]}, and the run to start from is "
                f"of {of_run[1]} on {of_run[0]}: leave out --recipe, or start from a run of that recipe."
            )


def unseen_by_both(settings: Config, begun: RunFolder) -> Config:
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
