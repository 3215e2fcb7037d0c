"""Whether a run that is broken off, or goes wrong, or loses a file, still ends as an unbroken one does, to the bit.

Four ways to break a small run that the script makes for itself, each with a table at its end:

- kills: SIGKILL at random moments of `clearwater train`, every third one while a checkpoint is being written, and the
  same command again until it ends; then every tensor and every copy of averages is compared with an unbroken run's.
- nan: a weight or a gradient becomes no number at random steps, once or for ever.
- disk: a disk of its own (tmpfs, which needs root) runs full during checkpoints, the log, the previews, the cache.
- flips: a random bit of a random file of a random checkpoint is another, or the file ends too early.

It exits with 1 if anything differs, if a checkpoint that was whole is not found again, or if any command ends in a
traceback. A killed process is not a machine without power: what the system had taken from it still reaches the disk.

    python benchmarks/interruptions.py [kills nan disk flips] [--kills 50] [--nans 40] [--full 20] [--flips 200]
"""

from __future__ import annotations

import argparse
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import damage
import torch
from small_run import Ended, SmallRun, differences, half_written, newest, strays, wait_for, write_images
from torch import Tensor

from clearwater.data import ImageSet
from clearwater.errors import ClearwaterError
from clearwater.settings import resolve
from clearwater.training import RunFolder, Saved, Stopped, Trainer, WentBack

_STEPS = 300


def kills(folder: Path, wanted: int, drawn: random.Random) -> tuple[Counter[str], list[str]]:
    """Runs that are killed until there were so many kills, each until it ends."""
    data = write_images(folder / "data")
    unbroken = SmallRun(data, folder / "unbroken", folder / "unbroken-cache", _STEPS)
    starting: list[float] = []
    began = time.monotonic()

    def first_checkpoint(process: subprocess.Popen[str]) -> None:
        wait_for(lambda: newest(unbroken.checkpoints) > 0, process)
        starting.append(time.monotonic() - began)

    ended = unbroken.train(first_checkpoint)
    seen, faults = Counter[str](), _faults("unbroken", ended, {0})
    start, training, pace = starting[0], ended.seconds - starting[0], 1.0
    print(f"unbroken: {_STEPS} steps in {ended.seconds:.0f} s, the first checkpoint after {start:.0f} s", flush=True)
    while seen["kills"] < wanted:
        seen["runs"] += 1
        run = SmallRun(data, folder / f"broken-{seen['runs']}", folder / f"cache-{seen['runs']}", _STEPS)
        known, ended = 0, Ended(-signal.SIGKILL, "", 0.0)
        while ended.code == -signal.SIGKILL:
            expected = start + training * (1 - known / _STEPS)
            before, aimed = half_written(run), seen["kills"] % 3 == 2
            kill = _kill(run, drawn, pace * expected, writing=aimed)
            ended = run.train(kill if seen["kills"] < wanted else None)
            seen["starts"] += 1
            faults += _faults(run.out.name, ended, {0, -signal.SIGKILL})
            if ended.trained and ended.from_step != known:
                faults.append(f"{run.out.name}: step {known} was saved, and it went on from {ended.from_step}")
                seen["saves lost"] += 1
            known = newest(run.checkpoints)
            if ended.code == -signal.SIGKILL:
                new = half_written(run) - before  # what an earlier kill has left stays until the next save
                seen["kills"] += 1
                seen["kills while starting"] += not ended.trained
                seen["kills while training"] += ended.trained
                seen["kills aimed at a write"] += aimed
                seen["kills with a checkpoint half written"] += any(name[0] != "." for name, _ in new)
                seen["kills with another file half written"] += any(name[0] == "." for name, _ in new)
            elif seen["kills"] < wanted:
                pace = ended.seconds / expected  # the machine may be busier now, or less so
        seen["files that differ at the end"] += (wrong := _compared(run, unbroken, faults))
        print(f"{run.out.name}: {seen['kills']} kills by now, {wrong} files differ", flush=True)
    return seen, faults


