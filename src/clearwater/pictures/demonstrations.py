"""The figures of demonstrations.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from clearwater.analytic import GaussianMixture
from clearwater.chains import Chain
from clearwater.demonstrations import GradientVariance, OneShot, step_of_beta
from clearwater.levels import Level
from clearwater.pictures.images import enlarged, grid, to_uint8
from clearwater.targets import X0, Eps, Mean, V
from clearwater.variances import LevelVariance
from clearwater.weights import BoundWeight, Unweighted

__all__ = ["one_shot_picture", "plot_gradient_variance", "plot_reverse_steps", "plot_weights"]

_BLUE, _RED, _GREEN, _GREY = "#1f6f8b", "#c2572b", "#5a8f3d", "#888888"


def plot_reverse_steps(
    data: GaussianMixture, s: Level, betas: Tensor, kl: Sequence[Tensor], names: Sequence[str], shown: Sequence[float]
) -> Figure:
    """The true reverse step beside its best Gaussian for the betas `shown`, and their KL over `betas`.

    Args:
        data: of one dimension.
        s: the level whose steps are drawn.
        betas: shape (M,).
        kl: one curve for each of `names`, shape (M,).
        names: of the curves.
        shown: the betas of the drawn steps.
    """
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    cells = figure.subplot_mosaic([[f"step {i}" for i in range(len(shown))], ["kl"] * len(shown)])
    for i, beta in enumerate(shown):
        axes, pair = cells[f"step {i}"], step_of_beta(s, beta)
        # Where both peaks have a part: halfway between what is left of them.
        x_t = pair.t.alpha * data.means.mean(0, keepdim=True)
        best = data.reverse(x_t, pair).moments()
        centre, width = float(best.mean), float(best.variance.sqrt())
        x = torch.linspace(centre - 4 * width, centre + 4 * width, 600, dtype=torch.float64)
        reverse = data.reverse(x_t.expand(600, 1), pair)
        axes.plot(x, reverse.log_prob(x.unsqueeze(1)).exp(), color=_BLUE, linewidth=2, label="true $q(x_s|x_t)$")
        gaussian = best.log_prob(x.unsqueeze(1)).exp().squeeze()
        axes.plot(x, gaussian, "--", color=_RED, linewidth=1.5, label="Gaussian of its mean and variance")
        axes.set_title(rf"$\beta = {beta:g}$")
        axes.set_xlabel("$x_s$")
        axes.set_yticks([])
    figure.legend(*cells["step 0"].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    axes = cells["kl"]
    for values, name, colour in zip(kl, names, (_BLUE, _RED, _GREEN, _GREY), strict=False):
        axes.plot(betas, values, "o-", color=colour, markersize=3, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(r"$\beta$ of the step")
    axes.set_ylabel("KL to the best Gaussian, nats")
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def one_shot_picture(found: OneShot, images: int = 10) -> Image.Image:
    """Three rows: the noise, what is predicted of it at once, and what sampling makes of it."""
    rows = torch.stack([part[:images] for part in (found.noise, found.predictions, found.samples)])
    sheet = enlarged(grid(to_uint8(rows.flatten(0, 1)), rows.shape[1]), 1200).convert("RGB")
    labels = ("x_T, noise", "x_0 predicted from x_T at once", "sampled from the same x_T")
    strip = 22
    height = sheet.height // 3
    labelled = Image.new("RGB", (sheet.width, sheet.height + 3 * strip), "white")
    write = ImageDraw.Draw(labelled)
    for i, label in enumerate(labels):
        top = i * (height + strip)
        write.text((6, top + 4), label, fill="black")
        labelled.paste(sheet.crop((0, i * height, sheet.width, (i + 1) * height)), (0, top + strip))
    return labelled


def plot_gradient_variance(found: GradientVariance) -> Figure:
    """The variance of both gradients by level, and their ratio."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    of_both, ratio = figure.subplots(1, 2)
    of_both.plot(found.levels, found.euclidean, "o-", color=_RED, label="Euclidean: two noises")
    of_both.plot(found.levels, found.merged, "o-", color=_BLUE, label="merged: one noise")
    of_both.set_ylabel("variance of a batch's gradient, summed")
    of_both.set_yscale("log")
    ratio.plot(found.levels, found.euclidean / found.merged, "o-", color=_RED, label="measured")
    ratio.plot(
        found.levels,
        found.expected_ratio,
        "--",
        color=_GREY,
        label=r"$1 + \tilde\beta\,/\,c_0^2\,E(x_0 - \hat x_0)^2$",
    )
    ratio.set_yscale("log")
    ratio.set_ylabel("Euclidean over merged")
    for axes in (of_both, ratio):
        axes.set_xscale("log")
        axes.set_xlabel("level k (0 = data)")
        axes.grid(alpha=0.25)
        axes.legend()
    return figure


def plot_weights(chain: Chain, variance: LevelVariance, name: str) -> Figure:
    """The weights of the four approaches over the levels: on their own errors, and all on the error of eps."""
    t = chain.levels[1:]
    exact, simple = BoundWeight(chain, variance), Unweighted()
    own = (
        ("1: of the mean", exact(Mean(chain), t), _GREY),
        (r"2: of $x_0$", exact(X0(), t), _GREEN),
        (r"3: of $\epsilon$", exact(Eps(), t), _BLUE),
        (r"4: of $\epsilon$, $L_{simple}$", simple(Eps(), t), _RED),
        ("of v", exact(V(), t), "#b59a3c"),
    )
    common = (
        ("1, 2, 3 and v: the bound", exact(Eps(), t), _BLUE),
        (r"4: $L_{simple}$", simple(Eps(), t), _RED),
    )
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    k = torch.arange(1, chain.T + 1)
    titles = ("weight on the squared error of what is predicted", r"the same as a weight on the error of $\epsilon$")
    for axes, curves, title in zip(figure.subplots(1, 2), (own, common), titles, strict=True):
        for label, values, colour in curves:
            axes.plot(k, values, color=colour, linewidth=2, label=label)
        axes.set_yscale("log")
        axes.set_xlabel("level k (0 = data)")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend()
    figure.suptitle(f"{name}, T = {chain.T}")
    return figure
