"""Quality against evaluations of the network, for every sampler, on one run of the built-in images.

The Fréchet distance between samples and the training images in the 64 features of the library's classifier of
garments (which is not the FID, and comparable with itself alone); all cells have the same noise to start from. Cells
that a file already has are not made again, so the command can be interrupted; a file is of one run.

    python benchmarks/samplers.py RUN --out cells.jsonl [--n 2000] [--seeds 1] [--samplers ddim,…] [--grids trailing,…]
        [--evaluations 5,10,…] [--plot picture.png]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a process a core is faster than two threads a step

import torch

from clearwater import Clipped, load_images
from clearwater.cli.making import sampling_chain
from clearwater.cli.models import load_network
from clearwater.cli.process import keep_freed_memory
from clearwater.denoisers import Denoiser
from clearwater.evaluation import Moments, frechet_distance, load_garment_classifier
from clearwater.pictures import to_uint8
from clearwater.randomness import ImageNoise
from clearwater.sampling import sampler, sampling_states
from clearwater.training import RunFolder

_BATCH = 100
_TWICE = {"heun": -1, "dpm++2s": -1}  # two evaluations a step, one at the last


@dataclass(frozen=True)
class Cell:
    """One figure."""

    sampler: str
    variance: str
    grid: str
    evaluations: int
    seed: int
    n: int

    @property
    def steps(self) -> int:
        """The most steps whose evaluations are not more than allowed."""
        return (self.evaluations - _TWICE[self.sampler]) // 2 if self.sampler in _TWICE else self.evaluations


def measure(run: Path, cell: Cell) -> float:
    """The Fréchet distance of a cell's samples to the training images."""
    device = torch.device("cpu")
    folder = RunFolder.open(run)
    network = load_network(folder, device, variance=None if cell.variance == "own" else cell.variance, clip=True)
    denoiser: Denoiser = Clipped(network)
    T = denoiser.chain.T
    chain = denoiser.chain
    if cell.steps < T:
        chain = sampling_chain(folder, network, cell.grid, cell.steps, clip=True)
    classifier = load_garment_classifier()
    moments = None
    for first in range(0, cell.n, _BATCH):
        noise = ImageNoise(cell.seed, range(first, min(first + _BATCH, cell.n)), (1, 28, 28), device)
        last = deque(sampling_states(denoiser, noise, chain, sampler(cell.sampler)), maxlen=1).pop()
        features, _ = classifier.seen(to_uint8(last.x))
        moments = Moments.of(features) if moments is None else moments + Moments.of(features)
    assert moments is not None
    return frechet_distance(moments, Moments.of(classifier.seen(load_images("fashion-mini").images)[0]))


def _work(task: tuple[Path, Cell]) -> tuple[Cell, float]:
    torch.set_num_threads(1)
    keep_freed_memory()
    return task[1], measure(*task)


def _cells(options: argparse.Namespace) -> list[Cell]:
    cells = []
    for seed in range(options.seeds):
        for count in options.evaluations:
            for name in options.samplers:
                kind, _, variance = name.partition("/")
                for grid in options.grids:
                    cell = Cell(kind, variance or "own", grid, count, seed, options.n)
                    if cell.steps <= 1000 and (cell.grid == "trailing" or cell.steps < 1000):
                        cells.append(cell)
    return cells


def plot(results: dict[Cell, float], path: Path) -> None:
    """Distance against evaluations, a line a sampler."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    lines: dict[str, dict[int, list[float]]] = {}
    for cell, value in results.items():
        if cell.grid == "trailing" or (cell.grid == "fitted" and cell.sampler == "unipc"):
            label = cell.sampler + ("" if cell.variance == "own" else f", {cell.variance} variance")
            label += "" if cell.grid == "trailing" else ", fitted grid"
            lines.setdefault(label, {}).setdefault(cell.evaluations, []).append(value)
    for label, points in sorted(lines.items()):
        x = sorted(points)
        fitted = label.endswith("grid")  # drawn after the same sampler on equal strides, in its colour
        style = {"linestyle": "--", "color": axes.lines[-1].get_color()} if fitted else {}
        y = [math.fsum(points[k]) / len(points[k]) for k in x]
        axes.plot(x, y, marker="o", markersize=3, label=label, **style)
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="Fréchet distance, garments-64")
    axes.set_xticks([5, 10, 20, 50, 100, 250, 1000], ["5", "10", "20", "50", "100", "250", "1000"])
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures what is missing, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    names = "ancestral,ancestral/optimal,ddim,heun,dpm++2m,dpm++3m,dpm++2s,dpm++2m-sde,unipc,unipc3"
    parser.add_argument("--samplers", type=lambda text: text.split(","), default=names.split(","))
    parser.add_argument("--grids", type=lambda text: text.split(","), default=["trailing"])
    counts = [5, 10, 20, 50, 100, 250, 1000]
    parser.add_argument("--evaluations", type=lambda text: [int(k) for k in text.split(",")], default=counts)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    results: dict[Cell, float] = {}
    if options.out.is_file():
        for line in options.out.read_text().splitlines():
            entry = json.loads(line)
            distance = entry.pop("distance")
            results[Cell(**entry)] = distance
    wanted = _cells(options)
    missing = [(options.run, cell) for cell in wanted if cell not in results]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool, options.out.open("a") as file:
        for cell, distance in pool.imap_unordered(_work, missing):
            results[cell] = distance
            print(json.dumps({**asdict(cell), "distance": distance}), file=file, flush=True)
            print(cell, f"{distance:.3f}", flush=True)
    columns = sorted({cell.evaluations for cell in wanted})
    print("\n| sampler | grid | " + " | ".join(map(str, columns)) + " |\n|---|---|" + "---|" * len(columns))
    for name, variance, grid in dict.fromkeys((cell.sampler, cell.variance, cell.grid) for cell in wanted):
        row = []
        for count in columns:
            found = [
                results[c]
                for c in wanted
                if (c.sampler, c.variance, c.grid, c.evaluations) == (name, variance, grid, count)
            ]
            row.append(f"{math.fsum(found) / len(found):.2f}" if found else "")
        print(f"| {name}{'' if variance == 'own' else ' / ' + variance} | {grid} | " + " | ".join(row) + " |")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