def _kill(
    run: SmallRun, drawn: random.Random, seconds: float, *, writing: bool
) -> Callable[[subprocess.Popen[str]], None]:
    """What kills a process at a moment uniform in the time it takes; or, after that, during the next write."""
    moment, stale = drawn.uniform(0, seconds), half_written(run)

    def kill(process: subprocess.Popen[str]) -> None:
        wait_for(lambda: False, process, moment)
        if writing and wait_for(lambda: any(name[0] != "." for name, _ in half_written(run) - stale), process):
            time.sleep(drawn.uniform(0, 0.01))
        process.kill()

    return kill


def _compared(run: SmallRun, unbroken: SmallRun, faults: list[str]) -> int:
    """Compares two runs that have come to their end; returns how many files differ."""
    wrong = differences(run.out, unbroken.out)
    faults += [f"{run.out.name}: {name} differs" for name in wrong]
    faults += [f"{run.out.name}: '{name}' was left behind" for name in strays(run)]
    if RunFolder.open(run.out).entries()[-1]["step"] != run.steps:
        faults.append(f"{run.out.name}: its log does not end with its last step")
    return len(wrong)


def _faults(name: str, ended: Ended, codes: set[int]) -> list[str]:
    """What is wrong with the end of a command."""
    found = [f"{name}: a traceback:\n{ended.said}"] if ended.traceback else []
    if ended.code not in codes:
        found.append(f"{name}: it ended with {ended.code}: {ended.said.splitlines()[-1:]}")
    return found + [f"{name}: {line}" for line in ended.said.splitlines() if "passed over" in line]


def nan(folder: Path, trials: int, drawn: random.Random) -> tuple[Counter[str], list[str]]:
    """Runs in which something becomes no number, once or a few times; every eighth one for ever."""
    seen, faults = Counter[str](), []
    for trial in range(trials):
        forever = trial % 8 == 7
        seen["runs"] += 1
        seen["of them with a fault for ever"] += forever
        own = random.Random(drawn.random())  # how often a trial draws depends on the clock
        faults += [f"trial {trial}: {fault}" for fault in _spoilt(folder / f"nan-{trial}", own, seen, forever)]
    return seen, faults


def _spoilt(folder: Path, drawn: random.Random, seen: Counter[str], forever: bool) -> list[str]:
    """Trains once with faults. Returns what was not as it has to be."""
    steps, saves = drawn.randint(60, 120), drawn.random() < 0.6
    sets = ["channels=16", "multipliers=[1]", "patch=4"]
    config = resolve(
        recipe="small-grey",
        sets=[
            *(f"model.{each}" for each in sets),
            f"training.save_minutes={1e-9 if saves else 1e9}",
            f"training.precision={drawn.choice(['fp32', 'bf16'])}",
            f"objective.times={drawn.choice(['low_discrepancy', 'importance'])}",
            "chain.levels=50",
            "data.size=8",
            "data.channels=1",
        ],
        options={"training.steps": steps, "training.batch": 4, "training.seed": drawn.randrange(10**6)},
    )
    images = ImageSet(torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8))
    trainer = Trainer(config, images, torch.device("cpu"), RunFolder.create(folder, config))
    planned = 2 if forever else drawn.randint(1, 5 if saves else 2)  # without a checkpoint between, the third ends it
    due: list[int] = [drawn.randrange(steps)]
    parameters = list(trainer.denoiser.network.parameters())

    def spoil(gradient: Tensor) -> Tensor:
        """Is called in each backward pass; once the step is come, makes something no number."""
        if not due or trainer.step < due[0] or (trainer.step > due[0] and not forever):
            return gradient
        kind, bad = drawn.choice(["weight", "gradient"]), drawn.choice([math.nan, math.inf, -math.inf])
        if kind == "gradient":
            gradient = gradient.clone()
            _put(bad, gradient, drawn)
        else:
            _put(bad, drawn.choice(parameters).data, drawn)  # as a fault does: without telling autograd
        if not forever:
            seen[f"a {kind} that is {bad}, once"] += 1
            due.clear()
        return gradient

    drawn.choice(parameters).register_hook(spoil)  # type: ignore[no-untyped-call]
    backs: list[WentBack] = []
    struck, stopped, said, at_once = due[0], None, "", 1
    expected: list[int] = []
    try:
        for event in trainer:
            if isinstance(event, Saved) and not _finite(folder):
                return [f"the checkpoint of step {event.step} is not finite"]
            if isinstance(event, WentBack):
                backs.append(event)
                expected.append(struck if saves else 0)
                if not forever and len(backs) < planned:
                    struck = drawn.choice([event.step, drawn.randrange(event.step, steps)])
                    due.append(struck)
                    # Three failures without a checkpoint between are the end; with one between they do not add up.
                    at_once = 1 if saves and struck > event.step else at_once + 1
                    if at_once == 3:
                        planned = len(backs)
            stopped = event
    except ClearwaterError as error:
        said = str(error)
    seen["times that training went back"] += len(backs)
    ends = forever or at_once == 3
    return _as_expected(folder, backs, expected, planned, stopped, said, ends=ends, seen=seen)


