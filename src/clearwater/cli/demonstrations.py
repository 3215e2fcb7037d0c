"""The commands of `clearwater show` that measure why the method is as it is: a picture and a few figures each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clearwater.cli.loading import Keeping, load
from clearwater.cli.options import Data, Device, Run, Seed, refuse_picture
from clearwater.cli.progress import live_line, say

__all__ = ["gradients", "one_shot", "reverse_steps", "weights"]

Png = Annotated[Path, typer.Option("--out", help="The file, .png.", show_default=False)]


def reverse_steps(out: Png) -> None:
    """Why a Gaussian reverse step is enough: its distance from the true one, over beta."""
    import torch

    from clearwater.chains import linear
    from clearwater.demonstrations import reverse_step_kl, step_of_beta, two_peaks
    from clearwater.pictures import plot_reverse_steps, write_picture

    refuse_picture(out, ".png")
    data, levels = two_peaks(), linear().levels
    betas = torch.logspace(-3, -0.05, 19, dtype=torch.float64)
    curves, names = [], []
    for k in (50, 100, 200):
        curves.append(torch.tensor([reverse_step_kl(data, step_of_beta(levels[k], float(beta))) for beta in betas]))
        names.append(f"from sigma = {float(levels.sigma[k]):.2f} (level {k} of the linear chain)")
    write_picture(out, plot_reverse_steps(data, levels[50], betas, curves, names, (0.9, 0.1, 0.01, 0.001)))
    print(f"{'beta':>8}  KL in nats {names[0]}, …")
    for i in range(0, len(betas), 3):
        print(f"{float(betas[i]):8.4f}  " + "  ".join(f"{float(curve[i]):9.2e}" for curve in curves))
    slopes = [float((curve[3] / curve[0]).log() / (betas[3] / betas[0]).log()) for curve in curves]
    print(f"For small beta the KL falls as beta to the {', '.join(f'{slope:.2f}' for slope in slopes)}.")
    say(f"Wrote '{out}'.")


def one_shot(
    run: Run,
    out: Png,
    n: Annotated[int, typer.Option("--n", min=2, help="How many noises the figures are of.")] = 64,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """What RUN predicts of noise at once, beside what it samples from the same noise."""
    from clearwater.cli.models import load_for_sampling
    from clearwater.data import pixel_values
    from clearwater.demonstrations import OneShot
    from clearwater.demonstrations import one_shot as measured
    from clearwater.pictures import one_shot_picture, write_picture
    from clearwater.randomness import ImageNoise
    from clearwater.training import RunFolder

    refuse_picture(out, ".png")
    denoiser, shape, chosen = load_for_sampling(run, device=device)
    source = RunFolder.open(run).config().data
    data = pixel_values(Keeping().load(source).images)
    with live_line("sampling") as report:
        found = measured(denoiser, ImageNoise(seed, range(n), shape, chosen), lambda at: report(at, f"{n} images"))
    write_picture(out, one_shot_picture(found))
    mean = data.mean(0)
    print(f"{'':34}  differ by  from the mean of the data")
    for name, images in (
        ("predicted from x_T at once", found.predictions),
        ("sampled from the same x_T", found.samples),
        ("the images trained on", data),
    ):
        print(f"{name:34}  {OneShot.spread(images):9.3f}  {OneShot.distance(images, mean):9.3f}")
    print("(root mean squares over pixels; the range of the data is [-1, 1])")
    say(f"Wrote '{out}'.")


def gradients(run: Run, data: Data, out: Png, seed: Seed = 0, device: Device = "auto") -> None:
    """How much more the gradient of the Euclidean objective varies than that of the merged one, over the levels."""
    from clearwater.assembly import pick_device
    from clearwater.data import pixel_values
    from clearwater.demonstrations import gradient_variance
    from clearwater.pictures import plot_gradient_variance, write_picture
    from clearwater.training import RunFolder, load_denoiser
    from clearwater.variances import FixedSmall

    refuse_picture(out, ".png")
    chosen = pick_device(device)
    if chosen.type == "mps":
        say("Gradients are added up in float64, which Apple's GPUs lack: this runs on the processor.")
        chosen = pick_device("cpu")
    folder = RunFolder.open(run)
    denoiser = load_denoiser(folder, chosen, weights="raw")
    denoiser.network.requires_grad_()
    seen = folder.config().data
    for warning in folder.warnings:
        say(warning)
    images = pixel_values(load(data, size=seen.size, channels=seen.channels).images)
    with live_line("gradients") as report:
        found = gradient_variance(
            denoiser, images.to(chosen), FixedSmall(), seed=seed, progress=lambda at: report(at, "of both objectives")
        )
    write_picture(out, plot_gradient_variance(found))
    print(f"{'level':>6}  {'merged':>9}  {'Euclidean':>9}  ratio  if errors were white")
    for k, merged, euclidean, expected in zip(
        found.levels.tolist(),
        found.merged.tolist(),
        found.euclidean.tolist(),
        found.expected_ratio.tolist(),
        strict=True,
    ):
        print(f"{k:6}  {merged:9.3g}  {euclidean:9.3g}  {euclidean / merged:5.1f}  {expected:5.1f}")
    say(f"Wrote '{out}'.")


def weights(
    out: Png,
    chain: Annotated[str, typer.Option(help="linear, half_linear, cosine, sigmoid, vp or flow.")] = "linear",
    variance: Annotated[Literal["fixed_large", "fixed_small"], typer.Option(help="sigma_q².")] = "fixed_large",
    levels: Annotated[int, typer.Option("--levels", min=2, help="Steps of the chain.")] = 1000,
) -> None:
    """The weights that the four approaches give the levels."""
    from clearwater.chains import chain as named_chain
    from clearwater.pictures import plot_weights, write_picture
    from clearwater.targets import Eps
    from clearwater.variances import FixedLarge, FixedSmall
    from clearwater.weights import BoundWeight

    refuse_picture(out, ".png")
    steps = named_chain(chain, levels)
    rule = FixedLarge() if variance == "fixed_large" else FixedSmall()
    write_picture(out, plot_weights(steps, rule, f"{chain}, {variance}"))
    of_eps = BoundWeight(steps, rule)(Eps(), steps.levels[1:])
    smallest = int(of_eps.argmin())
    print(
        f"The bound's weight on the error of eps: {float(of_eps[0]):.6g} at level 1, {float(of_eps[smallest]):.6g} "
        f"at level {smallest + 1} (its smallest), {float(of_eps[-1]):.6g} at level {levels}; L_simple's is 1. (At "
        "level 1 the variance is beta-tilde_2, as in the paper.)"
    )
    say(f"Wrote '{out}'.")
