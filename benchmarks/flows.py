"""Flows in the plane: how few steps do with independent noise, with coupled noise, and after reflow.

A small network learns the velocity of a rectified flow from N(0, I) to two moons and to eight Gaussians. All flows are
trained for as many steps; reflow goes on from the independent one, on pairs that this one has made. Samples are made by
Euler's method and held against as many points of the data by the exact 2-Wasserstein distance; the floor is that of
other points of the data. How bent the paths are is ∫ E‖(x_1 - x_0) - v(x_t, t)‖² dt along them (Liu et al. 2022,
section 2.2): 0 for straight ones.

    python benchmarks/flows.py [--steps 10000] [--points 2000] [--out docs/images/flows.png]

prints the table and draws the paths.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import clearwater as cw
from clearwater.couplings import Coupling, Independent, OptimalTransport, Sinkhorn
from clearwater.objectives import SquaredError
from clearwater.pictures import write_picture
from clearwater.randomness import Randomness, generator
from clearwater.sampling import DDIM, RungeKutta, sampling_states

_COUNTS = (1, 2, 4, 8, 100)
_BATCH, _WIDTH, _RATE = 128, 128, 2e-3
_PAIRS, _FINE = 20_000, 50  # of reflow, and steps of the method of order 4 that makes them
_SHOWN = 250  # paths


def two_moons(n: int, of: torch.Generator) -> Tensor:
    """Two half circles that reach into each other, shape (n, 2), of variance about 1."""
    angle = math.pi * torch.rand(n, generator=of)
    upper = torch.rand(n, generator=of) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    points = torch.stack([x / 0.87, y / 0.5], 1)
    return points + 0.08 * torch.randn(n, 2, generator=of)


def eight_gaussians(n: int, of: torch.Generator) -> Tensor:
    """Eight small Gaussians on a circle, shape (n, 2), of variance about 1."""
    angle = torch.randint(8, (n,), generator=of) * (math.pi / 4)
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(n, 2, generator=of)


class Velocity(nn.Module):
    """(x, time) → velocity: shapes (B, 2, 1, 1) and (B,) to that of x."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 8, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH),
            nn.SiLU(), nn.Linear(_WIDTH, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angle = math.pi * time[:, None] * torch.tensor([0.5, 1.0, 2.0, 4.0])
        out: Tensor = self.layers(torch.cat([x.flatten(1), angle.sin(), angle.cos()], 1))
        return out.view_as(x)


class Known(Coupling):
    """The noise that the points were made of."""

    def __init__(self) -> None:
        self.noise = torch.empty(0)

    def __call__(self, x_0: Tensor, eps: Tensor, labels: Tensor | None, source: Randomness) -> Tensor:
        return self.noise


@dataclass(frozen=True)
class Found:
    """What is known of a flow: W2 by the number of steps, how bent its paths are, some of them, and seconds a step."""

    distances: dict[int, float]
    bend: float
    paths: Tensor
    seconds: float


def trained(
    draw: Callable[[torch.Generator], Tensor], coupling: Coupling, steps: int, start: Velocity | None
) -> tuple[cw.NetworkDenoiser, float]:
    """A flow, and the seconds that a step of training took."""
    torch.manual_seed(0)
    network = Velocity()
    if start is not None:
        network.load_state_dict(start.state_dict())
    model = cw.NetworkDenoiser(network, cw.chain("flow", 1000), cw.Velocity(), cw.FixedSmall())
    objective = SquaredError(coupling=coupling)
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    data, noise = generator(0, "data"), generator(0, "noise")
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model, draw(data)[..., None, None], noise).mean().backward()
        optimizer.step()
        plan.step()
    return model, (time.perf_counter() - began) / steps


def states(model: cw.NetworkDenoiser, noise: Tensor, steps: int, stepper: cw.Stepper) -> list[Tensor]:
    """x at every level, each (N, 2), from noise to data."""
    made = sampling_states(model, torch.Generator, model.chain.strided(steps), stepper, noise[..., None, None])
    return [state.x.flatten(1) for state in made]


def wasserstein(a: Tensor, b: Tensor) -> float:
    """The exact 2-Wasserstein distance of two sets of as many points."""
    cost = torch.cdist(a.double(), b.double()).square().numpy()
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def bend(path: list[Tensor]) -> float:
    """How far the velocity on the way is from that of the straight line between the ends, squared."""
    way = path[0] - path[-1]  # noise less data
    velocities = [(path[i] - path[i + 1]) * (len(path) - 1) for i in range(len(path) - 1)]
    return float(torch.stack([(way - velocity).square().sum(1).mean() for velocity in velocities]).mean())


