"""Options that several commands share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from clearwater.cli.models import VarianceOption
from clearwater.errors import InputError

__all__ = [
    "BATCH",
    "AsJson",
    "Batch",
    "Cache",
    "Count",
    "Data",
    "Device",
    "Features",
    "HeldOut",
    "Levels",
    "NoCache",
    "Out",
    "Run",
    "Seed",
    "SeenCache",
    "Variance",
    "refuse_picture",
]

BATCH = 64

Data = Annotated[
    str,
    typer.Argument(
        help="fashion-mini (built in), a folder, .zip, .tar, .npz, .parquet or IDX of images; docs/data.md.",
        show_default=False,
    ),
]
Run = Annotated[Path, typer.Argument(help="The folder that `clearwater train --out` wrote.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", help="The folder to write to.", show_default=False)]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Another seed, other images; image i depends on the seed and i alone.")
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where to compute; auto: a GPU if any.")
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="How many at a time; does not change them.", show_default="64")
]
Count = Annotated[int, typer.Option("--n", "-n", min=1, help="How many images.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Where decoded images are kept.", show_default="~/.cache/clearwater")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Decode images when they are needed, and keep none.")]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        help="What sees the images: garments, random, pixels, inception:WEIGHTS, timm:MODEL:WEIGHTS, hf:FOLDER.",
        show_default="garments for grey 28 × 28, else random",
    ),
]
HeldOut = Annotated[
    str | None,
    typer.Option(
        "--held-out",
        help="Real images that no model was trained on, for the floors and for what takes unseen images.",
        show_default="DATA's own, if some are held out",
    ),
]
SeenCache = Annotated[
    Path | None,
    typer.Option("--cache", help="Where decoded images and features are kept.", show_default="~/.cache/clearwater"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Levels = Annotated[
    int | None,
    typer.Option("--levels", min=1, help="Steps of the sampler.", show_default="all levels of the chain"),
]
Variance = Annotated[
    VarianceOption | None,
    typer.Option(
        "--variance",
        help="Of the reverse steps; optimal is measured once, network is what `clearwater variance` trained.",
        show_default="the run's",
    ),
]


def refuse_picture(out: Path, *kinds: str) -> None:
    """Refuses, with an `InputError` and before any work is done, a picture that cannot be written there.

    Args:
        out: the file.
        kinds: the endings that it may have, such as ".png".
    """
    if out.suffix.lower() not in kinds:
        raise InputError(f"This picture is written as {' or '.join(kinds)}, not as '{out.name or out}'.")
    if not out.parent.is_dir():
        raise InputError(f"There is no folder '{out.parent}' to write '{out.name}' into: make it first.")
    if out.is_dir():
        raise InputError(f"'{out}' is a folder: give the picture another name.")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(
            f"'{out.name}' cannot be written into '{out.parent}' ({error.strerror}): give it another place."
        ) from None
