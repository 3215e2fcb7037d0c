"""`clearwater sample`: images from a trained model, streamed to disk; an interrupted command goes on when repeated."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearwater.cli.making import Guidance, Making, classes_of, edited_image, mask_of, starting_chain
from clearwater.cli.models import load_network
from clearwater.cli.options import Batch, Device, Out, Run, Seed, Variance, refuse_picture
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import live_line, say
from clearwater.errors import InputError
from clearwater.files import write_atomically

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from clearwater.chains import Chain
    from clearwater.config import DataConfig
    from clearwater.denoisers import Denoiser, NetworkDenoiser
    from clearwater.sampling import Stepper
    from clearwater.training import RunFolder

__all__ = ["load_for_sampling", "sample"]

_MANIFEST = "samples.json"
_PART = ".part"
_IN_GRID = 100
_BATCH = 64
_ANIMATED = 16
_STEPS = 20


def _list(asked: bool) -> None:
    if not asked:
        return
    from clearwater.sampling import SAMPLERS

    print(f"{'sampler':12} order  evaluations a step  noise")
    for name, entry in SAMPLERS.items():
        by_option = f"with {entry.takes[0]}" if {"eta", "churn"} & set(entry.takes) else "no"
        noise = "yes" if entry.stochastic else by_option
        print(f"{name:12} {entry.order or '-':>5}  {entry.evaluations:18}  {noise:10} {entry.use}")
    raise typer.Exit


def sample(
    run: Run,
    out: Out,
    n: Annotated[int, typer.Option("--n", min=1, help="How many images.")] = 16,
    seed: Seed = 0,
    batch: Batch = None,
    sampler: Annotated[str, typer.Option(help="How to sample; --list explains them.")] = "dpm++2m",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="How many steps.", show_default="20; ancestral: all levels"),
    ] = None,
    grid: Annotated[
        str, typer.Option(help="Which levels: all, trailing, leading, quadratic, log_snr, karras, fitted.")
    ] = "trailing",
    eta: Annotated[float | None, typer.Option(help="Of ddim: share of the noise, 0 to 1.", show_default="0")] = None,
    churn: Annotated[float | None, typer.Option(help="Of euler and heun: added noise.", show_default="0")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Of adaptive.", show_default="1e-4")] = None,
    variance: Variance = None,
    clip: Annotated[bool, typer.Option("--clip/--no-clip", help="Clip each prediction to the data's range.")] = True,
    classes: Annotated[
        str | None, typer.Option(help="Names or numbers with commas between, or all, in turn.", show_default="none")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Away from no class, or from --guide; 1 for not at all.")] = 1.0,
    interval: Annotated[
        tuple[float, float], typer.Option("--guidance-interval", help="Times between which guidance is on.")
    ] = (0.0, 1.0),
    rescale: Annotated[float, typer.Option("--guidance-rescale", help="Contrast brought back, 0 to 1.")] = 0.0,
    guide: Annotated[Path | None, typer.Option(help="A weaker RUN to guide away from.", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option("--from", help="An image to change.", show_default=False)] = None,
    level: Annotated[float, typer.Option(help="Of --from: how far back to go, above 0 to 1.")] = 0.6,
    mask: Annotated[
        Path | None, typer.Option(help="Of --from: an image, white where to fill in.", show_default=False)
    ] = None,
    repaint: Annotated[int, typer.Option(min=1, help="Of --mask: how often each step is done.")] = 5,
    animate: Annotated[Path | None, typer.Option(help="Also write this .gif of 16.", show_default=False)] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Also write samples.npz: images, uint8, (N, H, W, C).")] = False,
    device: Device = "auto",
    list_: Annotated[
        bool, typer.Option("--list", help="Explain the samplers and exit.", callback=_list, is_eager=True)
    ] = False,
) -> None:
    """Sample from RUN: writes grid.png, and one PNG an image from 000000.png on."""
    from clearwater.assembly import pick_device
    from clearwater.sampling import RePaint, SamplerOptions
    from clearwater.sampling import sampler as named_sampler
    from clearwater.training import RunFolder

    keep_freed_memory()
    if animate is not None:
        refuse_picture(animate, ".gif")
    if mask is not None and image is None:
        raise InputError("A mask says what of an image is filled in: give the image with --from.")
    chosen = pick_device(device)
    folder = RunFolder.open(run)
    stepper: Stepper = named_sampler(sampler, SamplerOptions(eta, churn, tolerance))
    network = load_network(folder, chosen, variance=variance, clip=clip)
    for warning in folder.warnings:
        say(warning)
    data = folder.config().data
    shape = _shape(run, data)
    chain = _grid(folder, network, grid, steps, sampler, clip=clip)
    start = None
    if image is not None:
        start = edited_image(image, data).to(chosen)
        if mask is None:
            chain = starting_chain(chain, level)
        else:
            stepper, start = RePaint(stepper, start, mask_of(mask, data).to(chosen), repaint), None
    numbers = classes_of(classes, data)
    away, away_knows = None, False
    if guide is not None:
        of_guide = RunFolder.open(guide)
        away = load_network(of_guide, chosen, variance=None, clip=clip)
        away_knows = bool(numbers) and of_guide.config().data.classes == data.classes
    if guidance != 1 and not numbers and away is None:
        raise InputError("Guidance goes away from something: give --classes of a run that knows them, or --guide RUN.")
    making = Making(
        network,
        clip,
        chain,
        stepper,
        shape,
        chosen,
        seed,
        numbers,
        Guidance(guidance, interval, rescale, away, away_knows),
        start,
    )
    made: dict[str, Any] = {
        "run": str(run),
        "step": folder.model()[1].step,
        "n": n,
        "seed": seed,
        "sampler": sampler,
        "steps": chain.T,
        "grid": grid,
        "eta": eta,
        "churn": churn,
        "tolerance": tolerance,
        "variance": variance or "the run's",
        "clip": clip,
        "classes": list(numbers),
        "guidance": [guidance, *interval, rescale, str(guide) if guide else None],
        "from": [str(image), level, str(mask) if mask else None, repaint] if image else None,
    }
    _write(out, making, made, n, min(batch or _BATCH, n), npz)
    if animate is not None:
        _animate(animate, making, min(n, _ANIMATED))
    say(f"{n} image(s) in '{out}'; look at {out / 'grid.png'}")


def _grid(
    folder: RunFolder, network: NetworkDenoiser, name: str, steps: int | None, sampler: str, *, clip: bool
) -> Chain:
    from clearwater.cli.models import optimal_variance
    from clearwater.sampling import GRIDS, fitted

    T = network.chain.T
    wanted = steps or (T if sampler == "ancestral" or name == "all" else min(_STEPS, T))
    if name == "fitted":
        return fitted(optimal_variance(folder, network, clip=clip))(network.chain, wanted)
    if name not in GRIDS:
        raise InputError(f"There is no grid named '{name}': choose one of {', '.join(GRIDS)}, fitted.")
    return GRIDS[name](network.chain, wanted)


def load_for_sampling(run: Path, *, device: str) -> tuple[Denoiser, tuple[int, int, int], torch.device]:
    """The run's denoiser, clipped, the shape (C, H, W) of its images, and the device it is on."""
    from clearwater.assembly import pick_device
    from clearwater.denoisers import Clipped
    from clearwater.training import RunFolder

    chosen = pick_device(device)
    folder = RunFolder.open(run)
    network = load_network(folder, chosen, variance=None, clip=True)
    for warning in folder.warnings:
        say(warning)
    return Clipped(network), _shape(run, folder.config().data), chosen


