"""The race in pictures: distance against training time, and samples of every side."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from legs import Leg, Results
from sides import SIDES

mpl.use("Agg")

from matplotlib import pyplot as plt

__all__ = ["draw_grids", "draw_race"]

_ROWS, _COLUMNS = 2, 16
_COLOURS = {"clearwater": "C0", "diffusers": "C1", "denoising_diffusion_pytorch": "C2", "torch": "C3"}
_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "v"))  # of the sides of one package

Pixels = npt.NDArray[np.uint8]


def draw_race(results: Results, path: Path) -> None:
    """A line a side through the ends of its budgets; of several legs their mean, lowest and highest."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    packages = [about.package for about in SIDES.values()]
    for i, (side, about) in enumerate(SIDES.items()):
        legs = list(results.of(side).values())
        if not legs:
            continue
        x = [statistics.fmean(each.seconds for each in some) for some in legs]
        distances = [[each.distance for each in some] for some in legs]
        y = [statistics.fmean(some) for some in distances]
        errors = [
            [middle - min(some) for middle, some in zip(y, distances, strict=True)],
            [max(some) - middle for middle, some in zip(y, distances, strict=True)],
        ]
        style, marker = _STYLES[packages[:i].count(about.package) % len(_STYLES)]
        axes.errorbar(
            x, y, errors, marker=marker, markersize=5, linestyle=style, color=_COLOURS[about.package], label=about.title
        )
    floors = [result.floor for result in results.found if result.floor is not None]
    if floors:
        axes.axhline(statistics.fmean(floors), color="grey", linestyle="--", label="held-out images: the floor")
    one = results.found[0]
    axes.set(xscale="log", yscale="log", xlabel="seconds of training, the start of the process among them")
    axes.set(ylabel=f"Fréchet distance, {one.features}")
    axes.set_title(f"{one.n:,} samples, at most {one.evaluations} evaluations of the network each", fontsize=10)
    ticks = sorted({60 * result.minutes for result in results.found})
    axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_grids(results: Results, samples: Callable[[Leg], Path], real: Path, path: Path) -> None:
    """The first samples of every side at its longest budget, below real images; none of them was chosen.

    Args:
        results: of the legs.
        samples: the folder of a leg's samples.
        real: a .npy file of training images, (N, C, H, W).
        path: of the picture.
    """
    data = np.load(real, mmap_mode="r")
    strides = np.linspace(0, len(data) - 1, min(len(data), _ROWS * _COLUMNS)).astype(int)  # a folder's are by classes
    of_data = data[strides].transpose(0, 2, 3, 1)
    blocks = {"training images": _tiled(of_data)}
    for side, about in SIDES.items():
        legs = [
            leg for some in results.of(side).values() for leg in some if (samples(leg.leg) / "samples.npz").is_file()
        ]
        if legs:
            last = min((leg for leg in legs if leg.minutes == legs[-1].minutes), key=lambda leg: (leg.round, leg.seed))
            with np.load(samples(last.leg) / "samples.npz") as made:
                title = about.title.replace(", ", ",\n").replace("diffusion-", "diffusion-\n")
                blocks[f"{title}\n{last.minutes:g} min: {last.distance:.3g}"] = _tiled(made["images"])
    figure, rows = plt.subplots(len(blocks), figsize=(11, 1.15 * len(blocks)), layout="constrained")
    for axes, (label, picture) in zip(np.atleast_1d(rows), blocks.items(), strict=True):
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def _tiled(images: Pixels) -> Pixels:
    """(N, H, W, C) as one picture of rows and columns, black where there are too few."""
    _, H, W, C = images.shape
    tiles = np.zeros((_ROWS * _COLUMNS, H, W, C), np.uint8)
    tiles[: len(images)] = images[: len(tiles)]
    rows = tiles.reshape(_ROWS, _COLUMNS, H, W, C).transpose(0, 2, 1, 3, 4)
    return rows.reshape(_ROWS * H, _COLUMNS * W, C)
