"""What an image costs against resolution, width, batch and number of images, and what a time of training buys.

Cost: the recipe `small-grey` with one setting changed, on images of noise; every setting has a trainer of its own, and
they take turns for half a second each, round by round; the figure is the median of the rounds. Quality: `clearwater
train DATA --minutes M` once for each M, and the Fréchet distance of its samples, as `clearwater measure` has it. With
each goes the exponent p of figure ∝ x^p, by least squares in the logarithms of all rows.

    python benchmarks/scaling.py [--rounds 7] [--plot scaling.png]
    python benchmarks/scaling.py --data DATA --minutes 0.3 1 3 10 30 --out FOLDER [--plot scaling_quality.png]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import Busy, described

from clearwater.data import ImageSet
from clearwater.settings import resolve
from clearwater.training import Progress, Trainer

_AXES = {
    "resolution": ("data.size", (16, 32, 64, 128)),
    "width": ("model.channels", (16, 32, 64, 128)),
    "batch": ("training.batch", (4, 8, 16, 32, 64, 128)),
    "images": ("", (100, 1_000, 10_000, 100_000)),
}
_COLOURS = ("#1f6f8b", "#c2572b", "#5b8c3a", "#7a5195")
_WARM = 2  # rounds that do not count
Rows = list[tuple[float, float]]


def progress(axis: str, value: int) -> Iterator[Progress]:
    """Endless training with this setting."""
    setting, _ = _AXES[axis]
    sets = [f"{setting}={value}"] if setting else []
    size = value if axis == "resolution" else 32
    n = value if axis == "images" else 64
    images = torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    options = {"training.steps": 10**9, "training.minutes": None}
    config = resolve(recipe="small-grey", sets=["data.size=32", "data.channels=3", *sets], options=options)
    return (event for event in Trainer(config, ImageSet(images), torch.device("cpu")) if isinstance(event, Progress))


def costs(rounds: int) -> dict[str, Rows]:
    """Milliseconds an image, by axis and value."""
    found: dict[str, Rows] = {}
    for axis, (_, values) in _AXES.items():
        trained = {value: progress(axis, value) for value in values}
        speeds: dict[int, list[float]] = {value: [] for value in values}
        for round_ in range(_WARM + rounds):
            for value, reports in trained.items():
                next(reports)  # of the time while others had their turn
                report = next(reports)
                if round_ >= _WARM:
                    speeds[value].append(report.images_per_second)
        found[axis] = [(value, 1000 / statistics.median(each)) for value, each in speeds.items()]
        print(f"{axis}: done", file=sys.stderr, flush=True)
    return found


def quality(data: str, minutes: Sequence[float], folder: Path, n: int) -> list[dict[str, Any]]:
    """What was trained in each time: its steps, its width and its distance; what is there already is not made again."""
    found = []
    for each in minutes:
        run = folder / f"{each:g}"
        kept = folder / f"{each:g}.json"
        if not kept.exists():
            busy = Busy()
            command = [sys.executable, "-m", "clearwater"]
            subprocess.run([*command, "train", data, "--out", str(run), "--minutes", str(each)], check=True)
            told = subprocess.run([*command, "info", str(run), "--json"], capture_output=True, text=True, check=True)
            line = [*command, "measure", str(run), "--n", str(n), "--only", "frechet_distance", "--json"]
            measured = subprocess.run(line, capture_output=True, text=True, check=True)
            distance = json.loads(measured.stdout)["figures"]["frechet_distance"]
            made = {"minutes": each, "info": json.loads(told.stdout), "distance": distance, "others": busy.share()}
            kept.write_text(json.dumps(made))
        found.append(json.loads(kept.read_text()))
    return found


def exponent(rows: Rows) -> float:
    """p of y ∝ x^p, by least squares in the logarithms."""
    x, y = ([math.log(row[i]) for row in rows] for i in (0, 1))
    return statistics.linear_regression(x, y).slope


def plot(panels: dict[str, tuple[Rows, str]], path: Path) -> None:
    """A panel for each axis, both scales logarithmic, with the line of its exponent."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    figure = Figure(figsize=(3.4 * len(panels), 3.2), layout="constrained")
    for axes, (name, (rows, label)), colour in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), _COLOURS, strict=False
    ):
        x, y = zip(*rows, strict=True)
        p = exponent(rows)
        middle = math.exp(statistics.fmean(map(math.log, x))), math.exp(statistics.fmean(map(math.log, y)))
        axes.plot(x, y, "o", color=colour)
        axes.plot(x, [middle[1] * (each / middle[0]) ** p for each in x], color=colour, alpha=0.5, label=f"^{p:.2f}")
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel=label)
        axes.set_xticks(x, [f"{each:,g}" for each in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(min(y) / 1.5, max(y) * 1.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--data", help="measure quality on these images in place of costs")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.3, 1, 3, 10, 30])
    parser.add_argument("--n", type=int, default=5000, help="samples that are measured")
    parser.add_argument("--out", type=Path, default=Path("scaling"), help="where the runs are kept")
    options = parser.parse_args()
    busy = Busy()
    panels: dict[str, tuple[Rows, str]] = {}
    if options.data:
        options.out.mkdir(parents=True, exist_ok=True)
        found = quality(options.data, options.minutes, options.out, options.n)
        print("| minutes | parameters | steps | distance | 95% | others |\n|---|---|---|---|---|---|")
        for each in found:
            distance, info = each["distance"], each["info"]
            low, high = distance["interval"]
            print(
                f"| {each['minutes']:g} | {info['parameters'] / 1e6:.2f} M | {info['steps']:,} "
                f"| {distance['value']:.3g} | {low:.3g} to {high:.3g} | {each['others']:.0%} |"
            )
        rows = [(60 * each["minutes"], each["distance"]["value"]) for each in found]
        panels["seconds of training"] = rows, "Fréchet distance"
        print(f"\nexponent: {exponent(rows):.2f}")
    else:
        for axis, rows in costs(options.rounds).items():
            panels[axis] = rows, "ms an image"
            values = ", ".join(f"{value:,}: {cost:.3g}" for value, cost in rows)
            print(f"| {axis} | {values} | {exponent(rows):.2f} |")
        print(f"\n{described()}; other programs took {busy.share():.0%} of the processors' time")
    if options.plot:
        plot(panels, options.plot)


if __name__ == "__main__":
    main()
