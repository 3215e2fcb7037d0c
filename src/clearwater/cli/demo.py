"""`clearwater demo`: from nothing to images out of noise, with one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clearwater.cli.loading import Keeping
from clearwater.cli.options import Device
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import command, live_line, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearwater.sampling import StepState

__all__ = ["demo"]

_IMAGES = 64


def demo(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("clearwater-demo"),
    minutes: Annotated[float, typer.Option(help="Training time.")] = 3.0,
    device: Device = "auto",
) -> None:
    """Train on the built-in images of garments, then draw new ones out of noise."""
    from clearwater.assembly import pick_device
    from clearwater.cli.opening import open_run, read
    from clearwater.cli.show import forward
    from clearwater.cli.train import run_training
    from clearwater.cli.watching import Looks
    from clearwater.denoisers import Clipped
    from clearwater.errors import ClearwaterError
    from clearwater.pictures import enlarged, grid, reverse_frames, to_uint8, write_animation, write_picture
    from clearwater.randomness import ImageNoise
    from clearwater.sampling import sampling_states
    from clearwater.settings import resolve
    from clearwater.training import Trainer

    keep_freed_memory()
    chosen = pick_device(device)
    settings, images = read(resolve(recipe="small-grey", options={"training.minutes": minutes}), out, Keeping())
    run = open_run(settings, images, out)
    forward(settings.data.source, out / "forward.gif", settings.chain.name)
    with run.held():
        trainer = Trainer(settings, images, chosen, run)
        finished = run_training(trainer, run, Looks(images))
    if not finished:
        say(f"Interrupted and saved after step {trainer.step}: repeat the command to go on.")
        raise typer.Exit(130)
    denoiser = Clipped(trainer.averaged())
    T = denoiser.chain.T
    last: StepState | None = None
    with live_line("sampling") as report:

        def watched() -> Iterator[StepState]:
            nonlocal last
            for last in sampling_states(denoiser, ImageNoise(0, range(_IMAGES), images.shape, chosen)):
                report(1 - last.k / T, f"{_IMAGES} images")
                yield last

        frames = reverse_frames(watched(), T)
    if last is None:
        raise ClearwaterError("The chain has no levels.")
    write_picture(out / "grid.png", enlarged(grid(to_uint8(last.x))))
    write_animation(out / "reverse.gif", frames)
    say(f"Look at {out / 'grid.png'}, {out / 'reverse.gif'}, {out / 'forward.gif'} and {out / 'loss.png'}.")
    say(f"More of them: {command('sample', out, '--n', 100, '--out', out / 'samples')}")
