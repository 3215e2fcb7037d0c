"""`clearwater show`: the forward process, the reverse process, a chain, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping, load
from clearwater.cli.options import Device, Levels, Run, Seed, refuse_picture
from clearwater.cli.progress import live_line, say, say_skipped
from clearwater.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearwater.sampling import StepState

__all__ = ["app", "chain", "forward", "reverse"]

app = typer.Typer(
    help="Pictures: the processes, a chain, and demonstrations of why the method is as it is.", no_args_is_help=True
)

PictureFile = Annotated[
    Path, typer.Option("--out", help="The file: .png or, where it moves, .gif.", show_default=False)
]
Images = Annotated[int | None, typer.Option("--n", "-n", min=1, help="How many images.", show_default="6; .gif: 16")]
_ROWS, _ANIMATED = 6, 16


@app.command()
def forward(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RUN", help="Images as `clearwater train` takes them, or a run: its own.", show_default=False
        ),
    ],
    out: PictureFile,
    chain: Annotated[
        str | None,
        typer.Option(help="linear, half_linear, cosine, sigmoid, vp or flow.", show_default="linear; of a RUN its own"),
    ] = None,
    n: Images = None,
    seed: Seed = 0,
) -> None:
    """Images of DATA sinking into noise: a strip (.png) or an animation (.gif)."""
    from clearwater.chains import chain as named_chain
    from clearwater.cli.looking import forward_images
    from clearwater.pictures import forward_frames, forward_strip, write_animation, write_picture
    from clearwater.training import RunFolder, load_denoiser

    moves = _moves(out)
    if (Path(data) / "config.toml").is_file():
        loaded = Keeping().load(RunFolder.open(Path(data)).config().data.model_copy(update={"labels": False}))
        levels = load_denoiser(data, "cpu").chain if chain is None else named_chain(chain)
    else:
        levels = named_chain(chain or "linear")
        loaded = load(data)
    say_skipped(loaded.skipped)
    x_0, eps = forward_images(loaded, seed, n or (_ANIMATED if moves else _ROWS))
    if moves:
        write_animation(out, forward_frames(x_0, eps, levels))
    else:
        write_picture(out, forward_strip(x_0, eps, levels))
    say(f"Wrote '{out}'.")


@app.command()
def reverse(
    run: Run,
    out: PictureFile,
    n: Images = None,
    seed: Seed = 0,
    levels: Levels = None,
    sampler: Annotated[str, typer.Option(help="As of `clearwater sample`.")] = "ancestral",
    classes: Annotated[str | None, typer.Option(help="As of `clearwater sample`.", show_default="none")] = None,
    device: Device = "auto",
) -> None:
    """Samples of RUN appearing, with the prediction of x_0: a strip (.png) or an animation (.gif)."""
    from clearwater.assembly import pick_device
    from clearwater.cli.grids import sampling_chain
    from clearwater.cli.making import Making, classes_of
    from clearwater.cli.models import image_shape, load_network
    from clearwater.pictures import reverse_frames, reverse_strip, write_animation, write_picture
    from clearwater.sampling import sampler as named_sampler
    from clearwater.training import RunFolder

    moves = _moves(out)
    stepper = named_sampler(sampler)
    if sampler == "adaptive":
        raise InputError("The sampler adaptive shows none of its steps: take another one.")
    folder, chosen = RunFolder.open(run), pick_device(device)
    data = folder.config().data
    network = load_network(folder, chosen, variance=None, clip=True)
    for warning in folder.warnings:
        say(warning)
    grid = "all" if sampler == "ancestral" and levels is None else "trailing"
    steps = sampling_chain(folder, network, grid, levels, clip=True)
    numbers = classes_of(classes, data)
    making = Making(network, True, steps, stepper, image_shape(run, data), chosen, seed, numbers)
    count = n or (_ANIMATED if moves else _ROWS)
    with live_line("sampling") as report:

        def watched() -> Iterator[StepState]:
            for state in making.states(range(count)):
                report(1 - state.k / steps.T, f"{count} images")
                yield state

        if moves:
            write_animation(out, reverse_frames(watched(), steps.T, images=count))
        else:
            write_picture(out, reverse_strip(watched(), steps.T, images=count))
    say(f"Wrote '{out}'.")


@app.command()
def chain(
    name: Annotated[
        str,
        typer.Argument(
            help="linear, half_linear, cosine, sigmoid, vp, flow, or a RUN, for a learned one.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The file, .png.", show_default=False)],
    levels: Annotated[
        int | None, typer.Option("--levels", min=1, help="Steps of the chain.", show_default="1000, or RUN's")
    ] = None,
) -> None:
    """Plot the beta, alpha_bar and log-SNR of a chain (.png)."""
    from clearwater.chains import chain as named_chain
    from clearwater.pictures import plot_chain, write_picture
    from clearwater.training import load_denoiser

    refuse_picture(out, ".png")
    if name == "learned":
        raise InputError("A learned chain belongs to the run that learned it: give the RUN in place of its name.")
    if Path(name).is_dir():
        steps = load_denoiser(name, "cpu").chain
        steps = steps if levels is None else steps.strided(levels)
    else:
        steps = named_chain(name, levels or 1000)
    write_picture(out, plot_chain(steps, name))
    first, last = steps.levels.log_snr[[1, -1]].tolist()
    print(f"log SNR {first:.3f} at level 1, {last:.3f} at level {steps.T}")
    say(f"Wrote '{out}'.")


def _moves(out: Path) -> bool:
    """Whether the file is to be an animation; refuses one that cannot be written."""
    refuse_picture(out, ".png", ".gif")
    return out.suffix.lower() == ".gif"
