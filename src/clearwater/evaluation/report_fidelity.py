"""Of a run's report: how near its samples are to the data, how varied, whether copied, each figure with its floor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from clearwater.evaluation.figures import FIGURES
from clearwater.evaluation.report_commands import how, offer
from clearwater.evaluation.report_series import number_of
from clearwater.evaluation.report_svg import figures
from clearwater.evaluation.report_words import BETTER, GROUPS, Words, title_of
from clearwater.evaluation.results import Result, results

__all__ = ["fidelity", "headline"]

_SHOWN = 4  # measurements
_OF_SAMPLING = ("--sampler", "--steps", "--classes", "--guidance")
_STYLE = {"95% interval": ' class="interval"'}
_LEGEND = '<span><i class="dot main"></i>value</span><span><i class="line faint"></i>95% interval</span>'
_OF_FLOOR = '<span><i class="mark"></i>floor</span>'
_WIDTH, _HEIGHT, _MARGIN = 160, 22, 7  # of a scale, in the pixels of the drawing


@dataclass(frozen=True)
class _Figure:
    """A figure as it was kept.

    Attributes:
        value: the figure.
        low, high: of its interval; the value itself if none was kept.
        n: of how many images.
    """

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, kept: object) -> _Figure | None:
        """The figure, or None if it is not there or no number."""
        if not isinstance(kept, Mapping) or (value := number_of(kept.get("value"))) is None:
            return None
        interval = kept.get("interval")
        ends = [number_of(end) for end in interval] if isinstance(interval, list) and len(interval) == 2 else []
        low, high = (value if end is None else end for end in (ends or [None, None]))
        return cls(value, low, high, int(number_of(kept.get("n")) or 0))

    @property
    def text(self) -> str:
        """The value, with as many digits as its interval leaves a meaning."""
        return self.digits(self.value)

    def digits(self, value: float) -> str:
        half = (self.high - self.low) / 2
        if not half > 0:
            return figures(value)
        places = min(max(1 - math.floor(math.log10(half)), 0), 6)
        return f"{value:,.{places}f}"


@dataclass(frozen=True)
class _Measured:
    """One measurement.

    Attributes:
        result: as it was kept.
        figures: by name: the figure, its floor, and the figure of as many samples as the floor has images.
    """

    result: Result
    figures: Mapping[str, tuple[_Figure, _Figure | None, _Figure | None]]

    @classmethod
    def of(cls, result: Result) -> _Measured | None:
        """The measurement, or None if nothing in it is a figure."""
        kept = result.found.get("figures")
        found = {}
        for name, each in kept.items() if isinstance(kept, Mapping) else ():
            figure = _Figure.of(each)
            if name in FIGURES and figure is not None:
                found[name] = figure, _Figure.of(each.get("floor")), _Figure.of(each.get("at_floor"))
        return cls(result, found) if found else None

    def word(self, name: str) -> str:
        """A text that was kept."""
        return str(self.result.found.get(name, ""))

    def count(self, of: str) -> int:
        """How many images."""
        images = self.result.found.get("images")
        return int(number_of(images.get(of)) or 0) if isinstance(images, Mapping) else 0

    @property
    def is_fid(self) -> bool:
        """Whether its Fréchet distance is the FID."""
        return self.result.found.get("is_fid") is True

    def is_against(self, source: str) -> bool:
        """Whether the samples were held against these images, as far as the record tells."""
        return self.word("data") in ("", source)

    @property
    def sampling(self) -> str:
        """The options that the samples were made with; "" if none."""
        words = self.result.command
        return " ".join(f"{a} {b}" for a, b in pairwise(words) if a in _OF_SAMPLING)


def fidelity(folder: Path, source: str, step: int | None) -> str:
    """All measurements, the newest in full; if there are none, how to make one.

    Args:
        folder: of the run.
        source: of the images that it was trained on.
        step: of the newest checkpoint; None if there is none.
    """
    # Old ones, and those against other images, behind.
    measured = sorted(_measured(folder), key=lambda each: (each.result.step != step, not each.is_against(source)))
    measured = measured[:_SHOWN]
    if not measured:
        words = ["measure", str(folder)]
        return "" if step is None else offer("The samples of this run were not measured yet.", words)
    first, *others = measured
    more = "".join(
        f'<details class="more"><summary>{escape(_in_short(each, source))}</summary>'
        f"{_shown(each, source, step)}</details>"
        for each in others
    )
    return _shown(first, source, step) + more


def _in_short(measured: _Measured, source: str) -> str:
    against = "" if measured.is_against(source) else f"against {measured.word('data')}"
    return " ".join(filter(None, ("In", measured.word("features"), measured.sampling, against)))


def headline(folder: Path, source: str, step: int) -> tuple[str, str, str] | None:
    """Of this step, against the run's own images: the name of the Fréchet distance, the value, and its floor."""
    for each in _measured(folder):
        if each.result.step == step and each.is_against(source) and "frechet_distance" in each.figures:
            figure, floor, alike = each.figures["frechet_distance"]
            title = title_of("frechet_distance", is_fid=each.is_fid)
            if floor is None:
                return title, figure.text, ""
            # Beside the floor stands the figure of as many samples: of more it is smaller by that alone.
            of_as_many = f" of {floor.n:,}: {figure.digits(alike.value)}," if alike is not None else ""
            return title, figure.text, f"{of_as_many} floor {figure.digits(floor.value)}"
    return None