def found(model: cw.NetworkDenoiser, points: Tensor, seconds: float) -> Found:
    """Measures a flow against as many points."""
    noise = torch.randn(len(points), 2, generator=generator(1, "noise"))
    distances = {steps: wasserstein(states(model, noise, steps, DDIM())[-1], points) for steps in _COUNTS}
    path = states(model, noise, 100, RungeKutta(4))
    return Found(distances, bend(path), torch.stack(path)[:, :_SHOWN], seconds)


def flows(draw: Callable[[int, torch.Generator], Tensor], steps: int, points: Tensor) -> dict[str, Found]:
    """All flows to these data."""
    results = {}
    first: cw.NetworkDenoiser | None = None
    couplings = {"independent": Independent(), "sinkhorn": Sinkhorn(), "optimal": OptimalTransport()}
    for name, coupling in couplings.items():
        model, seconds = trained(lambda of: draw(_BATCH, of), coupling, steps, None)
        first = first or model
        results[name] = found(model, points, seconds)
        print(name, results[name].distances, f"{results[name].bend:.4f}", flush=True)
    assert first is not None
    noise = torch.randn(_PAIRS, 2, generator=generator(2, "noise"))
    made = states(first, noise, _FINE, RungeKutta(4))[-1].clone()
    known = Known()

    def pairs(of: torch.Generator) -> Tensor:
        rows = torch.randint(_PAIRS, (_BATCH,), generator=of)
        known.noise = noise[rows][..., None, None]
        return made[rows]

    network = first.network
    assert isinstance(network, Velocity)
    model, seconds = trained(pairs, known, steps, network)
    results["reflow"] = found(model, points, seconds)
    print("reflow", results["reflow"].distances, f"{results['reflow'].bend:.4f}", flush=True)
    return results


def drawn(everything: dict[str, tuple[dict[str, Found], Tensor]]) -> Figure:
    """The paths, a row for each of the data, a column for each flow."""
    names = list(next(iter(everything.values()))[0])
    figure = Figure(figsize=(3.1 * len(names), 3.3 * len(everything)), layout="constrained")
    axes = figure.subplots(len(everything), len(names), squeeze=False)
    for row, (results, points) in zip(axes, everything.values(), strict=True):
        for place, name in zip(row, names, strict=True):
            paths = results[name].paths
            place.scatter(*points[:1500].T, s=2, color="#d9d9d9", linewidths=0, rasterized=True)
            place.add_collection(
                LineCollection(list(paths.transpose(0, 1).numpy()), colors="#0072b2", linewidths=0.5, alpha=0.35)
            )
            place.scatter(*paths[0].T, s=4, color="#333333", linewidths=0, label="noise")
            place.scatter(*paths[-1].T, s=6, color="#d55e00", linewidths=0, label="samples")
            place.set_title(f"{name}: bent by {results[name].bend:.3f}", fontsize=10)
            place.set_xlim(-3.2, 3.2)
            place.set_ylim(-3.2, 3.2)
            place.set_aspect("equal")
            place.set_xticks([])
            place.set_yticks([])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, markerscale=3)
    return figure


def main() -> None:
    """Trains, measures, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("flows.png"))
    options = parser.parse_args()
    everything = {}
    for title, draw in (("two moons", two_moons), ("eight Gaussians", eight_gaussians)):
        points, others = (draw(options.points, generator(seed, "points")) for seed in (1, 2))
        everything[title] = flows(draw, options.steps, points), points
        print(f"\n| {title}, W2 after | {' | '.join(f'{count}' for count in _COUNTS)} steps | bent by | ms a step |")
        print("|---" * (len(_COUNTS) + 3) + "|")
        for name, each in everything[title][0].items():
            cells = " | ".join(f"{each.distances[count]:.3f}" for count in _COUNTS)
            print(f"| {name} | {cells} | {each.bend:.4f} | {1e3 * each.seconds:.2f} |")
        print(f"\nfloor, {options.points} other points of the data: {wasserstein(points, others):.3f}\n", flush=True)
    write_picture(options.out, drawn(everything))


if __name__ == "__main__":
    main()
