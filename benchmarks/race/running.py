"""Runs a leg of the race: a side trains and samples in processes of its own, and what it made is measured."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from legs import Leg, Result
from machine import Busy
from sides import CLEARWATER, SIDES

from clearwater.training import RunFolder

__all__ = ["FailedError", "Race", "importable"]

_PEER = Path(__file__).with_name("peer.py")
_COMMAND = (sys.executable, "-m", "clearwater")


class FailedError(Exception):
    """A process of a side ended with an error."""


@dataclass(frozen=True)
class Spent:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        processor_seconds: of all cores, its own workers' among them.
        memory: MB that were resident at most, in its largest process.
        others: the share of the processors' time that other programs took meanwhile.
    """

    seconds: float
    processor_seconds: float
    memory: float
    others: float


@dataclass(frozen=True)
class Race:
    """What all legs have in common.

    Attributes:
        data: what is trained on, as `clearwater train` takes it.
        held_out: real images for the floor; None for the data's own.
        features: what sees the images when they are measured; None for the usual ones.
        images: the .npy file of the same images for the peers.
        folder: where the legs are kept.
        n: how many samples are made.
        evaluations: of the network, at most, for each.
    """

    data: str
    held_out: str | None
    features: str | None
    images: Path
    folder: Path
    n: int
    evaluations: int

    def run(self, leg: Leg, python: str) -> Result:
        """Trains if that has not been done, samples, measures.

        Raises:
            FailedError: a process ended with an error.
        """
        place = self.folder / "legs" / leg.name
        trained = place / "training.json"
        if not trained.is_file():  # nothing, or what was interrupted: a budget is of one go
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            self._train(leg, python, place)
        training = json.loads(trained.read_text())
        samples = self.samples(leg)
        shutil.rmtree(samples, ignore_errors=True)
        sampling, used = self._sample(leg, python, place, samples)
        return Result(
            **asdict(leg),
            **training,
            n=self.n,
            evaluations=self.evaluations,
            evaluations_used=used,
            sampling_seconds=sampling.seconds,
            **self._measure(samples),
        )

    def samples(self, leg: Leg) -> Path:
        """The folder of a leg's samples."""
        return self.folder / "legs" / leg.name / f"samples-{self.n}-in-{self.evaluations}"

    def _train(self, leg: Leg, python: str, place: Path) -> None:
        if leg.side == CLEARWATER:
            line = [*_COMMAND, "train", self.data, "--out", str(place / "run"), "--minutes", str(leg.minutes)]
            line += ["--seed", str(leg.seed)] if leg.seed else []
        else:
            line = [python, str(_PEER), "train", leg.side, "--images", str(self.images), "--out", str(place)]
            line += ["--minutes", str(leg.minutes), "--seed", str(leg.seed), "--began", str(time.monotonic())]
        spent = _run(line, place / "train.log")
        ours = leg.side == CLEARWATER
        trained = _of_run(place / "run") if ours else json.loads((place / "trained.json").read_text())
        told = {**asdict(spent), **trained, "images_per_second": trained["images"] / spent.seconds}
        (place / "training.json").write_text(json.dumps(told))

    def _sample(self, leg: Leg, python: str, place: Path, samples: Path) -> tuple[Spent, float]:
        """What it took, and the evaluations of the network for an image, as peers count them."""
        asked = ["--n", str(self.n), "--seed", str(leg.seed)]
        if leg.side == CLEARWATER:
            line = [*_COMMAND, "sample", str(place / "run"), "--out", str(samples), "--npz", *asked]
            return _run([*line, "--steps", str(self.evaluations)], place / "sample.log"), float(self.evaluations)
        line = [python, str(_PEER), "sample", leg.side, "--images", str(self.images), "--out", str(place), *asked]
        spent = _run([*line, "--evaluations", str(self.evaluations), "--samples", str(samples)], place / "sample.log")
        used = json.loads((samples / "sampled.json").read_text())["evaluations"]
        if used > self.evaluations:
            raise FailedError(f"it took {used:g} evaluations for an image, not {self.evaluations}")
        return spent, used

    def _measure(self, samples: Path) -> dict[str, Any]:
        line = [*_COMMAND, "measure", str(samples / "samples.npz"), self.data, "--json", "--only", "frechet_distance"]
        line += ["--held-out", self.held_out] if self.held_out else []
        line += ["--features", self.features] if self.features else []
        log = samples.parent / "measure.log"
        _run(line, log, out=samples / "measured.json")
        told = json.loads((samples / "measured.json").read_text())
        figure = told["figures"]["frechet_distance"]
        floor = figure["floor"]["value"] if figure["floor"] else None
        return {
            "distance": figure["value"],
            "interval": figure["interval"],
            "floor": floor,
            "features": told["features"],
        }


def importable(python: str, side: str) -> bool:
    """Whether this Python has what the side needs."""
    return not subprocess.run([python, "-c", f"import {SIDES[side].package}"], capture_output=True).returncode


def _of_run(run: Path) -> dict[str, Any]:
    """What came of `clearwater train`, as a peer's trained.json says it."""
    folder = RunFolder.open(run)
    weights, place = folder.model()
    return {
        "steps": place.step,
        "images": place.step * folder.config().training.batch,
        "parameters": sum(value.numel() for value in weights.values()),
        "torch": torch.__version__,
    }


def _run(line: Sequence[str], log: Path, out: Path | None = None) -> Spent:
    """Runs a process to its end; what it says goes into `log`, its standard output into `out` if that is another."""
    busy = Busy()
    began = time.monotonic()
    with log.open("w") as said, (out or log).open("a") as told:
        process = subprocess.Popen(line, stdout=told, stderr=said, stdin=subprocess.DEVNULL)
        with process:
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:  # interrupted: nothing is left running
                process.terminate()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode:
        last = [each.strip() for each in log.read_text().splitlines() if each.strip()] or ["it said nothing"]
        raise FailedError(f"{last[-1][:200]} (ended with {process.returncode}; more in {log.parent.name}/{log.name})")
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, busy.share())