def _measured(folder: Path) -> Sequence[_Measured]:
    """For each extractor, each way of making samples and all images they were held against, the best measurement.

    That is of the newest step, of the most figures, of the most samples; of equal ones the newest.
    """
    found: dict[tuple[str, str, str], _Measured] = {}
    for result in results(folder, "fidelity"):
        each = _Measured.of(result)
        if each is not None:
            key = each.word("features"), each.sampling, each.word("data")
            found[key] = max(found.get(key, each), each, key=_rank)
    return list(found.values())


def _rank(measured: _Measured) -> tuple[int, int, int]:
    return measured.result.step, len(measured.figures), measured.count("samples")


def _shown(measured: _Measured, source: str, step: int | None) -> str:
    alike = any(at_floor is not None for _, _, at_floor in measured.figures.values())
    floors = any(floor is not None for _, floor, _ in measured.figures.values())
    names = ["value", "95% interval", *(["like for like"] if alike else []), *(["floor"] if floors else [])]
    rows = "".join(_group(measured, title, group, names) for title, group in GROUPS.items())
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("", *names, ""))
    return (
        f"<p>{_of_what(measured, source, alike=alike)}</p>{''.join(_cautions(measured, step))}"
        f'<table class="measures"><thead><tr>{heads}</tr></thead>{rows}</table>'
        f'<p class="legend">{_LEGEND}{_OF_FLOOR if floors else ""}</p>{_left_out(measured)}'
        f"{how([measured.result.command])}"
    )


def _of_what(measured: _Measured, source: str, *, alike: bool) -> str:
    samples, data, held_out = (measured.count(of) for of in ("samples", "data", "held-out"))
    floor = " The floor is what real images that were held out have in their place." if held_out else ""
    if alike:
        floor += " Like for like is the figure of as many samples as the floor is of: hold that beside it."
    made = f", made with {escape(measured.sampling)}" if measured.sampling else ""
    whose = "that were trained on"
    if not measured.is_against(source):
        whose = f"of {escape(measured.word('data'))}, which are not the run's own"
    return (
        f"{samples:,} samples{made}, beside {data:,} images {whose}, in the features "
        f"<b>{escape(measured.word('features'))}</b>.{floor}"
    )


