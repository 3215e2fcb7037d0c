"""Runs side by side: curves of what they reach, and what they make of the same noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from clearwater.pictures.images import grid

__all__ = ["Curve", "Standing", "plot_comparison", "shortened"]

# Told apart by people who see no red or no green (Okabe & Ito 2008), and by the marks where all is grey.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5c00", "#4aa3d8", "#333333")
_MARKS = "osD^vPX"
_UNITS = ((120.0, 1.0, "seconds"), (3 * 3600.0, 60.0, "minutes"), (math.inf, 3600.0, "hours"))
_WIDTH, _PANELS = 12.0, 4.1  # inches
_LONGEST_ROW = 1.3  # inches that a row of images is high at most
_NAME = 28  # letters of a name that are shown


@dataclass(frozen=True)
class Curve:
    """Distances against something.

    Attributes:
        x: where, rising, shape (N,).
        values: the distances.
        intervals: of 95%, from and to, of each.
    """

    x: Sequence[float]
    values: Sequence[float]
    intervals: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Standing:
    """What is drawn of one run.

    Attributes:
        name: of the run.
        by_evaluations: the distance of its samples against evaluations of the network.
        by_time: the distance against seconds of training.
        bits: the bound in bits per dimension and its standard error; None where there is none.
        images: samples, uint8, shape (M, C, H, W), of the same noise in every run.
    """

    name: str
    by_evaluations: Curve
    by_time: Curve
    bits: tuple[float, float] | None
    images: Tensor


def plot_comparison(
    runs: Sequence[Standing],
    *,
    distance: str,
    caption: str,
    floor: tuple[float, tuple[float, float]] | None,
    floor_of: str,
    bits_of: str,
    evaluations_on_the_way: int,
) -> Figure:
    """Distance against evaluations and against training time, bits per dimension, and a row of images a run.

    Args:
        runs: at least one.
        distance: what the distance is called.
        caption: of the picture: what the distance is of.
        floor: that of real images and its interval; None if it is not known.
        floor_of: which images these are, in a few words.
        bits_of: which images the bound is of, in a few words.
        evaluations_on_the_way: of the network, for the distances against time and for the images.
    """
    figure = Figure(figsize=(_WIDTH, _PANELS + sum(map(_row_height, runs))))
    figure.set_layout_engine("constrained", h_pad=0.07, w_pad=0.07)  # inches
    heights = [_PANELS, *map(_row_height, runs)]
    figure.suptitle(caption, fontsize=11)
    above, *below = figure.subfigures(len(runs) + 1, 1, height_ratios=heights, squeeze=False)[:, 0]
    bounded = any(run.bits is not None for run in runs)
    panels = above.subplots(1, 3 if bounded else 2, width_ratios=[1, 1, 0.8] if bounded else [1, 1])
    _draw_by_evaluations(panels[0], runs)
    _draw_by_time(panels[1], runs, evaluations_on_the_way)
    panels[1].sharey(panels[0])
    for axes in panels[:2]:
        if floor is not None:
            axes.axhline(floor[0], linestyle="--", color="#555555", linewidth=1.2, label=floor_of, zorder=1)
            axes.axhspan(*floor[1], color="#555555", alpha=0.12, linewidth=0, zorder=0)
        axes.set_ylabel(distance)
    _log_scale(panels[0])
    if bounded:
        _draw_bits(panels[2], runs, bits_of)
    for axes in panels:
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == floor_of)  # the floor last
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    above.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False, fontsize=10)
    for i, (run, place) in enumerate(zip(runs, below, strict=True)):
        _draw_images(place, run, _look(i)[0])
    if len(runs) > 1:
        said = f"each column of the same noise, {evaluations_on_the_way} evaluations"
        below[0].axes[0].set_title(said, loc="right", fontsize=9, color="#555555", pad=2)
    return figure


def _look(i: int) -> tuple[str, str]:
    """The colour and the mark of the i-th run."""
    return _COLOURS[i % len(_COLOURS)], _MARKS[i % len(_MARKS)]


def shortened(name: str) -> str:
    """The name; of a long one both ends."""
    return name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"


def _draw_curve(axes: Axes, curve: Curve, i: int, name: str, scale: float = 1.0) -> None:
    colour, mark = _look(i)
    below = [max(value - low, 0.0) for value, (low, _) in zip(curve.values, curve.intervals, strict=True)]
    above = [max(high - value, 0.0) for value, (_, high) in zip(curve.values, curve.intervals, strict=True)]
    # An interval that reaches below zero ends above it, where a logarithm has an end.
    below = [min(down, 0.9 * value) for down, value in zip(below, curve.values, strict=True)]
    axes.errorbar(
        [x / scale for x in curve.x],
        list(curve.values),
        yerr=[below, above],
        color=colour,
        marker=mark,
        markersize=5,
        linewidth=1.8,
        capsize=3,
        elinewidth=1.2,
        label=shortened(name),
    )


def _draw_by_evaluations(axes: Axes, runs: Sequence[Standing]) -> None:
    for i, run in enumerate(runs):
        _draw_curve(axes, run.by_evaluations, i, run.name)
    axes.set_xscale("log")
    at = sorted({x for run in runs for x in run.by_evaluations.x})
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel("evaluations of the network an image")
    axes.set_title("quality against evaluations", fontsize=10)


def _draw_by_time(axes: Axes, runs: Sequence[Standing], evaluations: int) -> None:
    longest = max((x for run in runs for x in run.by_time.x), default=0.0)
    scale, unit = next((scale, unit) for below, scale, unit in _UNITS if longest < below)
    for i, run in enumerate(runs):
        _draw_curve(axes, run.by_time, i, run.name, scale)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"training time, {unit}")
    axes.set_title(f"quality against training time ({evaluations} evaluations)", fontsize=10)


def _log_scale(axes: Axes) -> None:
    """A logarithmic y axis with numbers that people write, more of them where it is short."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    parts: Sequence[float] = (1, 2, 5) if decades < 2.5 else (1,)
    if decades < 0.8:
        parts = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    if decades < 0.2:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=parts))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))


def _draw_bits(axes: Axes, runs: Sequence[Standing], of: str) -> None:
    shown = [(i, run.name, run.bits) for i, run in enumerate(runs) if run.bits is not None]
    for place, (i, name, (value, error)) in enumerate(shown):
        colour, mark = _look(i)
        axes.errorbar(
            [value], [place], xerr=[error], color=colour, marker=mark, markersize=6, capsize=4, label=shortened(name)
        )
        axes.annotate(
            f"{value:.3f} ± {error:.3f}",
            (value, place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontsize=9,
        )
    axes.set_yticks([])
    axes.set_ylim(len(shown) - 0.4, -0.7)  # the first on top, as in the legend
    axes.margins(x=0.35)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.set_xlabel("bits/dim, less is better")
    axes.set_title(f"bound on the likelihood of {of}", fontsize=10)


def _row_height(run: Standing) -> float:
    """Inches that a row of images takes, with its title."""
    count, _, height, width = run.images.shape
    return min(_LONGEST_ROW, 0.97 * _WIDTH * height / width / max(count, 1)) + 0.45


def _draw_images(place: SubFigure, run: Standing, colour: str) -> None:
    axes = place.subplots()
    row = np.asarray(grid(run.images, columns=len(run.images)))
    axes.imshow(row, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(shortened(run.name), loc="left", fontsize=10, color=colour, pad=2)
