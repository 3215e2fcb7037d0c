"""A small run by the real command, for scripts that break it: its images, its command, its files to the bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

__all__ = ["Ended", "SmallRun", "differences", "half_written", "newest", "strays", "write_images"]

_SETS = (
    "model.channels=16",
    "model.multipliers=[1]",
    "model.dropout=0.1",
    "data.flip=true",
    "chain.levels=50",
    "objective.times=importance",  # which remembers losses: one more thing to take up again
    "training.ema_snapshots=4",
    "training.precision=fp32",
)
_POLL = 0.0005  # seconds
_LONGEST = 600.0  # seconds for one command


def write_images(folder: Path, n: int = 120, side: int = 16) -> Path:
    """A folder with n PNG files of noise, in three folders: three classes."""
    drawn = random.Random(0)
    for i in range(n):
        path = folder / "abc"[i % 3] / f"{i:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (side, side), drawn.randbytes(side * side * 3)).save(path)
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative for a signal), its standard error, its seconds."""

    code: int
    said: str
    seconds: float

    @property
    def traceback(self) -> bool:
        """Whether it was not told in a sentence."""
        return "Traceback" in self.said

    @property
    def trained(self) -> bool:
        """Whether it was beyond its start, the imports and the images: training had begun or gone on."""
        return "parameters." in self.said

    @property
    def from_step(self) -> int:
        """The step that training went on from; 0 if it began."""
        found = re.search(r"Going on from step (\d+)", self.said)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class SmallRun:
    """One run: the same command however often it is given.

    Attributes:
        data: a folder of images.
        out: the run's folder.
        cache: where its decoded images are kept.
        steps: of the run.
        save_minutes: training time between checkpoints.
    """

    data: Path
    out: Path
    cache: Path
    steps: int
    save_minutes: float = 4e-3

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.out / "checkpoints"

    def train(self, meanwhile: Callable[[subprocess.Popen[str]], None] | None = None) -> Ended:
        """Gives the command; `meanwhile` is called once while it runs, and may end it."""
        words = ["train", self.data, "--out", self.out, "--recipe", "small-grey", "--labels", "--batch", 8]
        words += ["--steps", self.steps, "--set", f"training.save_minutes={self.save_minutes}"]
        return self.command(*words, *(word for each in _SETS for word in ("--set", each)), meanwhile=meanwhile)

    def command(self, *words: object, meanwhile: Callable[[subprocess.Popen[str]], None] | None = None) -> Ended:
        """Gives any command of clearwater's, with this run's cache."""
        said = self.out.with_name(f"{self.out.name}.stderr")
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "CLEARWATER_CACHE": str(self.cache)}
        began = time.monotonic()
        with said.open("w+") as file:
            line = [sys.executable, "-m", "clearwater", *map(str, words)]
            with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=file, text=True) as process:
                try:
                    if meanwhile is not None:
                        meanwhile(process)
                    process.wait(_LONGEST)
                except BaseException:
                    process.kill()
                    raise
            return Ended(process.returncode, said.read_text(errors="replace"), time.monotonic() - began)

    def until_checkpoint(self, step: int) -> Ended:
        """Trains until there is a checkpoint of this step or a later one, then does as Ctrl-C does."""

        def stop(process: subprocess.Popen[str]) -> None:
            if wait_for(lambda: newest(self.checkpoints) >= step, process):
                process.send_signal(signal.SIGINT)

        return self.train(stop)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = _LONGEST) -> bool:
    """Waits until this is so, looking often; false if the process ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if condition():
            return True
        time.sleep(_POLL)
    return False


def newest(checkpoints: Path) -> int:
    """The step of the newest checkpoint that is there; 0 if there is none."""
    return max((int(path.name) for path in checkpoints.glob("[0-9]*") if path.name.isdecimal()), default=0)


def strays(run: SmallRun) -> list[str]:
    """What a write that was broken off has left, and nobody has removed since."""
    found = [path for top in (run.out, run.cache) for path in top.rglob("*") if path.suffix in (".part", ".replaced")]
    return [str(path.name) for path in found]


def half_written(run: SmallRun) -> set[tuple[str, int]]:
    """Names of what is being written or was broken off, and when it was last changed, by which a new one is known."""
    found = set()
    for path in run.out.rglob("*.part"):
        with contextlib.suppress(FileNotFoundError):  # it is complete by now
            found.add((path.name, path.stat().st_ctime_ns))
    return found


def differences(ours: Path, theirs: Path) -> list[str]:
    """What differs in the last checkpoints of two runs and in their copies of averages, apart from seconds."""
    mine, other = _contents(ours), _contents(theirs)
    return sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))


def _contents(run: Path) -> dict[str, str]:
    """The step of the last checkpoint, a hash of each of its files, of its place, of each average."""
    last = run / "checkpoints" / f"{newest(run / 'checkpoints'):09d}"
    files = [*last.glob("*.safetensors"), last / "config.toml", *(run / "averages").glob("*.safetensors")]
    found = {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    place = json.loads((last / "state.json").read_bytes())
    for name in ("seconds", "checksum"):  # which is of all the rest, seconds too
        del place[name]
    return found | {"state.json": json.dumps(place, sort_keys=True)}
