"""`clearwater bound`: the variational bound of a run on images, in bits per dimension, term by term."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clearwater.cli.loading import Keeping, data_to_measure
from clearwater.cli.models import load_network
from clearwater.cli.options import AsJson, Cache, Data, Device, Levels, Run, Variance, refuse_picture
from clearwater.cli.process import keep_freed_memory
from clearwater.cli.progress import live_line, say, say_skipped
from clearwater.cli.repeating import keep_with
from clearwater.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from clearwater.chains import Chain
    from clearwater.likelihood import Bound
    from clearwater.ode_likelihood import FlowLikelihood
    from clearwater.training import RunFolder

__all__ = ["bound"]


def bound(
    context: typer.Context,
    run: Run,
    data: Data,
    levels: Levels = None,
    variance: Variance = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Estimate from about this many network evaluations.", show_default="all levels"),
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=2, help="How many images, of all kinds.", show_default="all")
    ] = None,
    decoder: Annotated[
        Literal["discretized", "density"], typer.Option(help="Of the last step: mass of the bin, or density.")
    ] = "discretized",
    clip: Annotated[bool, typer.Option("--clip/--no-clip", help="Clip each prediction to the data's range.")] = True,
    weights: Annotated[Literal["ema", "raw"], typer.Option(help="The averaged weights, or the last ones.")] = "ema",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and of the levels drawn.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; does not change the bound.")] = 250,
    plot: Annotated[Path | None, typer.Option(help="A .png of the KL by level.", show_default=False)] = None,
    as_json: AsJson = False,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="With --json: also the bits/dim of each image.")
    ] = False,
    ode: Annotated[
        bool, typer.Option("--ode", help="The likelihood of the probability-flow ODE in place of the bound.")
    ] = False,
    trace: Annotated[
        Literal["hutchinson", "exact"] | None,
        typer.Option(help="Of --ode: exact is slow beyond a few hundred dimensions.", show_default="hutchinson"),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=1e-8, max=0.1, help="Of --ode, the solver's.", show_default="1e-5")
    ] = None,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """The bound on -log p of DATA's images (of those held out, if any are) under RUN, in bits per dimension.

    What is found is kept in RUN/measured, for its page.
    """
    from clearwater.assembly import pick_device
    from clearwater.bound_estimate import estimate_bound
    from clearwater.data import lasting_name
    from clearwater.decoders import DensityDecoder, DiscretizedDecoder
    from clearwater.denoisers import Clipped, Denoiser
    from clearwater.evaluation.report_words import beyond_pixels
    from clearwater.likelihood import bound as exact_bound
    from clearwater.ode_likelihood import flow_likelihood
    from clearwater.pictures import plot_bound, write_picture
    from clearwater.training import RunFolder
    from clearwater.world import world

    keep_freed_memory()
    if per_image and not as_json:
        raise InputError("The figures of each image are part of the JSON object: use --per-image with --json.")
    if plot is not None:
        refuse_picture(plot, ".png")
    if ode and (levels, variance, budget, plot, decoder) != (None, None, None, None, "discretized"):
        raise InputError(
            "The ODE has no levels, no variance and no terms: --ode is used without --levels, --variance, --budget, "
            "--decoder and --plot."
        )
    if not ode and (trace, tolerance) != (None, None):
        raise InputError("--trace and --tolerance are of the ODE: use them with --ode.")
    with world() as processes:
        chosen = pick_device(device)
        if chosen.type == "mps":
            say("The bound is computed in float64, which Apple's GPUs lack: this runs on the processor.")
            chosen = pick_device("cpu")
        folder, keeping = RunFolder.open(run), Keeping(cache)
        # The bound is a figure to be compared, so the network runs in the precision of its weights.
        with processes.after_the_first():  # who measures what is kept with the run
            network = load_network(
                folder, chosen, variance=variance, clip=clip, weights=weights, exact=True, keeping=keeping
            )
            x_0 = _images(folder, data, n, keeping, quiet=not processes.first).to(chosen)
        denoiser: Denoiser = Clipped(network) if clip else network
        for warning in folder.warnings if processes.first else ():
            say(warning)
        if not ode and processes.first and folder.config().objective.coupling != "independent":
            say("This run was trained with noise that was chosen for each image: the bound holds, but --ode is nearer.")
        evaluated: dict[str, Any] = {
            "data": lasting_name(data),
            "split": _split(folder, data),
            "weights": weights,
            "clipped": clip,
            "images": len(x_0),
        }
        if ode:
            trace, tolerance = trace or "hutchinson", tolerance or 1e-5
            with live_line("ode", shown=processes.first) as report:
                flow = flow_likelihood(
                    denoiser,
                    x_0,
                    trace=trace,
                    tolerance=tolerance,
                    seed=seed,
                    batch=min(batch, 50),
                    progress=lambda fraction: report(fraction, f"{len(x_0)} images"),
                    world=processes,
                )
            if not processes.first:
                return
            evaluated = {"trace": trace, "tolerance": tolerance, **evaluated}
            told = {**_of_flow(flow), **evaluated}
            if as_json:
                print(json.dumps({**told, **({"per_image": flow.per_image.tolist()} if per_image else {})}))
            else:
                _print_flow(flow, evaluated)
            keep_with(folder, "bound", context, told)
            return
        chain = denoiser.chain if levels is None else denoiser.chain.strided(levels)
        of_pixels = DensityDecoder() if decoder == "density" else DiscretizedDecoder()
        evaluated |= {
            "variance": variance or folder.config().chain.variance,
            "levels": chain.T,
            "decoder_kind": decoder,
        }
        with live_line("bound", shown=processes.first) as report:

            def progress(fraction: float) -> None:
                report(fraction, f"{len(x_0)} images, {chain.T} levels")

            options: dict[str, Any] = {
                "chain": chain,
                "decoder": of_pixels,
                "seed": seed,
                "batch": batch,
                "progress": progress,
                "world": processes,
            }
            if budget is None:
                result = exact_bound(denoiser, x_0, **options)
            else:
                result = estimate_bound(denoiser, x_0, budget, **options)
        if not processes.first:
            return
        told = {**_terms(result), **evaluated}
        if as_json:
            print(json.dumps({**told, **({"per_image": result.per_image.tolist()} if per_image else {})}))
        else:
            _print_table(result, chain, evaluated)
            beyond = beyond_pixels(result.total, optimal=evaluated["variance"] == "optimal")
            if beyond is not None:
                print(beyond)
        if plot is not None:
            write_picture(plot, plot_bound(result, chain))
        keep_with(folder, "bound", context, told)


def _split(folder: RunFolder, data: str) -> str:
    """What the images are to the run: "held_out" or "train", or "other" if they are not of its own."""
    from clearwater.data import lasting_name, unseen_split

    own = folder.config().data
    return unseen_split(own.source, own.held_out) if lasting_name(data) == own.source else "other"


def _images(folder: RunFolder, data: str, n: int | None, keeping: Keeping, *, quiet: bool) -> Tensor:
    """The images that are measured, as the run sees them, in float64: shape (N, C, H, W)."""
    import torch

    from clearwater.data import pixel_values, unseen_split
    from clearwater.evaluation.unseen import some

    seen = data_to_measure(folder, data, keeping)
    images = keeping.load(seen, unseen_split(seen.source, seen.held_out), quiet=quiet)
    if not quiet:
        say_skipped(images.skipped)
    channels, height, width = images.shape
    x_0 = some(images, n or len(images))[0]
    say(f"{len(x_0):,} images, as the run sees them: {height} × {width}, {'grey' if channels == 1 else 'RGB'}.")
    if len(x_0) < 2:
        raise InputError(f"'{data}' has one image, and a bound with its standard error takes at least two.")
    return pixel_values(x_0, torch.float64)


def _of_flow(flow: FlowLikelihood) -> dict[str, Any]:
    # The spread over the images counts everything that could have been otherwise, so it is also an upper limit of
    # the error for these images.
    error = flow.stderr_of_population
    return {"total": flow.total, "stderr": error, "stderr_population": error, "evaluations": flow.evaluations}


def _print_flow(flow: FlowLikelihood, evaluated: dict[str, Any]) -> None:
    print(_line(evaluated))
    print(f"{'total    -log p of the probability-flow ODE':45} {flow.total:12.6f} bits/dim")
    print(f"± {flow.stderr_of_population:.4f} for all images like them; {flow.evaluations:,} network evaluations")


def _line(evaluated: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in evaluated.items())


def _terms(result: Bound) -> dict[str, Any]:
    return {
        "total": result.total,
        "prior": float(result.prior.mean()),
        "rate": float(result.rate.mean()),
        "decoder": float(result.decoder.mean()),
        "kl": result.kl.tolist(),
        "stderr": result.stderr,
        "stderr_population": result.stderr_of_population,
        "evaluations": result.evaluations,
    }


def _print_table(result: Bound, chain: Chain, evaluated: dict[str, Any]) -> None:
    terms = _terms(result)
    print(_line(evaluated))
    for label, name in (
        ("prior    KL(q(x_T | x_0) ‖ p(x_T))", "prior"),
        (f"rate     the KL terms of levels 2 to {chain.T}", "rate"),
        ("decoder  -log p(x_0 | x_1), the distortion", "decoder"),
        ("total", "total"),
    ):
        print(f"{label:45} {terms[name]:12.6f} bits/dim")
    # Of one noise a level the error for these images is only known from above.
    limit = "at most " if result.evaluations == chain.T * len(result.prior) else ""
    print(
        f"± {limit}{result.stderr:.4f} for these images, ± {result.stderr_of_population:.4f} for all images like them; "
        f"{result.evaluations:,} network evaluations"
    )
