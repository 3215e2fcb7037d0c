"""Whole training beside peers: images a second, the time to the first step, memory; and how it scales over processes.

Everything that training takes is in it: reading JPEG files, the step, averages of the weights, the log, checkpoints.
The sides are clearwater's `Trainer` on cached images, with what `clearwater train` sets; the loop of diffusers'
documentation (UNet2DModel, DDPMScheduler, AdamW, EMAModel, a DataLoader with two workers); and the `Trainer` of
denoising-diffusion-pytorch. Each has a process of its own, the processes take turns, round by round, and each figure is
the median of the rounds. Speed is measured from the step 20 s after the first one on. Memory is at most at one time, of
the process and its workers, what they share divided among them.

The networks: `small` is that of the recipe small-grey at batch 32 (0.66 M; UNet2DModel gets the same folding of 2 × 2
pixels and has as many parameters to the one; denoising-diffusion-pytorch's cannot fold, and has about as many), `ddpm`
the CIFAR-10 network of 35.7 M at batch 16 (the same for diffusers; denoising-diffusion-pytorch's README has one of
35.7 M). What an image costs in each is in the table.

    python benchmarks/training.py FOLDER [--networks small ddpm] [--rounds 3] [--seconds 60] [--peer-python PYTHON]
    python benchmarks/training.py FOLDER --processes 1,2      # clearwater under torchrun, a thread a process

FOLDER holds JPEG files of 32 × 32. A side whose packages this Python lacks is run with --peer-python, or left out with
a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from machine import Busy, described
from training_sides import SIDES, Clock, importable

_SAMPLED = 1.0  # seconds between looks at the memory


@dataclass(frozen=True)
class Measured:
    """One side in one round.

    Attributes:
        speed: images a second.
        first_step: seconds from the start of the process to the end of the first step.
        memory, mapped: MB at most, of its own and of mapped files.
        steps: how many were timed.
        of_side: what the side says of itself: versions, parameters, the forward pass of an image in GFLOP.
    """

    speed: float
    first_step: float
    memory: float
    mapped: float
    steps: int
    of_side: dict[str, str]


def in_a_process(
    python: str, side: str, network: str, folder: Path, cache: Path, options: argparse.Namespace
) -> Measured:
    """Runs one side, alone or by several processes, and watches its memory."""
    processes = options.at_once
    began = time.monotonic()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "CLEARWATER_CACHE": str(cache)}
    if options.processes:
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="training-", dir=options.folder) as work:
        line = [python, *(launcher if processes > 1 else []), __file__, str(folder), "--side", side]
        line += ["--network", network, "--began", str(began), "--out", work]
        line += ["--warm-up", str(options.warm_up), "--seconds", str(options.seconds)]
        with subprocess.Popen(
            line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            peak = [0.0, 0.0]
            ended = threading.Event()
            watcher = threading.Thread(target=_watch, args=(process.pid, peak, ended))
            watcher.start()
            out, said = process.communicate()
            ended.set()
            watcher.join()
        if process.returncode:
            raise RuntimeError(f"{side} ended with {process.returncode}: {said[-2000:]}")
    told = json.loads(next(line for line in reversed(out.splitlines()) if line.startswith("{")))
    return Measured(told["speed"], told["first_step"], peak[0], peak[1], told["steps"], told["of_side"])


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    """Keeps the largest memory of a process and those below it, in MB: its own, and of mapped files."""
    while not ended.wait(_SAMPLED):
        own = mapped = 0.0
        for each in _family(pid):
            try:
                lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]
            except OSError:  # it has ended
                continue
            size = {name: int(value.split()[0]) / 1024 for name, value in (line.split(":", 1) for line in lines)}
            own += size.get("Pss_Anon", 0.0) + size.get("Pss_Shmem", 0.0)
            mapped += size.get("Pss_File", 0.0)
        peak[:] = max(peak[0], own), max(peak[1], mapped)


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return [pid]
    return [pid, *(each for below in lists for child in below for each in _family(int(child)))]


def rows(measured: dict[str, list[Measured]], base: str) -> list[str]:
    """A table in Markdown; ratios are medians of the rounds' own ratios, to `base`."""
    table = [
        "| | parameters | GFLOP an image | images/s | ratio | first step, first / later | memory | mapped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side, found in measured.items():
        ratio = statistics.median(a.speed / b.speed for a, b in zip(found, measured[base], strict=True))
        first, later = found[0].first_step, [each.first_step for each in found[1:]]
        starts = f"{first:.1f} / {statistics.median(later):.1f} s" if later else f"{first:.1f} s"
        own, mapped = (max(getattr(each, name) for each in found) for name in ("memory", "mapped"))
        table.append(
            f"| {side} | {found[0].of_side['parameters']} | {found[0].of_side['gflop']} | "
            f"{statistics.median(each.speed for each in found):.1f} | {ratio:.2f} | {starts} | "
            f"{own:,.0f} MB | {mapped:,.0f} MB |"
        )
    return table


def compare(network: str, options: argparse.Namespace) -> None:
    """All sides in turn, and their table."""
    pythons = {}
    for side in SIDES:
        usable = [each for each in (sys.executable, options.peer_python) if each and importable(each, side)]
        if usable:
            pythons[side] = usable[0]
        else:
            print(f"Left out: {side}, whose packages cannot be imported: give --peer-python a Python that has them.")
    measured: dict[str, list[Measured]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="training-cache-", dir=options.folder) as cache:
        for round_ in range(options.rounds):
            for i, (side, python) in enumerate(pythons.items()):
                options.at_once = 1
                found = in_a_process(python, side, network, options.data, Path(cache) / str(i), options)
                measured[side].append(found)
                print(f"round {round_ + 1}, {network}, {side}: {asdict(found)}", file=sys.stderr, flush=True)
    if measured:
        base = next((side for side in measured if side.startswith("diffusers")), next(iter(measured)))
        print(f"\n### {network}: ratios to {base}\n")
        print("\n".join(rows(measured, base)))
        versions = {side: found[0].of_side["torch"] for side, found in measured.items()}
        print("\ntorch: " + ", ".join(f"{side}: {version}" for side, version in versions.items()))


def scale(network: str, options: argparse.Namespace) -> None:
    """Clearwater by several numbers of processes at the same batch, in turn, and the table."""
    measured: dict[str, list[Measured]] = defaultdict(list)
    numbers = [int(number) for number in options.processes.split(",")]
    side = next(iter(SIDES))
    with tempfile.TemporaryDirectory(prefix="training-cache-", dir=options.folder) as cache:
        for _ in range(options.rounds):
            for number in numbers:
                options.at_once = number
                found = in_a_process(sys.executable, side, network, options.data, Path(cache), options)
                measured[f"{number} process(es)"].append(found)
    base = next(iter(measured))
    print(f"\n### {network}: {side}, ratios to {base}, a thread each\n")
    print("\n".join(rows(measured, base)))


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="FOLDER")
    parser.add_argument("--networks", nargs="+", choices=["small", "ddpm"], default=["small", "ddpm"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="that are timed")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds before")
    parser.add_argument("--processes", help="such as 1,2: clearwater alone, by so many processes")
    parser.add_argument("--peer-python", help="a Python that has the packages of the peers")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    for hidden, kind in (("--side", str), ("--network", str), ("--began", float), ("--out", Path)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        clock = Clock(options.began, options.warm_up, options.seconds)
        SIDES[options.side].train(options.network, options.data, options.out, clock)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(clock.told()))
        return
    busy = Busy()
    for network in options.networks:
        (scale if options.processes else compare)(network, options)
    print(f"\n{described()}; other programs took {busy.share():.0%} of the processors' time")


if __name__ == "__main__":
    main()
