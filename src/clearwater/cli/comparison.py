"""What `clearwater compare` has found, as a table, as an object for JSON, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clearwater.cli.comparing import bound_images
from clearwater.cli.findings import Distance, Found, Way
from clearwater.cli.progress import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clearwater.config import DataConfig
    from clearwater.pictures import Curve

__all__ = ["as_object", "best", "picture", "table"]


def as_object(found: Sequence[Found], way: Way, of: DataConfig) -> dict[str, Any]:
    """All of it, of what JSON knows."""
    real, (kind, count) = way.real, bound_images(way)
    held_out = {} if real.held_out is None else {"held-out": len(real.held_out)}
    return {
        "data": of.source,
        "images": {"samples": way.n, "data": len(real.data), **held_out},
        "sampler": way.sampler,
        "seed": way.seed,
        "features": real.seeing.name,
        "is_fid": real.seeing.is_fid,
        "floor": found[0].by_evaluations[0].compared["floor"],
        "bits_per_dim_of": {"images": count, "of": kind},
        "runs": [_run(each) for each in found],
    }


def best(distances: Sequence[Distance]) -> int | None:
    """Which distance has its interval below those of all others, if one has; None of a distance alone."""
    first = min(range(len(distances)), key=lambda i: distances[i].value)
    others = [each.interval[0] for i, each in enumerate(distances) if i != first]
    return first if others and distances[first].interval[1] < min(others) else None


def table(found: Sequence[Found], way: Way) -> str:
    """A row a run, in two parts: what it is, and how near its samples are."""
    from clearwater.evaluation.report_words import beyond_pixels
    from clearwater.pictures import shortened

    floor = found[0].by_evaluations[0].compared["floor"]
    names = [shortened(each.subject.name) for each in found]
    width = max(map(len, [*names, "evaluations"]))
    lines = [*_facts(found, way, names, width), "", *_distances(found, way, names, width, floor), ""]
    kind, count = bound_images(way)
    if any(each.bits for each in found):
        lines.append(
            f"bits/dim: the bound with the optimal variance of {count:,} {kind} images, ± the standard error for these "
            "(for all images like them)."
        )
        worst = max(each.bits.value for each in found if each.bits)
        lines += filter(None, [beyond_pixels(worst, optimal=True)])
    lines.append(f"Distances: with intervals of 95%{'; * lies below those of all others' if len(found) > 1 else ''}.")
    if floor is not None:
        few = floor["n"] < way.n
        beware = f", fewer than the samples and so a little too high: --n {floor['n']} takes as many" if few else ""
        lines.append(f"floor: {floor['n']:,} real images that were held out{beware}.")
    return "\n".join(lines)


def picture(found: Sequence[Found], way: Way) -> Figure:
    """The curves, and a row of images a run."""
    from clearwater.pictures import Standing, plot_comparison

    floor = found[0].by_evaluations[0].compared["floor"]
    return plot_comparison(
        [
            Standing(
                each.subject.name,
                _curve([float(one.evaluations) for one in each.by_evaluations], each.by_evaluations),
                _curve([one.seconds for one in each.by_time], each.by_time),
                None if each.bits is None else (each.bits.value, each.bits.error),
                each.images,
            )
            for each in found
        ],
        distance=_called(way),
        caption=f"{_caption(way)}; bars: 95%",
        floor=None if floor is None else (floor["value"], tuple(floor["interval"])),
        floor_of="" if floor is None else f"floor: {floor['n']:,} real images",
        bits_of=f"{bound_images(way)[0]} images",
        evaluations_on_the_way=way.middle,
    )


def _called(way: Way) -> str:
    return "FID" if way.real.seeing.is_fid else "Fréchet distance"


def _caption(way: Way) -> str:
    return f"{_called(way)} of {way.n:,} samples of {way.sampler}, in the features {way.real.seeing.name}"


def _facts(found: Sequence[Found], way: Way, names: Sequence[str], width: int) -> list[str]:
    bits = "bits/dim" + ("" if way.real.held_out is not None else f" of {bound_images(way)[0]} images")
    with_bits = any(each.bits for each in found)
    lines = [
        f"{'':{width}}  parameters      steps  training time  images seen  images/s{f'  {bits}' if with_bits else ''}"
    ]
    for name, each in zip(names, found, strict=True):
        place = each.subject.place
        rate = f"{place.images / place.seconds:,.0f}" if place.seconds > 0 else ""
        line = (
            f"{name:{width}}  {f'{each.subject.parameters / 1e6:.2f} M':>10}  {place.step:>9,}  "
            f"{duration(place.seconds):>13}  {place.images:>11,}  {rate:>8}"
        )
        lines.append(
            line
            + (f"  {each.bits.value:.4f} ± {each.bits.error:.4f} ({each.bits.population:.4f})" if each.bits else "")
        )
    return lines


def _distances(
    found: Sequence[Found], way: Way, names: Sequence[str], width: int, floor: dict[str, Any] | None
) -> list[str]:
    columns = [best([each.by_evaluations[i] for each in found]) for i in range(len(way.steps))]
    lines = [
        _caption(way),
        f"{'evaluations':{width}}" + "".join(f"{count:>9}{'':15}" for count in way.steps).rstrip(),
    ]
    for row, (name, each) in enumerate(zip(names, found, strict=True)):
        cells = [
            _cell(one.value, one.interval, "*" if columns[i] == row else "")
            for i, one in enumerate(each.by_evaluations)
        ]
        lines.append(f"{name:{width}}{''.join(cells)}".rstrip())
    if floor is not None:
        lines.append(f"{'floor':{width}}{_cell(floor['value'], floor['interval'])}".rstrip())
    return lines


def _cell(value: float, interval: Sequence[float], mark: str = "") -> str:
    """24 letters: the value, the mark, the interval."""
    low, high = map(_digits, interval)
    return f"{_digits(value):>9}{mark:1} {f'{low} … {high}':13}"


def _digits(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _curve(x: Sequence[float], distances: Sequence[Distance]) -> Curve:
    from clearwater.pictures import Curve

    return Curve(x, [each.value for each in distances], [each.interval for each in distances])


def _run(found: Found) -> dict[str, Any]:
    of = found.subject
    return {
        "name": of.name,
        "run": str(of.folder.path),
        "parameters": of.parameters,
        "steps": of.place.step,
        "seconds": of.place.seconds,
        "images_seen": of.place.images,
        "images_per_second": of.place.images / of.place.seconds if of.place.seconds > 0 else None,
        "by_evaluations": [_distance(each) for each in found.by_evaluations],
        "by_time": [_distance(each) for each in found.by_time],
        "length_on_the_way": of.length if of.moments else None,
        "bits_per_dim": None if found.bits is None else asdict(found.bits),
    }


def _distance(of: Distance) -> dict[str, Any]:
    return {
        "evaluations": of.evaluations,
        "sampler_steps": of.steps,
        "training_steps": of.at,
        "seconds": of.seconds,
        **of.compared,
    }
