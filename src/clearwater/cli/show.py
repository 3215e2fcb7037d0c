"""`clearwater show`: the forward process, the reverse process, a chain, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import load
from clearwater.cli.options import Data, Device, Levels, Run, Seed, refuse_picture
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
_ROWS = 6


@app.command()
def forward(
    data: Data,
    out: PictureFile,
    chain: Annotated[str, typer.Option(help="linear, half_linear, cosine or sigmoid.")] = "linear",
    seed: Seed = 0,
) -> None:
    """Images of DATA sinking into noise: a strip (.png) or an animation (.gif)."""
    import torch

    from clearwater.chains import chain as named_chain
    from clearwater.data import pixel_values
    from clearwater.pictures import forward_frames, forward_strip, write_animation, write_picture
    from clearwater.randomness import generator

    moves = _moves(out)
    levels = named_chain(chain)
    loaded = load(data)
    say_skipped(loaded.skipped)
    images = loaded.images
    of_seed = generator(seed, "forward")
    picked = images[torch.randperm(len(images), generator=of_seed)[: 16 if moves else _ROWS]]
    x_0 = pixel_values(picked)
    eps = torch.randn(x_0.shape, generator=of_seed)
    if moves:
        write_animation(out, forward_frames(x_0, eps, levels))
    else:
        write_picture(out, forward_strip(x_0, eps, levels))
    say(f"Wrote '{out}'.")


@app.command()
def reverse(run: Run, out: PictureFile, seed: Seed = 0, levels: Levels = None, device: Device = "auto") -> None:
    """Samples of RUN appearing, with the prediction of x_0: a strip (.png) or an animation (.gif)."""
    from clearwater.cli.models import load_for_sampling
    from clearwater.pictures import reverse_frames, reverse_strip, write_animation, write_picture
    from clearwater.randomness import ImageNoise
    from clearwater.sampling import sampling_states

    moves = _moves(out)
    denoiser, shape, chosen = load_for_sampling(run, device=device)
    steps = denoiser.chain if levels is None else denoiser.chain.strided(levels)
    n = 16 if moves else _ROWS
    with live_line("sampling") as report:

        def watched() -> Iterator[StepState]:
            for state in sampling_states(denoiser, ImageNoise(seed, range(n), shape, chosen), steps):
                report(1 - state.k / steps.T, f"{n} images")
                yield state

        if moves:
            write_animation(out, reverse_frames(watched(), steps.T))
        else:
            write_picture(out, reverse_strip(watched(), steps.T))
    say(f"Wrote '{out}'.")


@app.command()
def chain(
    name: Annotated[
        str,
        typer.Argument(help="linear, half_linear, cosine, sigmoid, or a RUN, for a learned one.", show_default=False),
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
