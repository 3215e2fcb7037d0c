"""`clearwater restore`: what an image may have been before it was masked, made smaller or blurred."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clearwater.cli.making import Making, Measured, classes_of, known_image, mask_of, sampling_chain
from clearwater.cli.models import image_shape, load_network
from clearwater.cli.options import BATCH, Batch, Count, Device, Out, Run, Seed
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import say
from clearwater.cli.writing import fingerprint, refuse_other, write_samples
from clearwater.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from clearwater.inverse import Measurement

__all__ = ["restore"]

_STEPS = 50


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

    Writes grid.png, one PNG an image, and left.png: IMAGE as the model is told it.
    """
    from clearwater.assembly import pick_device
    from clearwater.pictures import enlarged, grid, to_uint8
    from clearwater.sampling import Repeated, SamplerOptions
    from clearwater.sampling import sampler as named_sampler
    from clearwater.training import RunFolder
    from clearwater.world import world

    keep_freed_memory()
    if sum(option is not None for option in (mask, factor, blur)) != 1:
        raise InputError("Say what was done to the image with one of --mask MASK, --factor 4 or --blur 1.5.")
    if not noise > 0 or (blur is not None and not blur > 0):
        raise InputError(f"Noise and blur are above zero, not {noise} and {blur}: give --noise 0.01 for a clean image.")
    refuse_other(out)
    chosen = pick_device(device)
    if sampler == "ddim" and eta is None:
        eta = 1.0
    stepper = Repeated(named_sampler(sampler, SamplerOptions(eta)), repeat)
    folder = RunFolder.open(run)
    network = load_network(folder, chosen, variance=None, clip=True)
    for warning in folder.warnings:
        say(warning)
    data = folder.config().data
    shape = image_shape(run, data)
    measurement = _measurement(shape, mask, factor, blur)
    y = _measured(image, shape, measurement, factor, noise, seed, spoil=spoil).to(chosen)
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
        "run": str(run),
        "step": folder.model()[1].step,
        "weights": fingerprint(network),
        "image": [str(image), fingerprint(image)],
        "mask": [str(mask), fingerprint(mask)] if mask else None,
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
    with world() as processes:
        left = enlarged(grid(to_uint8(y)))
        write_samples(out, making, made, n, min(batch or BATCH, n), processes, left=left)


def _measurement(shape: tuple[int, int, int], mask: Path | None, factor: int | None, blur: float | None) -> Measurement:
    from clearwater.inverse import Blurred, Downsampled, Masked

    if mask is not None:
        return Masked(mask_of(mask, shape))
    if blur is not None:
        return Blurred(blur)
    assert factor is not None
    _, height, width = shape
    if height % factor or width % factor:
        raise InputError(f"The run's images, {height} × {width}, cannot be divided into blocks of {factor} × {factor}.")
    return Downsampled(factor)


def _measured(
    image: Path,
    shape: tuple[int, int, int],
    measurement: Measurement,
    factor: int | None,
    noise: float,
    seed: int,
    *,
    spoil: bool,
) -> Tensor:
    """y, shape (1, C, H, W) or, where it is smaller, less."""
    import torch

    from clearwater.inverse import Masked
    from clearwater.randomness import generator

    if not spoil:
        known = known_image(image, shape, factor=factor or 1)
        return measurement(known) if isinstance(measurement, Masked) else known
    y = measurement(known_image(image, shape))
    drawn = torch.randn(y.shape, generator=generator(seed, "measurement"))
    return measurement(y + noise * drawn) if isinstance(measurement, Masked) else y + noise * drawn