def _put(value: float, tensor: Tensor, drawn: random.Random) -> None:
    """Makes one element of a tensor this value."""
    tensor[tuple(drawn.randrange(n) for n in tensor.shape)] = value


def _as_expected(
    folder: Path,
    backs: list[WentBack],
    expected: list[int],
    planned: int,
    last: object,
    said: str,
    *,
    ends: bool,
    seen: Counter[str],
) -> list[str]:
    found = []
    if len(backs) != planned:
        found.append(f"it went back {len(backs)} times, not {planned}")
    if [back.step for back in backs] != expected:
        found.append(f"it went back to {[back.step for back in backs]}, not to {expected}")
    if ends:
        seen["ended with the diagnosis"] += "failed so 3 times" in said
        if "failed so 3 times" not in said:
            found.append(f"it did not end with the diagnosis, but with {said or last!r}")
    elif not (isinstance(last, Stopped) and last.finished and _finite(folder)):
        found.append(f"it did not come to a good end: {said or last!r}")
    else:
        seen["came to their end, finite"] += 1
    return found


def _finite(folder: Path) -> bool:
    """Whether there is a checkpoint, and all of the newest is numbers."""
    kept = RunFolder.open(folder).latest()
    if kept is None:
        return False
    tensors = [*kept.averaged.values(), *kept.network.values(), *kept.optimizer.values(), *kept.lengths.values()]
    return all(bool(value.isfinite().all()) for value in tensors)


def main() -> int:
    """Runs the modes, prints a table each, and says what was wrong. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", default=["kills", "nan", "disk", "flips"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--nans", type=int, default=40, help="trials")
    parser.add_argument("--full", type=int, default=20, help="times that the disk runs full")
    parser.add_argument("--flips", type=int, default=200, help="trials; the last 30 of them through the commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    options = parser.parse_args()
    wanted = {"kills": options.kills, "nan": options.nans, "disk": options.full, "flips": options.flips}
    modes = {"kills": kills, "nan": nan, "disk": damage.disk, "flips": damage.flips}
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="interruptions-", dir=options.folder) as work:
        for mode in options.modes:
            folder = Path(work) / mode
            folder.mkdir()
            began = time.monotonic()
            seen, faults = modes[mode](folder, wanted[mode], random.Random(f"{mode} {options.seed}"))
            print(f"\n| {mode} | {time.monotonic() - began:.0f} s |\n|---|---|")
            for name, count in seen.items():
                print(f"| {name} | {count} |")
            print(f"| **faults** | **{len(faults)}** |\n", flush=True)
            for fault in faults:
                print(f"FAULT {mode}: {fault}", flush=True)
            wrong += len(faults)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
