"""`clearwater restore`: what an image may have been before it was masked, made smaller or blurred."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearwater.cli.grids import sampling_chain
from clearwater.cli.making import (
    Making,
    Measured,
    classes_of,
    finite,
    known_image,
    mask_of,
    refuse_new_noise,
)
from clearwater.cli.models import image_shape, load_network
from clearwater.cli.options import BATCH, Batch, Count, Device, Out, Run, Seed
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import say
from clearwater.cli.writing import fingerprint, made_with, refuse_other, write_samples
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clearwater.inverse import Measurement

__all__ = ["restore"]

_STEPS = 50
_MOST_NOISE = 1000.0  # values are -1 to 1: what is measured under more says nothing


def restore(
    run: Run,
    image: Annotated[Path, typer.Argument(help="What is left of the image.", show_default=False)],
    out: Out,
    mask: Annotated[
        Path | None, typer.Option(help="An image, white where IMAGE is not known.", show_default=False)
    ] = None,
    factor: Annotated[
        int | None, typer.Option(min=2, help="IMAGE is this much smaller than the run's.", show_default=False)
    ] = None,
    blur: Annotated[
        float | None, typer.Option(help="IMAGE is blurred: the deviation, in pixels.", show_default=False)
    ] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation of IMAGE's noise; its values are -1 to 1.")] = 0.01,
    spoil: Annotated[bool, typer.Option("--spoil", help="IMAGE is whole: spoil it first, to see what comes.")] = False,
    n: Count = 16,
    seed: Seed = 0,
    batch: Batch = None,
    sampler: Annotated[str, typer.Option(help="How to sample; `clearwater sample --list`.")] = "ddim",
    eta: Annotated[float | None, typer.Option(help="Of ddim: share of the noise, 0 to 1.", show_default="1")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="How many steps.", show_default="50")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often each step is done.")] = 5,
    classes: Annotated[
        str | None, typer.Option(help="Names or numbers with commas between, or all, in turn.", show_default="none")
    ] = None,
    device: Device = "auto",
) -> None:
    """Fill in, enlarge or sharpen IMAGE: images such as RUN's that could have left it.

    Writes grid.png, one PNG an image, and left.png: IMAGE as the model is told it, enlarged to look at.
    """
    from clearwater.assembly import pick_device
    from clearwater.pictures import enlarged, grid, to_uint8
    from clearwater.sampling import Repeated, SamplerOptions
    from clearwater.sampling import sampler as named_sampler
    from clearwater.training import RunFolder
    from clearwater.world import world

    keep_freed_memory()
    if sum(option is not None for option in (mask, factor, blur)) != 1:
        raise InputError(
            "Say what was done to the image with one, and one alone, of --mask MASK, --factor 4, --blur 1.5."
        )
    finite("--noise", noise)
    finite("--blur", blur)
    if not 0 < noise <= _MOST_NOISE:
        raise InputError(f"--noise is above 0 and at most {_MOST_NOISE:g}, not {noise}: give 0.01 for a clean image.")
    if blur is not None and not blur > 0:
        raise InputError(f"--blur is above 0 pixels, such as 1.5, not {blur}.")
    with world() as processes:
        refuse_other(out)
        chosen = pick_device(device)
        if sampler == "ddim" and eta is None:
            eta = 1.0
        stepper = Repeated(named_sampler(sampler, SamplerOptions(eta)), repeat)
        folder = RunFolder.open(run)
        refuse_new_noise(folder, "restoring gives an image noise")
        network = load_network(folder, chosen, variance=None, clip=True)
        for warning in folder.warnings if processes.first else ():
            say(warning)
        data = folder.config().data
        shape = image_shape(run, data)
        measurement = _measurement(shape, image, mask, factor, blur, chosen)
        y = _measured(image, shape, measurement, factor, noise, seed, spoil=spoil, device=chosen)
        chain = sampling_chain(folder, network, "trailing", steps or min(_STEPS, network.chain.T), clip=True)
        making = Making(
            network,
            True,
            chain,
            stepper,
            shape,
            chosen,
            seed,
            classes_of(classes, data),
            measured=Measured(measurement, y, noise),
        )
        made: dict[str, Any] = {
            **made_with(run, folder, network, chain, chosen),
            "image_path": str(image),
            "image": fingerprint(image),
            "mask_path": str(mask) if mask else None,
            "mask": fingerprint(mask) if mask else None,
            "factor": factor,
            "blur": blur,
            "noise": noise,
            "spoilt": spoil,
            "seed": seed,
            "sampler": sampler,
            "eta": eta,
            "steps": chain.T,
            "repeat": repeat,
            "classes": list(making.classes),
        }
        left = enlarged(grid(to_uint8(y)))
        write_samples(out, making, made, n, min(batch or BATCH, n), processes, left=left)


def _measurement(
    shape: tuple[int, int, int],
    image: Path,
    mask: Path | None,
    factor: int | None,
    blur: float | None,
    device: torch.device,
) -> Measurement:
    import torch

    from clearwater.inverse import Blurred, Downsampled, Masked

    if mask is not None:
        return Masked(mask_of(mask, shape, image).to(device))
    _, height, width = shape
    if blur is not None:
        if blur > min(height, width):
            raise InputError(f"A blur of {blur} pixels leaves nothing of images of {height} × {width}: give less.")
        return Blurred(blur)
    assert factor is not None
    smaller = Downsampled(factor)
    smaller(torch.empty(1, *shape, device="meta"))  # refuses a factor that does not divide the images
    return smaller


def _refuse_size(image: Path, shape: tuple[int, int, int]) -> None:
    """Refuses an image of another size than this: scaled once more, it would not be what is left of another."""
    from clearwater.data.folder import image_size

    _, height, width = shape
    size = image_size(image)
    if size != (height, width):
        raise InputError(
            f"'{image}' is {size[0]} × {size[1]}, and what is left of this run's images is {height} × {width}: give "
            "such an image, or --spoil for a whole one."
        )


def _measured(
    image: Path,
    shape: tuple[int, int, int],
    measurement: Measurement,
    factor: int | None,
    noise: float,
    seed: int,
    *,
    spoil: bool,
    device: torch.device,
) -> Tensor:
    """y, shape (1, C, H, W) or, where it is smaller, less."""
    import torch

    from clearwater.inverse import Masked
    from clearwater.randomness import generator

    if not spoil:
        channels, height, width = shape
        seen = (channels, height // (factor or 1), width // (factor or 1))
        if factor is not None:
            _refuse_size(image, seen)
        known = known_image(image, seen).to(device)
        return measurement(known) if isinstance(measurement, Masked) else known
    y = measurement(known_image(image, shape).to(device))
    drawn = torch.randn(y.shape, generator=generator(seed, "measurement")).to(device)
    return measurement(y + noise * drawn) if isinstance(measurement, Masked) else y + noise * drawn
