"""`clearwater compare`: runs side by side, in a table and a picture, measured in one way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.comparing import Meter, compared, evaluations_of
from clearwater.cli.comparison import as_object, picture, table
from clearwater.cli.findings import Way
from clearwater.cli.loading import Keeping, data_to_measure
from clearwater.cli.making import refuse_new_noise
from clearwater.cli.measuring import Real, real_images
from clearwater.cli.models import image_shape
from clearwater.cli.options import AsJson, Device, Features, HeldOut, Seed, SeenCache, refuse_picture
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import live_line, say
from clearwater.cli.repeating import repeating
from clearwater.cli.subjects import Subject, names_of, subject
from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.config import DataConfig
    from clearwater.training import RunFolder

__all__ = ["compare"]

_EVALUATIONS = "5,10,20,50"
_MIDDLE = 20  # evaluations of the images that are shown, and of distances against time; fewer if it was not asked for
_PNG = b"\x89PNG\r\n\x1a\n"


def compare(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Runs, one or more.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(help="The images that samples are measured against.", show_default="those of the runs"),
    ] = None,
    held_out: HeldOut = None,
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="Samples of each distance.")] = 2000,
    features: Features = None,
    sampler: Annotated[str, typer.Option(help="Of the samples, as of `clearwater sample`.")] = "unipc",
    evaluations: Annotated[
        str, typer.Option(help="Of the network for an image: how many, with commas between.")
    ] = _EVALUATIONS,
    out: Annotated[Path, typer.Option("--out", help="The picture, .png.")] = Path("compare.png"),
    seed: Seed = 0,
    cache: SeenCache = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Compare RUNs: quality by evaluations and by training time, bits/dim, images of the same noise.

    Quality is the Fréchet distance of n samples to the images of DATA. All that is found is kept with the runs:
    interrupted or repeated, the same command makes what is missing.
    """
    from clearwater.assembly import pick_device
    from clearwater.pictures import write_picture
    from clearwater.sampling import SAMPLERS
    from clearwater.training import RunFolder
    from clearwater.world import World

    keep_freed_memory()
    _refuse_out(out)
    chosen = pick_device(device)
    steps = _steps(sampler, evaluations)
    folders = [RunFolder.open(run) for run in runs]
    if SAMPLERS[sampler].stochastic:
        for folder in folders:
            refuse_new_noise(folder, f"the sampler {sampler} adds noise on the way")
    keeping = Keeping(cache)
    of = _data(folders, data, keeping, unseen=held_out)
    _refuse_levels(folders, steps)
    subjects = [subject(name, folder) for name, folder in zip(names_of(runs), folders, strict=True)]
    real = real_images(of, held_out, features=features, device=device, cache=cache, processes=World())
    own = all(folder.config().data.source == of.source for folder in folders)
    _say_what_is_lacking(real, subjects, n, own=own)
    middle = max((each for each in steps if each <= _MIDDLE), default=min(steps))
    way = Way(n, seed, sampler, steps, middle, real, own, _digests(real), chosen, repeating(context), keeping)
    try:
        with live_line("comparing") as line:
            meter = Meter(line, sum(evaluations_of(each, way) for each in subjects))
            found = [compared(each, way, meter) for each in subjects]
            line(1.0, "")
    except KeyboardInterrupt:
        say("Interrupted: what was found is kept with the runs; repeat the command to go on.")
        raise typer.Exit(130) from None
    write_picture(out, picture(found, way))
    if as_json:
        print(json.dumps({**as_object(found, way, of), "picture": str(out)}, indent=1))
    else:
        print(table(found, way))
    say(f"Look at {out}")


def _refuse_out(out: Path) -> None:
    """Refuses a picture that cannot be written, or that would take the place of something else."""
    refuse_picture(out, ".png")
    if out.is_file():
        with out.open("rb") as file:
            begins = file.read(len(_PNG))
        if begins and begins != _PNG:
            raise InputError(f"'{out}' is there and is no PNG: give the picture another name with --out.")