def _cautions(measured: _Measured, step: int | None) -> Iterator[str]:
    """What is to be known before the figures are believed."""
    samples, needed = measured.count("samples"), number_of(measured.result.found.get("images_needed"))
    if step is not None and measured.result.step != step:
        yield _caution(f"These are of step {measured.result.step:,}; the newest checkpoint is of step {step:,}.")
    if needed is not None and samples < needed:
        yield _caution(
            f"{samples:,} samples are few for these features: below {needed:,.0f} the Fréchet distance says little."
        )
    if not measured.count("held-out"):
        yield _caution("No images are held out, so there are no floors, and nothing tells copies from new images.")


def _caution(sentence: str) -> str:
    return f'<p class="caution">{escape(sentence)}</p>'


def _group(measured: _Measured, title: str, group: Mapping[str, Words], names: Sequence[str]) -> str:
    rows = [
        _row(name, title_of(name, is_fid=measured.is_fid), words, names, *measured.figures[name])
        for name, words in group.items()
        if name in measured.figures
    ]
    head = f'<tr class="group"><th colspan="{len(names) + 2}" scope="rowgroup">{escape(title)}</th></tr>'
    return f"<tbody>{head}{''.join(rows)}</tbody>" if rows else ""


def _row(
    name: str,
    title: str,
    words: Words,
    names: Sequence[str],
    figure: _Figure,
    floor: _Figure | None,
    at_floor: _Figure | None,
) -> str:
    cells = {
        "value": f"<b>{figure.text}</b><small>of {figure.n:,}</small>",
        "95% interval": f"{figure.digits(figure.low)} to {figure.digits(figure.high)}",
    } | {
        name: "–" if each is None else f"{figure.digits(each.value)}<small>of {each.n:,}</small>"
        for name, each in (("like for like", at_floor), ("floor", floor))
    }
    shown = "".join(f'<td{_STYLE.get(head, "")} data-name="{head}">{cells[head]}</td>' for head in names)
    # What is held beside the floor is of as many images.
    scale = _scale(title, words, at_floor or figure, floor)
    return (
        f'<tr><th scope="row">{escape(title)}<small>{escape(words.says)}</small></th>{shown}'
        f'<td class="scale">{scale}<small>{BETTER[FIGURES[name]]}</small></td></tr>'
    )


def _scale(title: str, words: Words, figure: _Figure, floor: _Figure | None) -> str:
    """The figure with its interval on a line, and its floor as a mark."""
    values = [figure.low, figure.value, figure.high, *([] if floor is None else [floor.value])]
    low, high = min(words.low, *values), max(words.high, *values)
    room = 0.04 * (high - low) or 1.0
    low, high = low - (room if low < words.low else 0.0), high + room

    def pixel(value: float) -> str:
        return f"{_MARGIN + (value - low) / (high - low) * (_WIDTH - 2 * _MARGIN):.1f}"

    middle, mark, said = _HEIGHT / 2, "", ""
    if floor is not None:
        mark = f'<path class="mark" d="M{pixel(floor.value)} 3V{_HEIGHT - 3}"/>'
        said = f", floor {figure.digits(floor.value)}"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {figure.text}{said}")}">'
        f'<path class="grid" d="M{_MARGIN} {middle:g}H{_WIDTH - _MARGIN}"/>'
        f'<path class="interval faint" d="M{pixel(figure.low)} {middle:g}H{pixel(figure.high)}"/>{mark}'
        f'<circle class="dot main" cx="{pixel(figure.value)}" cy="{middle:g}" r="4"/></svg>'
    )


def _left_out(measured: _Measured) -> str:
    reasons: Any = measured.result.found.get("left_out")
    if not isinstance(reasons, Mapping) or not reasons:
        return ""
    items = "".join(
        f"<li>{escape(title_of(name, is_fid=measured.is_fid))}: {escape(str(why))}</li>"
        for name, why in reasons.items()
    )
    return f'<details class="more"><summary>Left out: {len(reasons)}</summary><ul>{items}</ul></details>'
