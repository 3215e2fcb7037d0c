"""The bound of one trained run with every reverse variance, at several numbers of levels.

    python benchmarks/variances.py RUN [--n 1000] [--levels 10 25 50 100 200 1000]
                                [--variances optimal …] [--json FILE]

All variances are given the same noise and the same predictions of the mean, so their differences are exact to
far less than the standard error. A cell is what `clearwater bound RUN fashion-mini --levels K --variance V` prints.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from clearwater import Chain, Clipped, Denoiser, RunFolder, Variance, load_images, posterior
from clearwater.cli.models import load_network
from clearwater.decoders import DiscretizedDecoder
from clearwater.gaussians import Gaussian
from clearwater.likelihood import on_grid, prior_term, step_term
from clearwater.randomness import generator

NAMES = ("fixed_large", "fixed_small", "learned_range", "network", "optimal")
BATCH = 250


@torch.inference_mode()
def bounds(denoiser: Denoiser, variances: dict[str, Variance], x_0: Tensor, chain: Chain) -> dict[str, Tensor]:
    """Bits per dimension of every image, by variance, shape (N,); the noise is that of `clearwater.bound`."""
    totals = {name: torch.zeros(len(x_0), dtype=torch.float64) for name in variances}
    for k in range(1, chain.T + 1):
        pair = chain.pair(k)
        for first in range(0, len(x_0), BATCH):
            part = x_0[first : first + BATCH]
            rng = generator(0, "exact", k, first)
            x_t = pair.t.noise(part, torch.randn(part.shape, generator=rng, dtype=part.dtype))
            prediction = denoiser(x_t, pair.t)
            mean = posterior(x_t, prediction.x_0, pair).mean
            for name, variance in variances.items():
                reverse = Gaussian(mean, variance.of(pair, x_t, prediction))
                totals[name][first : first + BATCH] += step_term(part, x_t, reverse, pair, DiscretizedDecoder())
    prior = prior_term(x_0, chain)
    return {name: (total + prior) / (x_0[0].numel() * math.log(2)) for name, total in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--levels", type=int, nargs="+", default=[10, 25, 50, 100, 200, 1000])
    parser.add_argument("--variances", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = RunFolder.open(options.run)
    cpu = torch.device("cpu")
    models = {name: load_network(folder, cpu, variance=name, clip=True, exact=True) for name in options.variances}
    variances = {name: model.variance for name, model in models.items()}
    denoiser = Clipped(next(iter(models.values())))
    x_0 = on_grid(load_images("fashion-mini", split="held_out").images[: options.n].double() / 127.5 - 1)
    rows = []
    for K in options.levels:
        found = bounds(denoiser, variances, x_0, denoiser.chain.strided(K))
        rows.append(
            {"levels": K} | {name: [float(v.mean()), float(v.std()) / len(v) ** 0.5] for name, v in found.items()}
        )
        print(K, "  ".join(f"{name} {mean:.4f} ± {error:.4f}" for name, (mean, error) in list(rows[-1].items())[1:]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