def _shape(run: Path, data: DataConfig) -> tuple[int, int, int]:
    if data.size is None or data.channels is None:
        raise InputError(f"The configuration of '{run}' does not say the size of its images: train it again.")
    return data.channels, *data.size


def _write(out: Path, making: Making, made: dict[str, Any], n: int, batch: int, npz: bool) -> None:
    """Makes the images in a folder within `out`, which is on the same disk, then moves them up.

    An earlier sample stays until this one is complete. What is in the folder of an interrupted one is gone on with
    if it was made in the same way.
    """
    from clearwater.pictures.images import to_image

    _refuse_other(out)
    part = out / _PART
    manifest = json.dumps(made, indent=1)
    if part.is_dir() and _text(part / _MANIFEST) != manifest:
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    write_atomically(part / _MANIFEST, manifest.encode())
    left = [i for i in range(n) if not (part / _name(i)).is_file()]
    if len(left) < n:
        say(f"Going on: {n - len(left)} of {n} images are there.")
    with live_line("sampling") as report:
        numbers = iter(left)
        for images in making.batches(left, batch, lambda at: report(at, f"{len(left)} images")):
            for image in images:
                buffer = io.BytesIO()
                to_image(image).save(buffer, "PNG")
                write_atomically(part / _name(next(numbers)), buffer.getvalue(), durable=False)
    _overview([part / _name(i) for i in range(min(n, _IN_GRID))]).save(part / "grid.png")
    if npz:
        _write_npz(part / "samples.npz", [part / _name(i) for i in range(n)])
    if (out / _MANIFEST).is_file():
        say(f"The earlier sample in '{out}' is replaced.")
        _empty(out)
    for path in part.iterdir():
        path.rename(out / path.name)
    part.rmdir()


def _name(i: int) -> str:
    return f"{i:06d}.png"


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _overview(paths: Sequence[Path]) -> Image.Image:
    import torch

    from clearwater.pictures import enlarged, grid

    return enlarged(grid(torch.stack([_pixels(path) for path in paths])))


def _pixels(path: Path) -> torch.Tensor:
    """uint8, shape (C, H, W)."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(path) as image:
        array = np.asarray(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1).copy()).permute(2, 0, 1)


def _write_npz(path: Path, images: Sequence[Path]) -> None:
    """The images as numpy.load reads them, one at a time, so that memory does not grow with their number."""
    import numpy as np

    first = _pixels(images[0]).permute(1, 2, 0).numpy()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("images.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *first.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for image in images:
            file.write(_pixels(image).permute(1, 2, 0).contiguous().numpy().tobytes())


def _animate(path: Path, making: Making, n: int) -> None:
    from clearwater.pictures import reverse_frames, write_animation

    write_animation(path, reverse_frames(making.states(range(n)), making.chain.T))


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
