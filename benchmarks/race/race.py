"""A race: clearwater and its peers train on the same images for the same time, and their samples are measured.

Each side trains in a process of its own on the same machine, one after the other, and the clock starts with the
process, so that imports are in the budget. Then each makes as many samples within as many evaluations of the network,
the same extractor sees them all, and held-out images in the place of samples give the floor. Budgets are separate runs,
since learning rates fall to zero at the end of each.

    python benchmarks/race/race.py DATA --out FOLDER [--minutes 2 10 30] [--sides …] [--rounds 1] [--n 2000]
        [--evaluations 20] [--seeds 0] [--held-out TEST] [--features …] [--peer-python PYTHON]

The sides: `clearwater train` and `clearwater sample` with their defaults; diffusers and denoising-diffusion-pytorch,
each as its documentation has it and with the best that its own options offer; and a plain EDM loop. Their settings are
explained in with_diffusers.py, with_denoising_diffusion.py and plain_edm.py. Peers read the images, those that
clearwater trains on, from a file that is mapped into memory; nobody mirrors them.

FOLDER gets race.jsonl (a line a finished leg), race.png, grids.png and, in legs/, what every process made and said.
Legs that are finished are not run again, so the command can be interrupted and repeated; one that failed is tried
again. A side whose packages this Python lacks is run with --peer-python, or left out with a sentence.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))  # of machine.py

from legs import Leg, Results, table
from machine import described
from pictures import draw_grids, draw_race
from running import FailedError, Race, importable
from sides import DEFAULT, SIDES

from clearwater.data import default_cache, load_images
from clearwater.errors import ClearwaterError


def opened(options: argparse.Namespace) -> Race:
    """The race in its folder, which is of one set of images.

    Raises:
        SystemExit: the folder's race is of others.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    images, about = options.out / "images.npy", options.out / "race.json"
    told = {"data": options.data, "held_out": options.held_out, "features": options.features}
    if about.is_file():
        before = json.loads(about.read_text())
        if before != told:
            raise SystemExit(f"'{options.out}' has a race of {before}, not of {told}: give --out another folder.")
    else:
        data = load_images(options.data, held_out=None, cache=default_cache())
        np.save(images, data.images.contiguous().numpy())
        about.write_text(json.dumps(told))
    return Race(options.data, options.held_out, options.features, images, options.out, options.n, options.evaluations)


def pythons(sides: list[str], peer_python: str | None) -> dict[str, str]:
    """A Python for each side that one can be found for."""
    found = {}
    for side in sides:
        usable = [each for each in (sys.executable, peer_python) if each and importable(each, side)]
        if usable:
            found[side] = usable[0]
        else:
            print(f"Left out: {side}, which needs {SIDES[side].package}: give --peer-python a Python that has it.")
    return found


def legs(options: argparse.Namespace, sides: list[str]) -> Iterator[Leg]:
    """In the order in which they run: every other round the sides are turned round."""
    for round_ in range(1, options.rounds + 1):
        for minutes in sorted(options.minutes):
            for seed in options.seeds:
                for side in sides if round_ % 2 else reversed(sides):
                    yield Leg(side, minutes, round_, seed)


def show(race: Race, results: Results, failed: dict[Leg, str]) -> None:
    """Prints the table and draws the pictures."""
    print()
    print("\n".join(table(results, failed)))
    if not results.found:
        return
    draw_race(results, race.folder / "race.png")
    draw_grids(results, race.samples, race.images, race.folder / "grids.png")
    one = results.found[0]
    floor = "; no images are held out for a floor" if one.floor is None else f"; the floor is {one.floor:.3g}"
    others = max(each.others for each in results.found)
    print(f"\nFréchet distance of {one.n:,} samples to the training images, {one.features}{floor}.")
    for version in sorted({each.torch for each in results.found}):
        with_it = dict.fromkeys(SIDES[each.side].title for each in results.found if each.torch == version)
        print(f"torch {version}: {'; '.join(with_it)}")
    print(f"{described()}; other programs took at most {others:.0%} of the processors' time in training")
    print(f"Pictures: {race.folder / 'race.png'}, {race.folder / 'grids.png'}")


def main() -> None:
    """Runs the legs that are missing, and shows all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="as `clearwater train` takes it: an IDX folder, images, …")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 10.0, 30.0])
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(DEFAULT), metavar="SIDE")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--n", type=int, default=2000, help="samples a leg")
    parser.add_argument("--evaluations", type=int, default=20, help="of the network for a sample, at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--held-out", metavar="TEST", help="real images for the floor; otherwise DATA's own")
    parser.add_argument("--features", help="as `clearwater measure` takes it")
    parser.add_argument("--peer-python", help="a Python that has the packages of the peers")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        race = opened(options)
    except ClearwaterError as error:
        raise SystemExit(str(error)) from None
    results = Results(options.out / "race.jsonl", options.n, options.evaluations)
    failed: dict[Leg, str] = {}
    usable = pythons(list(dict.fromkeys(options.sides)), options.peer_python)
    try:
        for leg in legs(options, list(usable)):
            if results.has(leg):
                continue
            try:
                result = race.run(leg, usable[leg.side])
            except FailedError as error:
                failed[leg] = str(error)
                print(f"{leg.name}: failed: {error}", file=sys.stderr, flush=True)
            else:
                results.add(result)
                print(f"{leg.name}: {result.steps} steps, {result.distance:.4g}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        show(race, results, failed)
        print("Interrupted: repeat the command to go on.", file=sys.stderr)
        raise SystemExit(130) from None
    show(race, results, failed)


if __name__ == "__main__":
    main()
