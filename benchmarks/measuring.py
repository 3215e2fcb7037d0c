"""What measuring samples costs: the whole command, its memory against their number, and its figures beside peers'.

Samples are the given images again and again, each time under other weak noise. `clearwater measure` compares them with
the built-in images, all figures, in a process of its own for each number: its time, and its memory at most, its own
(RssAnon) and with what it has mapped of files (VmHWM). Of `--beside` samples it is run once more with what the
first run has kept; and where they are installed, figures of the same features are made by torchmetrics and prdc, in
turn with ours.

    python benchmarks/measuring.py IMAGES [--samples 1000 10000 30000 100000] [--rounds 3] [--out PICTURE.png]
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import Busy, described
from torch import Tensor

from clearwater.data import load_images
from clearwater.evaluation import extractor, features_of
from clearwater.evaluation.fidelity import frechet_estimate
from clearwater.evaluation.kernel import kernel_distance, kernel_distance_of_subsets
from clearwater.evaluation.manifold import manifold

_SIZE = 28, 28
_NOISE = 4.0  # grey values
_AT_ONCE = 10_000
_LOOKED = 0.02  # seconds between looks at the memory
_K = 5


def write(path: Path, images: Tensor, n: int) -> None:
    """Writes n samples as a `.npy` or a `.npz` file."""
    drawn = np.random.default_rng(0)
    samples = np.empty((n, *_SIZE, 1), np.uint8)
    for first in range(0, n, _AT_ONCE):
        part = images[torch.arange(first, min(first + _AT_ONCE, n)) % len(images), 0, :, :, None].numpy()
        noise = drawn.normal(0, _NOISE, part.shape)
        samples[first : first + len(part)] = (part + noise).round().clip(0, 255)
    if path.suffix == ".npy":
        np.save(path, samples)
    else:
        np.savez(path, images=samples)


def command(samples: Path, cache: Path) -> dict[str, float]:
    """Runs `clearwater measure`: seconds, and memory at most, in MB."""
    line = [sys.executable, "-m", "clearwater", "measure", str(samples), "fashion-mini", "--json", "--device", "cpu"]
    began, peak = time.perf_counter(), {"RssAnon": 0.0, "VmHWM": 0.0}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([*line, "--cache", str(cache)], stdout=said, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            found = _memory(process.pid)
            peak = {name: max(value, found.get(name, 0.0)) for name, value in peak.items()}
            time.sleep(_LOOKED)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(line)} ended with {process.returncode}.")
        said.seek(0)
        told = json.load(said)
    count = told["images"]["samples"]
    made = {"samples": count, "figures": len(told["figures"]), "s": seconds}
    return {**made, "own_mb": peak["RssAnon"], "all_mb": peak["VmHWM"]}


def _memory(pid: int) -> dict[str, float]:
    """What a process has, in MB; nothing of one that has just ended.

    The kernel's ru_maxrss would not do: a new process begins with that of the one that started it.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if line.startswith(("Rss", "VmHWM")))
    return {name: int(value.split()[0]) / 1024 for name, value in fields.items()}


