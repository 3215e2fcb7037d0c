"""`clearwater variance`: train a network for the reverse variance, beside the mean that a run has learned."""

from __future__ import annotations

from typing import Annotated

import typer

from clearwater.cli.loading import Keeping
from clearwater.cli.models import load_network, variance_folder
from clearwater.cli.opening import open_run, read
from clearwater.cli.options import Device, Run
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import command, say
from clearwater.cli.train import run_training
from clearwater.cli.watching import Looks

__all__ = ["variance"]


def variance(
    run: Run,
    minutes: Annotated[float | None, typer.Option(help="End after this much time.", show_default="3")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after this many steps.", show_default=False)] = None,
    clip: Annotated[
        bool, typer.Option("--clip/--no-clip", help="For a mean that is clipped to the data's range.")
    ] = True,
    device: Device = "auto",
) -> None:
    """Train a network for the variance of RUN's reverse steps; its mean stays. Then `--variance network` uses it."""
    from clearwater.assembly import pick_device
    from clearwater.denoisers import Clipped
    from clearwater.errors import InputError
    from clearwater.objectives import VarianceBound
    from clearwater.times import LowDiscrepancy
    from clearwater.training import RunFolder, Trainer

    keep_freed_memory()
    if minutes is not None and steps is not None:
        raise InputError("Training ends after steps or after minutes: give one of the two.")
    if minutes is not None and not minutes > 0:
        raise InputError(f"--minutes is above zero, not {minutes}.")
    chosen = pick_device(device)
    folder = RunFolder.open(run)
    network = load_network(folder, chosen, variance=None, clip=clip)
    mean = Clipped(network) if clip else network
    for warning in folder.warnings:
        say(warning)
    out = variance_folder(folder, clip=clip)
    of_mean = folder.config()
    # The network is of the same form as the mean's and says one number a pixel. Its levels are those of the
    # mean's own chain, also where that was learned: the objective takes them from there.
    levels = {"name": "cosine" if of_mean.chain.name == "learned" else of_mean.chain.name, "variance": "fixed_small"}
    end = {"steps": steps, "minutes": None if steps else minutes or 3.0, "start": None}
    settings = of_mean.model_copy(
        update={
            "chain": of_mean.chain.model_copy(update=levels),
            "objective": of_mean.objective.model_copy(update={"loss": "variance"}),
            # Of augmentation the mean would have to be told; and what it has seen is not held out from its variance.
            "data": of_mean.data.model_copy(update={"augment": 0.0, "held_out": of_mean.data.held_out or 0}),
            "training": of_mean.training.model_copy(update=end),
        }
    )
    settings, images = read(settings, out, Keeping())
    inner = open_run(settings, images, out)
    # Every level counts, whatever the mean was trained on most.
    objective = VarianceBound(mean, LowDiscrepancy())
    with inner.held():
        trainer = Trainer(settings, images, chosen, inner, objective)
        finished = run_training(trainer, inner, Looks())
    if not finished:
        say(f"Interrupted and saved after step {trainer.step}: repeat the command to go on.")
        raise typer.Exit(130)
    say(f"Trained: '{out}'. Now use it: {command('bound', run, of_mean.data.source, '--variance', 'network')}")
