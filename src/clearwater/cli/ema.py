"""`clearwater ema`: averages of the weights of another length than the one that a run was made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping, data_to_measure
from clearwater.cli.models import image_shape
from clearwater.cli.options import AsJson, Cache, Device, NoCache, Run, refuse_picture
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import command, live_line, say
from clearwater.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from clearwater.data.batches import Images
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.training import Place, RunFolder

__all__ = ["ema"]

_LENGTHS = (0.03, 0.05, 0.075, 0.10, 0.15, 0.20)
_IMAGES, _PASSES = 512, 8  # of the loss: images, and levels each
_BATCH = 100


@dataclass(frozen=True)
class Quality:
    """How good a run is with an average of one length.

    Attributes:
        length: of the average, as a part of the run.
        missed: the part of its profile that could not be made of what was kept.
        loss: the run's own objective, on images that it has not seen if there are any, the same levels and noise for
            every length.
        distance: the Fréchet distance of samples to the training images in the features of the library's classifier
            of garments; None where none were asked for, or that classifier does not see such images.
    """

    length: float
    missed: float
    loss: float
    distance: float | None


def ema(
    run: Run,
    length: Annotated[
        float | None, typer.Option(help="Make the average of this part of the run, such as 0.08.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where: a new run folder, to sample from.", show_default=False)
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Compare averages of these lengths.", show_default=", ".join(map(str, _LENGTHS))),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=0, help="Samples for the distance of each; 0 for none.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Also draw the comparison, .png.", show_default=False)] = None,
    as_json: AsJson = False,
    cache: Cache = None,
    no_cache: NoCache = False,
    device: Device = "auto",
) -> None:
    """Choose the length of the average of RUN's weights after training: with --length make one, without compare some.

    The run must have kept copies: training.ema_snapshots above 0, as the recipe small-grey has it.
    """
    from clearwater.assembly import pick_device
    from clearwater.training import RunFolder

    keep_freed_memory()
    folder = RunFolder.open(run)
    if (length is None) != (out is None):
        raise InputError("An average is made with both of --length and --out; without both, lengths are compared.")
    if length is not None and out is not None:
        _make(folder, length, out)
        return
    if plot is not None:
        refuse_picture(plot, ".png")
    keeping = Keeping(cache, no_cache)
    data_to_measure(folder, None, keeping)  # refuses images that have changed
    chosen, step = pick_device(device), _place(folder).step
    found = [_quality(folder, step, each, n, keeping, chosen) for each in _parsed(lengths)]
    if as_json:
        print(json.dumps({"run": str(run), "lengths": [vars(each) for each in found]}, indent=1))
    else:
        print("length     loss" + ("  distance (garments-64)" if found[0].distance is not None else ""))
        for each in found:
            print(
                f"{each.length:6.3f}  {each.loss:7.5f}" + ("" if each.distance is None else f"  {each.distance:8.4f}")
            )
    if plot is not None:
        from clearwater.pictures import plot_lengths, write_picture

        distances = [each.distance for each in found if each.distance is not None]
        drawn = plot_lengths([each.length for each in found], [each.loss for each in found], distances or None)
        write_picture(plot, drawn)
    best = min(found, key=lambda each: each.loss if each.distance is None else each.distance)
    say(f"Make the best of them: {command('ema', run, '--length', f'{best.length:g}', '--out', f'{run}-ema')}")


def _parsed(lengths: str | None) -> list[float]:
    if lengths is None:
        return list(_LENGTHS)
    try:
        return [float(word) for word in lengths.split(",")]
    except ValueError:
        raise InputError(f"--lengths are numbers with commas between, such as 0.05,0.1, not '{lengths}'.") from None


def _make(folder: RunFolder, length: float, out: Path) -> None:
    from clearwater.training import Checkpoint, RunFolder

    RunFolder.refuse_other(out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"'{out}' holds a run already: give --out an empty or a new folder.")
    place = _place(folder)
    average, missed = _average(folder, place.step, length)
    made = RunFolder.create(out, folder.config())
    made.save(Checkpoint(place, average, average, {}), folder.config())
    say(
        f"Made: '{out}', the average of {length:g} of the run ({missed:.1%} of its profile is missed). Now sample from "
        f"it: {command('sample', out, '--out', out / 'samples')}"
    )


def _place(folder: RunFolder) -> Place:
    """Where the run is, and what was passed over to find it, said."""
    place = folder.model()[1]
    for warning in folder.warnings:
        say(warning)
    return place


def _average(folder: RunFolder, step: int, length: float) -> tuple[dict[str, Tensor], float]:
    """The average, and the part of its profile that it misses; what was passed over is said the first time."""
    snapshots = folder.snapshots
    before = len(snapshots.warnings)
    made = snapshots.average(step, length)
    for warning in snapshots.warnings[before:]:
        say(warning)
    return made


def _quality(folder: RunFolder, step: int, length: float, n: int, keeping: Keeping, device: torch.device) -> Quality:
    from clearwater.training import load_denoiser

    average, missed = _average(folder, step, length)
    model = load_denoiser(folder, device, tensors=average)
    with live_line(f"length {length:g}") as report:
        share = 0.5 if n else 1.0
        loss = _loss(folder, model, keeping, lambda fraction: report(fraction * share, "loss"))
        distance = _distance(folder, model, n, keeping, lambda fraction: report(share + fraction / 2, "samples"))
    return Quality(length, missed, loss, distance)


def _loss(folder: RunFolder, model: NetworkDenoiser, keeping: Keeping, report: Callable[[float], None]) -> float:
    from clearwater.assembly import build_objective
    from clearwater.data import unseen_split
    from clearwater.evaluation.unseen import objective_loss, some

    data = folder.config().data
    x_0, labels = some(keeping.open(data, unseen_split(data.source, data.held_out)), _IMAGES)
    objective = build_objective(folder.config())
    labels = labels if data.labels else None
    return objective_loss(model, objective, x_0, labels=labels, passes=_PASSES, report=report)


def _distance(
    folder: RunFolder, model: NetworkDenoiser, n: int, keeping: Keeping, report: Callable[[float], None]
) -> float | None:
    from clearwater.data import ImageSet
    from clearwater.denoisers import Clipped
    from clearwater.evaluation import Moments, extractor, features_of, frechet_distance
    from clearwater.pictures import to_uint8
    from clearwater.sampling import UniPC, sample

    data = folder.config().data
    shape = image_shape(folder.path, data)
    if n == 0:
        return None
    if shape != (1, 28, 28):
        raise InputError(f"A distance is measured of grey images of 28 × 28, and the run's are {shape}: leave out --n.")
    seeing = extractor("garments", shape)

    def moments(images: Images) -> Moments:  # in parts: a run's images may be more than the memory holds
        return Moments.of(features_of(images, seeing).features)

    chain = model.chain.strided(min(20, model.chain.T))
    samples = to_uint8(sample(Clipped(model), n, shape, batch=_BATCH, chain=chain, stepper=UniPC()))
    report(1.0)
    return frechet_distance(moments(ImageSet(samples.cpu())), moments(keeping.load(data)))
