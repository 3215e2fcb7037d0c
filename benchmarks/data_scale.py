"""What data costs in time and memory, against the number of images: 1,000 to 1,000,000 of 32 × 32, RGB.

Images of noise are written as a `.npy` file and, up to 100,000, as a folder of PNG files, which clearwater decodes
into its cache. For each number a fresh process measures the start (`load_images`, and the digest by which a `Trainer`
knows its data again), batches in random order, its own and its file-backed memory at most after 2,000 batches of 32 and
of 256 and after 100 real training steps of the recipe small-grey, and a batch as a share of such a step, both in
processor time. A million images take 3 GB of disk, which are free again at the end.

    python benchmarks/data_scale.py [--images 1000 10000 100000 1000000] [--plot docs/images/benchmarks/data_scale.png]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import Busy, described, memory
from PIL import Image

from clearwater.data import Batches, load_images
from clearwater.settings import resolve
from clearwater.training import Trainer

_SIDE = 32
_AT_ONCE = 10_000
_FOLDERS_UP_TO = 100_000
_BATCHES = 2_000
_STEPS = 100
_SAMPLED = 0.005  # seconds between looks at the memory
_BATCH = 32  # the recipe's


def measure(source: Path, cache: Path, batches: int, steps: int) -> dict[str, float]:
    """Runs in a process of its own: what one source costs."""
    before = memory()
    began = time.perf_counter()
    images = load_images(source, cache=cache)
    found: dict[str, float] = {"images": len(images), "load_s": time.perf_counter() - began}
    began = time.perf_counter()
    images.digest()
    found["digest_s"] = time.perf_counter() - began
    peak = memory()
    for batch in (_BATCH, 256):
        batch_of = Batches(images, batch, seed=0, flip=False, device="cpu")
        seconds = []
        used = time.process_time()
        for step in range(batches):
            began = time.perf_counter()
            batch_of(step)
            seconds.append(time.perf_counter() - began)
            if step % 50 == 49:
                peak = {name: max(peak[name], value) for name, value in memory().items()}
        found[f"batch_{batch}_ms"] = 1000 * statistics.median(seconds)
        found[f"batch_{batch}_processor_ms"] = 1000 * (time.process_time() - used) / batches
    found |= {f"{name}_batches": value - before[name] for name, value in peak.items()}
    config = resolve(recipe="small-grey", sets=["data.size=32", "data.channels=3"], options={"training.steps": steps})
    trainer = Trainer(config, images, torch.device("cpu"))
    used = time.process_time()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, ended))  # since the peak is in the middle of a step
    watcher.start()
    for _ in trainer:
        pass
    ended.set()
    watcher.join()
    found |= {f"{name}_training": value - before[name] for name, value in peak.items()}
    found["step_processor_ms"] = 1000 * (time.process_time() - used) / steps
    found["share"] = found[f"batch_{_BATCH}_processor_ms"] / found["step_processor_ms"]
    return found


def _watch(peak: dict[str, float], ended: threading.Event) -> None:
    """Keeps the largest memory until training has ended."""
    while not ended.wait(_SAMPLED):
        peak.update({name: max(peak[name], value) for name, value in memory().items()})


def write_npy(path: Path, n: int) -> None:
    """Writes n images of noise."""
    drawn = np.random.default_rng(0)
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, 3, _SIDE, _SIDE))
    for first in range(0, n, _AT_ONCE):
        count = min(_AT_ONCE, n - first)
        written[first : first + count] = drawn.integers(0, 256, (count, 3, _SIDE, _SIDE), np.uint8)
    written.flush()


def write_folder(folder: Path, n: int) -> None:
    """Writes n PNG files of noise, a thousand a folder."""
    drawn = random.Random(0)
    for i in range(n):
        path = folder / f"{i // 1000:04d}" / f"{i:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.frombytes("RGB", (_SIDE, _SIDE), drawn.randbytes(_SIDE * _SIDE * 3))
        image.save(path, compress_level=1)


def in_a_process(source: Path, cache: Path, options: argparse.Namespace) -> dict[str, float]:
    """What `measure` finds in a fresh process."""
    line = [sys.executable, __file__, "--measure", str(source), str(cache)]
    line += ["--batches", str(options.batches), "--steps", str(options.steps)]
    made = subprocess.run(line, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def plot(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Memory and the time of a batch against the number of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    of_memory, of_time = figure.subplots(1, 2)
    for (kind, found), marker in zip(results.items(), "os", strict=False):
        n = [each["images"] for each in found]
        for name, said, colour in (
            ("RssAnon_training", "its own", "#1f6f8b"),
            ("RssFile_training", "mapped files", "#c2572b"),
        ):
            values = [each[name] for each in found]
            of_memory.plot(n, values, f"{marker}-", color=colour, label=f"{said} ({kind})", alpha=0.8)
        for batch, colour in ((256, "#1f6f8b"), (_BATCH, "#c2572b")):
            values = [each[f"batch_{batch}_ms"] for each in found]
            of_time.plot(n, values, f"{marker}-", color=colour, label=f"batch of {batch} ({kind})", alpha=0.8)
    of_memory.set_ylabel("memory added by data and training, MB")
    of_time.set_ylabel("median time of a batch, ms")
    of_time.set_ylim(0.01, 10)
    for axes in (of_memory, of_time):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("images of 32 × 32")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def rows(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """A table in Markdown."""
    table = [
        "| source | images | start | digest | batch of 32 | batch of 256 | own memory, batches / training | mapped "
        "| batch / step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, found in results.items():
        for each in found:
            start = f"{each['load_s']:.2f} s"
            if "build_s" in each:
                start += f" (first time {each['build_s']:.1f} s)"
            table.append(
                f"| {kind} | {each['images']:,.0f} | {start} | {each['digest_s']:.2f} s | "
                f"{each['batch_32_ms']:.3f} ms | {each['batch_256_ms']:.3f} ms | "
                f"{each['RssAnon_batches']:.0f} / {each['RssAnon_training']:.0f} MB | "
                f"{each['RssFile_training']:,.0f} MB | {each['share']:.2%} |"
            )
    return table


def main() -> None:
    """Writes the images, measures, prints a table and the same as JSON, removes the images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=_BATCHES)
    parser.add_argument("--steps", type=int, default=_STEPS, help="training steps")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        source, cache = options.measure
        print(json.dumps(measure(source, cache, options.batches, options.steps)))
        return
    busy = Busy()
    results: dict[str, list[dict[str, Any]]] = {".npy": [], "folder, cached": []}
    for n in options.images:
        with tempfile.TemporaryDirectory(prefix="data-scale-", dir=options.folder) as work:
            source, cache = Path(work) / "images.npy", Path(work) / "cache"
            write_npy(source, n)
            results[".npy"].append(in_a_process(source, cache, options))
            source.unlink()
            if n <= _FOLDERS_UP_TO:
                write_folder(Path(work) / "images", n)
                began = time.perf_counter()
                load_images(Path(work) / "images", cache=cache)
                built = time.perf_counter() - began
                results["folder, cached"].append(in_a_process(Path(work) / "images", cache, options))
                results["folder, cached"][-1]["build_s"] = built
        print(f"{n:,} images: done", flush=True)
    print(f"{described()}; other programs took {busy.share():.0%} of the processors' time\n")
    print("\n".join(rows(results)))
    print(json.dumps(results))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
