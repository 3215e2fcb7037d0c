"""`clearwater sample`: images from a trained model, streamed to disk; an interrupted command goes on when repeated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from clearwater.cli.grids import sampling_chain, starting_chain
from clearwater.cli.making import (
    Change,
    Guidance,
    Making,
    classes_of,
    finite,
    refuse_new_noise,
)
from clearwater.cli.models import VarianceOption, image_shape, load_network
from clearwater.cli.options import BATCH, Batch, Count, Device, Out, Run, Seed, refuse_picture
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import say
from clearwater.cli.writing import fingerprint, made_with, refuse_other, write_samples
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch

    from clearwater.denoisers import NetworkDenoiser
    from clearwater.sampling import Stepper

__all__ = ["sample"]

_ANIMATED = 16


_GRIDS = {
    "trailing": "equal strides from all noise down to data; the default",
    "all": "every level of the chain; the default of ancestral without --steps",
    "leading": "as older samplers have it: it begins below all noise, so images come out grey",
    "shifted": "more steps where there is much noise, as for large images: strides of flow's time under --shift",
    "quadratic": "closer together near data",
    "log_snr": "equal steps in the logarithm of signal to noise",
    "karras": "of EDM: closer together near data, by the seventh root of noise to signal",
    "fitted": "those that keep nearest to this model's own paths, measured once; for 10 steps and fewer",
    "bound": "those with the best bound on the likelihood, measured once; not for the eye",
}


def _list(asked: bool) -> None:
    if not asked:
        return
    from clearwater.sampling import SAMPLERS

    print(f"{'--sampler':12} order  evaluations a step   noise")
    for name, entry in SAMPLERS.items():
        by_option = f"with --{entry.takes[0]}" if {"eta", "churn"} & set(entry.takes) else "no"
        noise = "yes" if entry.stochastic else by_option
        print(f"{name:12} {entry.order or '-':>5}  {entry.evaluations:19}  {noise:12} {entry.use}")
    print("Of order p, twice as many steps leave 1/2^p of the error. Evaluations of the network take all the time.")
    print("\n--grid")
    for name, use in _GRIDS.items():
        print(f"{name:12} {use}")
    raise typer.Exit


def sample(
    run: Run,
    out: Out,
    n: Count = 16,
    seed: Seed = 0,
    batch: Batch = None,
    sampler: Annotated[str, typer.Option(help="How to get from noise to images; --list explains them.")] = "unipc",
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            min=1,
            help="In how many steps; each costs an evaluation of the network or two.",
            show_default="20; ancestral: all levels",
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Which levels of noise the steps visit: all, trailing, leading, shifted, quadratic, log_snr, karras, "
            "fitted, bound; --list explains them.",
            show_default="trailing",
        ),
    ] = None,
    shift: Annotated[
        float | None,
        typer.Option(
            help="Of the grid shifted: above 1 for more steps in noise.", show_default="the run's objective.shift, or 3"
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(help="Of ddim: new noise on the way, 0 to 1, which is as much as ancestral's.", show_default="0"),
    ] = None,
    churn: Annotated[
        float | None, typer.Option(help="Of euler and heun: new noise on the way, in EDM's measure.", show_default="0")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Of adaptive: the error it may make; --batch changes images by as much.", show_default="1e-4"
        ),
    ] = None,
    variance: Annotated[
        VarianceOption | None,
        typer.Option(
            help="Of ancestral: how much noise its steps add; optimal is measured once, network is what `clearwater "
            "variance` trained.",
            show_default="the run's",
        ),
    ] = None,
    clip: Annotated[bool, typer.Option("--clip/--no-clip", help="Clip each prediction to the data's range.")] = True,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Of which classes, in turn: names or numbers with commas between, or all.", show_default="none"
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(help="How far to push images towards their class, or away from --guide; 1 for not at all."),
    ] = 1.0,
    interval: Annotated[
        tuple[float, float],
        typer.Option("--guidance-interval", help="Of guidance: from where to where it is on; 0 is data, 1 all noise."),
    ] = (0.0, 1.0),
    rescale: Annotated[
        float,
        typer.Option("--guidance-rescale", help="Of guidance: how much of the contrast without it is kept, 0 to 1."),
    ] = 0.0,
    guide: Annotated[
        Path | None, typer.Option(help="A weaker RUN, or a checkpoint in one, to guide away from.", show_default=False)
    ] = None,
    image: Annotated[Path | None, typer.Option("--from", help="An image to change.", show_default=False)] = None,
    level: Annotated[
        float | None,
        typer.Option(help="Of --from: how far to change it, from above 0 to 1, all noise.", show_default="0.6"),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Of --from: an image, white where that is filled in and black where it is kept.", show_default=False
        ),
    ] = None,
    repaint: Annotated[
        int | None,
        typer.Option(min=1, help="Of --mask: how often each step is done, to blend in.", show_default="5"),
    ] = None,
    animate: Annotated[
        Path | None,
        typer.Option(help="Also write this .gif of the first 16 coming out of noise.", show_default=False),
    ] = None,
    at_least: Annotated[
        bool, typer.Option("--at-least", help="A sample of more images made in the same way may stay.")
    ] = False,
    npz: Annotated[bool, typer.Option("--npz", help="Also write samples.npz: images, uint8, (N, H, W, C).")] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first: a minute that pays for many images.")
    ] = False,
    device: Device = "auto",
    list_: Annotated[
        bool,
        typer.Option("--list", help="Explain the samplers and the grids, and exit.", callback=_list, is_eager=True),
    ] = False,
) -> None:
    """Sample from RUN: writes one PNG an image, 000000.png and so on, and grid.png, an overview of them.

    Interrupted, the same command goes on. An earlier sample in the folder stays until this one is complete.
    """
    from clearwater.assembly import pick_device
    from clearwater.sampling import SamplerOptions, ends
    from clearwater.sampling import sampler as named_sampler
    from clearwater.training import RunFolder
    from clearwater.world import world

    keep_freed_memory()
    if animate is not None:
        refuse_picture(animate, ".gif")
    change = Change(image, level, mask, repaint)
    if guidance == 1 and (rescale or interval != (0.0, 1.0) or guide is not None):
        raise InputError("A guide, an interval and rescaling are of guidance: say how far, such as --guidance 2.")
    for name, value in (("--guidance", guidance), ("--churn", churn), ("--guidance-rescale", rescale)):
        finite(name, value)
    stepper: Stepper = named_sampler(sampler, SamplerOptions(eta, churn, tolerance))
    if sampler == "adaptive" and (steps is not None or grid is not None):
        raise InputError("The sampler adaptive chooses its own steps: leave out --steps and --grid.")
    if variance is not None and sampler != "ancestral":
        raise InputError(f"The sampler {sampler} has no --variance: it is an option of ancestral.")
    if grid is None:
        grid = "all" if sampler == "ancestral" and steps is None else "trailing"
    if shift is not None and grid != "shifted":
        raise InputError(f"--shift is of the grid shifted, and the grid here is {grid}: add --grid shifted.")
    with world() as processes:
        refuse_other(out)
        chosen = pick_device(device)
        folder = RunFolder.open(run)
        data = folder.config().data
        shape = image_shape(run, data)
        numbers = classes_of(classes, data)
        if image is not None:
            refuse_new_noise(folder, "--from gives an image noise")
        elif stepper.stochastic:
            refuse_new_noise(folder, f"the sampler {sampler} adds noise on the way")
        with processes.after_the_first():  # who measures what is kept with the run
            network = load_network(folder, chosen, variance=variance, clip=clip)
            if sampler == "adaptive":
                chain, grid = ends(starting_chain(network.chain, change.from_level)), "ends"
            else:
                chain = sampling_chain(folder, network, grid, steps, clip=clip, level=change.from_level, shift=shift)
        for warning in folder.warnings if processes.first else ():
            say(warning)
        stepper, start = change.begin(stepper, shape, chosen)
        away, away_knows = None, False
        if guide is not None:
            of_guide = RunFolder.open(guide)
            away = load_network(of_guide, chosen, variance=None, clip=clip)
            _refuse_guide(guide, away, image_shape(guide, of_guide.config().data), network, shape)
            away_knows = bool(numbers) and of_guide.config().data.classes == data.classes
        if guidance != 1 and not numbers and away is None:
            raise InputError(
                "Guidance goes away from something: give --classes of a run that knows them, or --guide RUN."
            )
        at_once = min(batch or BATCH, n)
        guided = Guidance(guidance, interval, rescale, away, away_knows)
        making = Making(network, clip, chain, stepper, shape, chosen, seed, numbers, guided, start)
        making.denoiser(range(1))  # refuses what cannot be, before anything is written
        if compiled:
            making = _compiled(making, at_once)
        made: dict[str, Any] = {
            **made_with(run, folder, network, chain, chosen),
            "seed": seed,
            "sampler": sampler,
            "grid": grid,
            "eta": eta,
            "churn": churn,
            "tolerance": tolerance,
            "variance": variance or "the run's",
            "clip": clip,
            "compiled": compiled,
            "classes": list(numbers),
            "guidance": [guidance, *interval, rescale],
            "guide_path": str(guide) if guide else None,
            "guide": fingerprint(away) if away else None,
            **change.told(),
        }
        names = [(data.classes or ())[number] for number in numbers]
        write_samples(out, making, made, n, at_once, processes, npz=npz, at_least=at_least, classes=names)
        if animate is not None and processes.first:
            _animate(animate, making, min(n, _ANIMATED))


def _refuse_guide(
    run: Path, guide: NetworkDenoiser, of_guide: tuple[int, ...], network: NetworkDenoiser, shape: tuple[int, ...]
) -> None:
    """Refuses a guide that sees other images, or is told of other levels."""
    import torch

    if of_guide != shape:
        raise InputError(f"'{run}' makes images of {of_guide} (C, H, W), not {shape}: guide with a run of the same.")
    a, b = guide.chain.levels, network.chain.levels
    if len(a) != len(b) or not all(torch.allclose(getattr(a, name), getattr(b, name)) for name in ("alpha", "sigma")):
        raise InputError(f"'{run}' was trained on other levels of noise: guide with a run of the same chain.")


def _compiled(making: Making, batch: int) -> Making:
    """The same with its network compiled, for batches of this size."""
    import torch

    say("Compiling the network.")
    try:
        network = replace(making.network, network=cast("torch.nn.Module", torch.compile(making.network.network)))
        compiled = replace(making, network=network)
        with torch.inference_mode():
            x = torch.zeros(batch, *making.shape, device=making.device)
            compiled.denoiser(range(batch))(x, making.chain.levels[-1])
    except Exception as error:  # whatever a compiler that is missing or fails makes of it
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"The network cannot be compiled here ({why}): leave out --compile.") from None
    return compiled


def _animate(path: Path, making: Making, n: int) -> None:
    from clearwater.pictures import reverse_frames, write_animation

    write_animation(path, reverse_frames(making.states(range(n)), making.chain.T))
