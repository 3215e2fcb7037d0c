"""Classes and guidance: how often a classifier sees the class that was asked for, and how near the samples are.

Of a run of the built-in images that was trained with --labels. The Fréchet distance is that of the library's
classifier of garments, as is the accuracy; that of real held-out images stands beside them.

    python benchmarks/guidance.py RUN [--n 1000] [--steps 20] [--scales 1,1.5,2,3,5] [--picture guidance.png]
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clearwater import Clipped, Guided, load_denoiser, load_images
from clearwater.cli.process import keep_freed_memory
from clearwater.denoisers import Denoiser
from clearwater.evaluation import Moments, frechet_distance, load_garment_classifier
from clearwater.pictures import enlarged, grid, to_uint8, write_picture
from clearwater.randomness import ImageNoise
from clearwater.sampling import sampler, sampling_states, trailing

_BATCH = 100
_CLASSES = 10


def samples(run: Path, scale: float, interval: tuple[float, float], n: int, steps: int) -> Tensor:
    """Image i of class i % 10, uint8."""
    model = load_denoiser(run, "cpu")
    made = []
    for first in range(0, n, _BATCH):
        labels = torch.arange(first, min(first + _BATCH, n)) % _CLASSES
        told = replace(model, labels=labels)
        guided: Denoiser = told if scale == 1 else Guided(told, model, scale, interval=interval)
        noise = ImageNoise(0, range(first, first + len(labels)), (1, 28, 28), "cpu")
        chain = trailing(model.chain, steps)
        last = deque(sampling_states(Clipped(guided), noise, chain, sampler("dpm++2m")), maxlen=1).pop()
        made.append(to_uint8(last.x))
    return torch.cat(made)


def main() -> None:
    """Measures, prints a table, draws a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scales", type=lambda text: [float(x) for x in text.split(",")], default=[1, 1.5, 2, 3, 5])
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    classifier = load_garment_classifier()
    real = Moments.of(classifier.seen(load_images("fashion-mini").images)[0])
    held_out = load_images("fashion-mini", split="held_out")
    assert held_out.labels is not None

    def line(name: str, images: Tensor, labels: Tensor) -> None:
        features, p = classifier.seen(images)
        right = (p.argmax(1) == labels).double().mean()
        print(f"| {name} | {right:.3f} | {frechet_distance(Moments.of(features), real):.2f} |", flush=True)

    print("| | of the class | Fréchet distance, garments-64 |\n|---|---|---|")
    line("real, held out", held_out.images, held_out.labels)
    labels = torch.arange(options.n) % _CLASSES
    rows = []
    for scale in options.scales:
        images = samples(options.run, scale, (0.0, 1.0), options.n, options.steps)
        line(f"scale {scale:g}", images, labels)
        rows.append(images[:_CLASSES])
        if scale > 1:
            within = samples(options.run, scale, (0.1, 0.7), options.n, options.steps)
            line(f"scale {scale:g}, times 0.1 to 0.7", within, labels)
    if options.picture:
        write_picture(options.picture, enlarged(grid(torch.cat(rows), columns=_CLASSES)))


if __name__ == "__main__":
    main()