class _AsTheyAre(torch.nn.Module):
    """For peers that take images and a network: features that are there already."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        return x


def sides(samples: Tensor, data: Tensor) -> dict[str, dict[str, Callable[[], dict[str, float]]]]:
    """What makes each figure of these features: ours, and a peer's where it is installed."""
    rest = samples.shape[1]
    found: dict[str, dict[str, Callable[[], dict[str, float]]]] = {
        "Fréchet distance": {"ours": lambda: {"value": frechet_estimate(samples, data).value}},
        "kernel distance of 100 subsets of 1,000": {
            "ours": lambda: {"value": kernel_distance_of_subsets(samples, data).mean}
        },
        "kernel distance of all pairs": {"ours": lambda: {"value": kernel_distance(samples, data).value}},
        "precision, recall, density, coverage": {"ours": lambda: _ground(samples, data)},
    }

    def of_torchmetrics(metric: Any) -> dict[str, float]:
        metric.update(data, real=True)
        metric.update(samples, real=False)
        value = metric.compute()
        return {"value": float(value[0] if isinstance(value, tuple) else value)}

    try:
        fid, kid = (importlib.import_module(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
    except ModuleNotFoundError:
        print("torchmetrics is not installed: pip install torchmetrics", file=sys.stderr)
    else:
        by_kid = {"torchmetrics": lambda: of_torchmetrics(kid.KernelInceptionDistance(feature=_AsTheyAre(rest)))}
        found["Fréchet distance"]["torchmetrics"] = lambda: of_torchmetrics(
            fid.FrechetInceptionDistance(feature=_AsTheyAre(rest))
        )
        found["kernel distance of 100 subsets of 1,000"] |= by_kid
        found["kernel distance of all pairs"]["torchmetrics, of subsets"] = by_kid["torchmetrics"]
    try:
        prdc = importlib.import_module("prdc")
    except ModuleNotFoundError:
        print("prdc is not installed: pip install prdc", file=sys.stderr)
    else:
        found["precision, recall, density, coverage"]["prdc"] = lambda: {
            name: float(value) for name, value in prdc.compute_prdc(data.numpy(), samples.numpy(), _K).items()
        }
    return found


def _ground(samples: Tensor, data: Tensor) -> dict[str, float]:
    found = manifold(samples, data, k=_K)
    return {name: getattr(found, name).value for name in ("precision", "recall", "density", "coverage")}


def beside(samples: Path, rounds: int) -> list[str]:
    """A table of the seconds of each side, in turn, and their ratio."""
    made = extractor("garments", (1, *_SIZE))
    of_samples, of_data = (features_of(load_images(str(of)), made).features.clone() for of in (samples, "fashion-mini"))
    rows = ["| figure | ours | peer's | ours / peer's | values |", "|---|---|---|---|---|"]
    for figure, by_side in sides(of_samples, of_data).items():
        seconds: dict[str, list[float]] = {name: [] for name in by_side}
        values = {}
        for _ in range(rounds):
            for name, make in by_side.items():
                began = time.perf_counter()
                values[name] = make()
                seconds[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(of) for name, of in seconds.items()}
        told = " beside ".join(", ".join(f"{value:.5g}" for value in each.values()) for each in values.values())
        rows.append(f"| {figure} | {medians['ours']:.2f} s | {_against(medians)} | {told} |")
    return rows


def _against(medians: dict[str, float]) -> str:
    """A peer's time and ours as a share of it; nothing if there is none."""
    for name, seconds in medians.items():
        if name != "ours":
            return f"{seconds:.2f} s ({name}) | {medians['ours'] / seconds:.2f}"
    return "|"


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """Memory and time against the number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    of_memory, of_time = figure.subplots(1, 2)
    for kind, marker, line in ((".npz", "o", "-"), (".npy", "s", "")):
        these = [each for each in found if each["source"] == kind and each["cache"] == "cold"]
        n = [each["samples"] for each in these]
        for name, said, colour in (("own_mb", "its own", "#1f6f8b"), ("all_mb", "with mapped files", "#c2572b")):
            label = f"{said} ({kind})"
            of_memory.plot(n, [each[name] for each in these], f"{marker}{line}", color=colour, label=label)
        of_time.plot(n, [each["s"] for each in these], f"{marker}{line}", color="#1f6f8b", label=kind)
    of_memory.set_ylabel("memory at most, MB")
    of_memory.set_ylim(0)
    of_time.set_ylabel("time of the command, s")
    of_time.set_yscale("log")
    for axes in (of_memory, of_time):
        axes.set_xscale("log")
        axes.set_xlabel("samples of 28 × 28, against 9,000 images")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Writes samples, measures them, prints tables and the same as JSON, removes the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="real images: a folder of Fashion-MNIST, or anything that clearwater reads")
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 10_000, 30_000, 100_000])
    parser.add_argument("--beside", type=int, default=10_000, help="samples with a second run, and beside peers")
    parser.add_argument("--rounds", type=int, default=3, help="of each side beside peers")
    parser.add_argument("--out", type=Path, help="a picture, such as docs/images/measuring-scale.png")
    options = parser.parse_args()
    busy, found = Busy(), []
    images = load_images(options.images, size=_SIZE, channels=1).images
    with tempfile.TemporaryDirectory(prefix="measuring-") as work:
        for n in sorted({*options.samples, options.beside}):
            # The largest once more as a file that is mapped instead of read.
            for suffix in (".npz", ".npy") if n == max(options.samples) else (".npz",):
                samples, cache = Path(work) / f"samples-{n}{suffix}", Path(work) / f"cache-{n}{suffix}"
                write(samples, images, n)
                states = ("cold", "warm") if n == options.beside else ("cold",)
                found += [{"source": suffix, "cache": state, **command(samples, cache)} for state in states]
                if n != options.beside:
                    samples.unlink()
        beside_peers = beside(Path(work) / f"samples-{options.beside}.npz", options.rounds)
    print(f"{described()}; other programs took {busy.share():.0%} of the processors' time\n")
    print(
        "| samples | source | cache | figures | time | own memory | with mapped files |\n|---|---|---|---|---|---|---|"
    )
    for each in found:
        print(f"| {each['samples']:,} | {each['source']} | {each['cache']} | {each['figures']} | {each['s']:.1f} s | "
              f"{each['own_mb']:.0f} MB | {each['all_mb']:.0f} MB |")  # fmt: skip
    print("", *beside_peers, json.dumps(found), sep="\n")
    if options.out:
        plot(found, options.out)


if __name__ == "__main__":
    main()