def _data(folders: Sequence[RunFolder], data: str | None, keeping: Keeping, *, unseen: str | None) -> DataConfig:
    """The images that all are measured against.

    Raises:
        InputError: the runs make images of several shapes, it is not clear which images to take, or these have
            changed.
    """
    from clearwater.evaluation.extractors import text_of

    configs = [folder.config().data for folder in folders]
    shapes = [image_shape(folder.path, config) for folder, config in zip(folders, configs, strict=True)]
    for folder, shape in zip(folders, shapes, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"'{folder.path}' makes images of {text_of(shape)} and '{folders[0].path}' of {text_of(shapes[0])}: "
                "quality can be compared only of images of one size and as many colours."
            )
    own = configs[0].model_copy(update={"labels": False})
    other = next(
        (each for each in configs if (each.source, each.held_out or 0) != (own.source, own.held_out or 0)), None
    )
    if other is None:
        for folder in folders:  # of none may they have changed
            own = data_to_measure(folder, data, keeping, unseen=unseen)
        return own
    if data is None:
        raise InputError(
            f"The runs were trained on different images ({_told(own)}; {_told(other)}): say with --data against which "
            "all are to be measured."
        )
    return own.model_copy(update={"source": data, "held_out": 0})


def _told(data: DataConfig) -> str:
    return f"'{data.source}'" + (f" with {data.held_out:,} held out" if data.held_out else "")


def _steps(sampler: str, text: str) -> dict[int, int]:
    """How many steps the sampler takes for each number of evaluations, which are rising.

    Raises:
        InputError: there is no such sampler, it chooses its own steps, or the text is no list of numbers.
    """
    from clearwater.sampling import SAMPLERS
    from clearwater.sampling import sampler as named_sampler

    named_sampler(sampler)  # refuses another name
    if not SAMPLERS[sampler].evaluations.isdecimal():
        raise InputError(
            f"The sampler {sampler} takes as many evaluations as it needs: choose another to compare with."
        )
    each = int(SAMPLERS[sampler].evaluations)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(
            f"--evaluations are whole numbers above zero with commas between, as {_EVALUATIONS}, not '{text}'."
        )
    wanted = sorted(set(map(int, words)))
    if wanted[0] < each:
        raise InputError(f"A step of {sampler} takes {each} evaluations: leave {wanted[0]} out of --evaluations.")
    for count in wanted:
        if count % each:
            say(f"A step of {sampler} takes {each} evaluations: {count // each * each} are taken for {count}.")
    return {count // each * each: count // each for count in wanted}


def _refuse_levels(folders: Sequence[RunFolder], steps: dict[int, int]) -> None:
    """Refuses more steps than a run has levels."""
    for folder in folders:
        levels = folder.config().chain.levels
        most = max(steps, key=steps.__getitem__)
        if steps[most] > levels:
            raise InputError(
                f"'{folder.path}' has {levels} levels, so a sampler takes at most {levels} steps, and {most} "
                f"evaluations are {steps[most]}: give fewer --evaluations."
            )


def _digests(real: Real) -> dict[str, str | None]:
    """Hashes of the real images, which all distances depend on."""
    from clearwater.data import ImageSet

    images = {"data": real.data.images, "held_out": None if real.held_out is None else real.held_out.images}
    return {name: each.digest() if isinstance(each, ImageSet) else None for name, each in images.items()}


def _say_what_is_lacking(real: Real, subjects: Sequence[Subject], n: int, *, own: bool) -> None:
    real.say_if_few(n)
    if real.held_out is None:
        whose = "training images" if own else "the images that samples are measured against"
        say(f"No images are held out, so there is no floor, and bits/dim is of {whose}: name some by --held-out.")
    without = [each.name for each in subjects if not each.moments]
    if without:
        say(
            f"No averages were kept on the way of {', '.join(without)}: of the time there is the end alone; train with "
            "training.ema_snapshots for more."
        )
