"""`clearwater sample`: images from a trained model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clearwater.cli.models import VarianceOption, load_model
from clearwater.cli.options import Batch, Device, Levels, Out, Run, Seed, Variance
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import live_line, say
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clearwater.chains import Chain
    from clearwater.denoisers import Denoiser
    from clearwater.sampling import StepState

__all__ = ["load_for_sampling", "sample", "sample_batches"]

_MANIFEST = "samples.json"
_PART = ".part"
_IN_GRID = 100
_BATCH = 64


def sample(
    run: Run,
    out: Out,
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 16,
    seed: Seed = 0,
    batch: Batch = None,
    sampler: Annotated[Literal["ancestral"], typer.Option(help="How to sample.")] = "ancestral",
    levels: Levels = None,
    variance: Variance = None,
    clip: Annotated[bool, typer.Option("--clip/--no-clip", help="Clip each prediction to the data's range.")] = True,
    npz: Annotated[bool, typer.Option("--npz", help="Also write samples.npz: images, uint8, (N, H, W, C).")] = False,
    device: Device = "auto",
) -> None:
    """Sample from RUN: writes grid.png, and one PNG an image from 000000.png on."""
    import numpy as np
    import torch

    from clearwater.pictures import enlarged, grid
    from clearwater.pictures.images import to_image

    keep_freed_memory()
    denoiser, shape, chosen = load_for_sampling(run, variance=variance, clip=clip, device=device)
    chain = denoiser.chain if levels is None else denoiser.chain.strided(levels)
    made: dict[str, Any] = {
        "run": str(run),
        "n": n,
        "seed": seed,
        "sampler": sampler,
        "levels": chain.T,
        "variance": variance or "the run's",
        "clip": clip,
    }
    _refuse_other(out)
    # Made in a folder within, which is on the same disk, then moved up: an earlier sample stays until this one
    # is complete.
    new = not out.exists()
    part = out / _PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        kept: list[Tensor] = []
        done = 0
        with live_line("sampling") as report:
            for images in sample_batches(
                denoiser, chain, shape, n, seed, min(batch or _BATCH, n), chosen, lambda at: report(at, f"{n} images")
            ):
                for image in images:
                    to_image(image).save(part / f"{done:06d}.png")
                    done += 1
                if npz or sum(len(earlier) for earlier in kept) < _IN_GRID:
                    kept.append(images)
        every = torch.cat(kept)
        enlarged(grid(every[:_IN_GRID])).save(part / "grid.png")
        if npz:
            np.savez_compressed(part / "samples.npz", images=every.permute(0, 2, 3, 1).numpy())
        (part / _MANIFEST).write_text(json.dumps(made, indent=1), encoding="utf-8")
    except BaseException:
        shutil.rmtree(out if new else part, ignore_errors=True)
        raise
    if (out / _MANIFEST).is_file():
        say(f"The earlier sample in '{out}' is replaced.")
        _empty(out)
    for path in part.iterdir():
        path.rename(out / path.name)
    part.rmdir()
    say(f"{n} image(s) in '{out}'; look at {out / 'grid.png'}")


def load_for_sampling(
    run: Path, *, variance: VarianceOption | None, clip: bool, device: str
) -> tuple[Denoiser, tuple[int, int, int], torch.device]:
    """The run's denoiser, ready to sample, the shape (C, H, W) of its images, and the device it is on."""
    from clearwater.assembly import pick_device
    from clearwater.training import RunFolder

    chosen = pick_device(device)
    folder = RunFolder.open(run)
    denoiser = load_model(folder, chosen, variance=variance, clip=clip)
    for warning in folder.warnings:
        say(warning)
    data = folder.config().data
    if data.size is None or data.channels is None:
        raise InputError(f"The configuration of '{run}' does not say the size of its images: train it again.")
    return denoiser, (data.channels, *data.size), chosen


def sample_batches(
    denoiser: Denoiser,
    chain: Chain,
    shape: tuple[int, int, int],
    n: int,
    seed: int,
    batch: int,
    device: torch.device,
    report: Callable[[float], None],
) -> Iterator[Tensor]:
    """Finished images, uint8, a batch at a time; `report` is told the fraction done."""
    from clearwater.pictures import to_uint8
    from clearwater.randomness import ImageNoise
    from clearwater.sampling import sampling_states

    for first in range(0, n, batch):
        indices = range(first, min(first + batch, n))
        state: StepState | None = None
        for state in sampling_states(denoiser, ImageNoise(seed, indices, shape, device), chain):
            report((first + len(indices) * (1 - state.k / chain.T)) / n)
        assert state is not None
        yield to_uint8(state.x)


def _refuse_other(out: Path) -> None:
    """Refuses a folder that holds anything but an earlier sample."""
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file: give --out a folder that does not exist, is empty or holds samples.")
    if out.is_dir() and not (out / _MANIFEST).is_file() and any(path.name != _PART for path in out.iterdir()):
        raise InputError(f"'{out}' holds something that is not a sample: give --out an empty or a new folder.")


def _empty(out: Path) -> None:
    """Removes an earlier sample, and nothing else, from its folder."""
    images = [path for path in out.glob("*.png") if path.stem.isdecimal()]
    for made in [*images, out / "grid.png", out / "samples.npz", out / _MANIFEST]:
        made.unlink(missing_ok=True)
