"""`clearwater measure`: how near samples are to images, and whether they are copies of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping, data_to_measure, load
from clearwater.cli.measuring import real_images, see
from clearwater.cli.models import image_shape
from clearwater.cli.options import AsJson, Batch, Device, Features, HeldOut, Seed, SeenCache
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import live_line, say
from clearwater.cli.repeating import keep_with
from clearwater.errors import InputError

if TYPE_CHECKING:
    from clearwater.evaluation import Extractor, Measurement

__all__ = ["measure"]

_SAMPLES = 10_000
_TITLES = {
    "frechet_distance": "Fréchet distance",
    "frechet_distance_at_infinity": "  of infinitely many",
    "kernel_distance": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception score",
    "class_balance": "classes out of balance",
    "sliced_wasserstein": "sliced Wasserstein, in pixels",
    "closer_than_held_out": "nearer to training images",
    "copying_score": "copying, z",
    "copies": "copies",
    "copying_score_in_pixels": "copying in pixels, z",
    "copies_in_pixels": "copies in pixels",
}


def measure(
    context: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="RUN|SAMPLES",
            help="A run, of which samples are made first; or samples: a folder, .npz or .zip of images.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(help="The images that the model was trained on.", show_default="those of the run"),
    ] = None,
    held_out: HeldOut = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=2, help="How many samples.", show_default="10000; all of a folder")
    ] = None,
    features: Features = None,
    only: Annotated[
        str | None,
        typer.Option(help="Some figures alone, with commas between, as --json names them.", show_default="all"),
    ] = None,
    neighbour: Annotated[
        int, typer.Option("-k", min=1, help="Of precision, recall, density, coverage: which neighbour.")
    ] = 5,
    sampler: Annotated[str, typer.Option(help="Of RUN's samples, as of `clearwater sample`.")] = "unipc",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of RUN's samples.", show_default="20; ancestral: all levels")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Of RUN's samples.", show_default="none")] = None,
    guidance: Annotated[float, typer.Option(help="Of RUN's samples.")] = 1.0,
    seed: Seed = 0,
    batch: Batch = None,
    out: Annotated[
        Path | None, typer.Option(help="Where RUN's samples are kept.", show_default="RUN/measured/STEP")
    ] = None,
    cache: SeenCache = None,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Measure samples against the images of DATA: how near, how varied, whether copied; each figure with its floor.

    The floor of a figure is what real images that were held out have in the place of the samples: no model does better.
    """
    from clearwater.cli.sample import sample
    from clearwater.config import DataConfig
    from clearwater.data import ImageSet
    from clearwater.data.images import first_size
    from clearwater.evaluation import extractor, measured
    from clearwater.evaluation.measurement import refuse_unknown
    from clearwater.training import RunFolder
    from clearwater.world import world

    keep_freed_memory()
    run = RunFolder.open(Path(subject)) if (Path(subject) / "config.toml").is_file() else None
    if run is None and (out, steps, classes, guidance, sampler) != (None, None, None, 1.0, "unipc"):
        raise InputError(f"'{subject}' is no run, so no samples are made: leave out the options of sampling.")
    if run is None and not Path(subject).exists():
        raise InputError(f"'{subject}' does not exist: give a run, or samples as a folder, .npz or .zip of images.")
    wanted = None if only is None else [name.strip() for name in only.split(",")]
    refuse_unknown(wanted or ())
    if run is None and data is None:
        raise InputError("Samples are measured against images: give those that the model was trained on as DATA.")
    of = DataConfig(source=data or "")
    if run is not None:
        of = data_to_measure(run, data, Keeping(cache), unseen=held_out)
        extractor(features, image_shape(run.path, of))  # refuses what there is not, before samples are made
        out = out or run.path / "measured" / f"{run.model()[1].step:09d}"
        sample(
            run.path,
            out,
            n=n or _SAMPLES,
            seed=seed,
            batch=batch,
            sampler=sampler,
            steps=steps,
            classes=classes,
            guidance=guidance,
            at_least=True,
            device=device,
        )
        subject = str(out)
    with world() as processes:
        with processes.after_the_first():  # who keeps what is decoded
            size = of.size or first_size(subject)
            samples = load(subject, size=size, channels=of.channels, cache=cache, quiet=not processes.first)
            if n is not None and len(samples) < n and processes.first:
                say(f"'{subject}' holds {len(samples):,} images: all are taken, and not {n:,}.")
            samples = ImageSet(samples.images[: n or (_SAMPLES if run is not None else None)])
        of = of.model_copy(update={"size": size, "channels": samples.shape[0]})
        real = real_images(of, held_out, features=features, device=device, cache=cache, processes=processes)
        seeing = real.seeing
        seen = see("samples", samples, seeing, cache, processes)
        if not processes.first:
            return
        if wanted is None or {"frechet_distance", "frechet_distance_at_infinity"} & set(wanted):
            real.say_if_few(len(samples))
        with live_line("measuring") as line:
            found = measured(
                seen,
                real.data,
                real.held_out,
                features=seeing.name,
                only=wanted,
                k=neighbour,
                seed=seed,
                report=lambda fraction: line(fraction, "figures"),
            )
    images = {"samples": len(samples), "data": len(real.data)}
    told = {
        "samples": subject,
        "data": of.source,
        "images": images if real.held_out is None else {**images, "held-out": len(real.held_out)},
        "features": seeing.name,
        "is_fid": seeing.is_fid,
        "images_needed": real.needed,
        "figures": {compared.figure.name: compared.as_dict() for compared in found.figures},
        "left_out": found.left_out,
    }
    if as_json:
        print(json.dumps(told, indent=1))
    else:
        _show(found, seeing)
    if run is not None:
        keep_with(run, "fidelity", context, told)


def _show(found: Measurement, seeing: Extractor) -> None:
    """The figures as a table."""
    print(f"{'':32}{'value':>10}  {'95%':^21}  {'floor':>10}  {'95%':^21}")
    for compared in found.figures:
        figure, floor = compared.figure, compared.floor
        title = _TITLES[figure.name]
        if seeing.is_fid:
            title = title.replace("Fréchet distance", "FID")
        low, high = figure.interval
        print(
            f"{title:32}{figure.value:10.4g}  {f'{low:.4g} … {high:.4g}':^21}  "
            + (
                ""
                if floor is None
                else f"{floor.value:10.4g}  {f'{floor.interval[0]:.4g} … {floor.interval[1]:.4g}':^21}"
            )
            + (
                f"  ({floor.n:,} images; of as many samples {compared.at_floor.value:.4g})"
                if compared.at_floor and floor
                else ""
            )
        )
    first = found.figures[0].figure if found.figures else None
    if first is not None:
        print(f"{first.n:,} samples against {first.of:,} images, in the features {seeing.name}.")
    for name, why in found.left_out.items():
        say(f"Left out, {_TITLES[name].strip()}: {why}")
