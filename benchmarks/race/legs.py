"""Legs of the race, what came of them, and the table of it."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from sides import SIDES

__all__ = ["Leg", "Result", "Results", "table"]


@dataclass(frozen=True)
class Leg:
    """One side that trains once.

    Attributes:
        side: its name.
        minutes: the budget.
        round: from 1.
        seed: of training and of sampling.
    """

    side: str
    minutes: float
    round: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.side}-{self.minutes:g}min-round{self.round}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """A leg that is finished: a line of race.jsonl.

    Attributes:
        side, minutes, round, seed: the leg.
        seconds, processor_seconds, memory, others: of the process that trained, as `running.Spent` has them.
        steps, images, parameters, torch: what came of training, as `peers.Trained` has it, and torch's version.
        images_per_second: over all seconds, those of the start among them.
        n: samples.
        evaluations, evaluations_used: of the network for one of them: allowed, and taken.
        sampling_seconds: of the process that sampled.
        distance, interval: the Fréchet distance to the training images, and where it is in 95 of 100 cases.
        floor: what held-out images have in the place of the samples; None if there are none.
        features: what the images are seen with.
    """

    side: str
    minutes: float
    round: int
    seed: int
    seconds: float
    processor_seconds: float
    memory: float
    others: float
    steps: int
    images: int
    parameters: int
    torch: str
    images_per_second: float
    n: int
    evaluations: int
    evaluations_used: float
    sampling_seconds: float
    distance: float
    interval: tuple[float, float]
    floor: float | None
    features: str

    @property
    def leg(self) -> Leg:
        """Which it is of."""
        return Leg(self.side, self.minutes, self.round, self.seed)


class Results:
    """The finished legs of race.jsonl that have as many samples, in as many evaluations, as are asked for now."""

    def __init__(self, path: Path, n: int, evaluations: int) -> None:
        self._path, self._asked = path, (n, evaluations)
        lines = path.read_text().splitlines() if path.is_file() else []
        self.found: list[Result] = []
        for line in lines:
            result = Result(**json.loads(line))
            if (result.n, result.evaluations) == self._asked:
                self.found.append(result)

    def has(self, leg: Leg) -> bool:
        """Whether it is finished."""
        return any(result.leg == leg for result in self.found)

    def add(self, result: Result) -> None:
        """Keeps it, at once."""
        self.found.append(result)
        with self._path.open("a") as file:
            print(json.dumps(asdict(result)), file=file, flush=True)

    def of(self, side: str) -> dict[float, list[Result]]:
        """A side's legs by their budgets, the shortest first."""
        legs: dict[float, list[Result]] = {}
        for result in sorted(self.found, key=lambda result: result.minutes):
            if result.side == side:
                legs.setdefault(result.minutes, []).append(result)
        return legs


def table(results: Results, failed: dict[Leg, str]) -> list[str]:
    """In Markdown: a row a side and budget, the mean of its legs; a row for each that failed."""
    rows = [
        "| minutes | side | parameters | trained for | steps | images/s | memory | evaluations | distance | 95% |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for minutes in sorted({each.minutes for each in results.found} | {leg.minutes for leg in failed}):
        for side, about in SIDES.items():
            legs = results.of(side).get(minutes, [])
            if legs:
                rows.append(f"| {minutes:g} | {about.title} | {_cells(legs)} |")
            for leg, why in failed.items():
                if (leg.side, leg.minutes) == (side, minutes):
                    rows.append(f"| {minutes:g} | {about.title} | failed, round {leg.round}, seed {leg.seed}: {why} |")
    return rows


def _cells(legs: list[Result]) -> str:
    """The rest of a row; of several legs the interval is that of their distances."""

    def mean(name: str) -> float:
        return statistics.fmean(getattr(each, name) for each in legs)

    distances = [each.distance for each in legs]
    low, high = legs[0].interval if len(legs) == 1 else (min(distances), max(distances))
    interval = f"{low:.3g} … {high:.3g}" + (f", of {len(legs)} legs" if len(legs) > 1 else "")
    cells = [
        f"{legs[0].parameters / 1e6:.2f} M",
        f"{mean('seconds'):.1f} s",
        f"{mean('steps'):,.0f}",
        f"{mean('images_per_second'):,.0f}",
        f"{max(each.memory for each in legs):,.0f} MB",
        f"{legs[0].evaluations_used:g}",
        f"{mean('distance'):.3g}",
        interval,
    ]
    return " | ".join(cells)
