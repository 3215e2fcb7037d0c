"""Line charts as SVG, drawn by hand: they are made again and again during training, so they have to be cheap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from clearwater.evaluation.report_series import LARGEST, Array, extremes

__all__ = ["Axis", "Dots", "Line", "Ramp", "chart", "figures", "with_power"]

_WIDTH, _HEIGHT = 480, 264
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 458, 10, 240  # of the plot, in the pixels of the drawing
_BINS = 300
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Line:
    """A line through points.

    Attributes:
        label: what the legend says.
        style: its class in the style sheet.
        x: shape (N,), rising.
        y: shape (N,); what is not finite is left out.
        bins: into how many parts of the axis it is thinned, two points each.
        told: whether a pointer is told its values.
    """

    label: str
    style: str
    x: Array
    y: Array
    bins: int = _BINS
    told: bool = True

    def thinned(self) -> Line:
        """The line of the points that are drawn."""
        kept = extremes(self.x, self.y, self.bins)
        return replace(self, x=self.x[kept], y=self.y[kept])

    def reach(self) -> Array:
        """The values that the axis has to hold."""
        return self.y


@dataclass(frozen=True)
class Dots(Line):
    """Single points, with bars for their errors if they are known.

    Attributes:
        errors: shape (N,), or None; NaN for a point without a bar.
    """

    errors: Array | None = None

    def thinned(self) -> Dots:
        kept = extremes(self.x, self.y, self.bins)
        errors = None if self.errors is None else self.errors[kept]
        return replace(self, x=self.x[kept], y=self.y[kept], errors=errors)

    def bars(self) -> Array:
        """The error of each point; zero where it is not known."""
        return np.zeros(len(self.y)) if self.errors is None else np.nan_to_num(self.errors)

    def reach(self) -> Array:
        return np.concatenate([self.y - self.bars(), self.y + self.bars()])


@dataclass(frozen=True)
class Ramp:
    """Lines whose colours go from one end of a range to the other, for a legend with the ends alone.

    Attributes:
        first: what the first line is.
        last: what the last line is.
        lines: their styles are level-0, level-1, ….
    """

    first: str
    last: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Axis:
    """Values to pixels.

    Attributes:
        low, high: the values at its ends, low < high.
        start, end: their pixels.
        log: whether equal ratios are equal distances; both ends are then above zero.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Array, start: float, end: float, *, log: bool, zero: bool) -> Axis:
        """The axis that shows these values, finite and at least one, with some room.

        It is linear where some are not above zero, and then begins at zero if `zero` and none is below.
        """
        low, high = float(values.min()), float(values.max())
        if log and low > 1 / LARGEST:
            room = max((high / low) ** 0.04, 1.02)
            return cls(low / room, high * room, start, end, log=True)
        room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(0.0 if zero and low >= 0 else low - room, high + room, start, end)

    def pixel(self, values: Array) -> Array:
        """Where values are, in pixels."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return np.asarray(self.start + (values - low) / (high - low) * (self.end - self.start))

    def ticks(self, most: int) -> list[float]:
        """Round values within the axis, rising, at most `most`."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for stride, multiples in ((1, (1, 2, 5)), (1, (1,)), (2, (1,)), (5, (1,)), (20, (1,)), (50, (1,))):
                powers = [power for power in range(first, last + 1) if power % stride == 0]
                found = [float(f"{multiple}e{power}") for power in powers for multiple in multiples]
                found = [value for value in found if self.low <= value <= self.high]
                if 3 <= len(found) <= most:
                    return found
        return _round_values(self.low, self.high, most)


def figures(value: float) -> str:
    """A number for people, with four significant figures."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def chart(
    title: str,
    unit: str,
    series: Sequence[Line | Ramp],
    *,
    log: bool = False,
    zero: bool = False,
    by: str = "step",
    by_log: bool = False,
) -> str:
    """A figure of one value: title, legend and drawing, as HTML. "" if no series has a point.

    Args:
        title: of the figure.
        unit: of the vertical axis.
        series: what is drawn, the last on top.
        log: whether the vertical axis is logarithmic.
        zero: whether a linear one begins at zero.
        by: what is counted along the other axis, in a short word.
        by_log: whether that axis is logarithmic and begins at 1; it begins at 0 otherwise.
    """
    given = [line for each in series for line in (each.lines if isinstance(each, Ramp) else [each])]
    lines = [line for line in (line.thinned() for line in given) if len(line.x)]
    if not lines:
        return ""
    # As far as there are x values, drawn or not, so that all charts of a log have the same axis.
    last = max(float(line.x[-1]) for line in given if len(line.x))
    across = Axis(1.0, max(2.0, last), _LEFT, _RIGHT, log=True) if by_log else Axis(0.0, max(1.0, last), _LEFT, _RIGHT)
    up = Axis.around(np.concatenate([line.reach() for line in lines]), _BOTTOM, _TOP, log=log, zero=zero)
    parts = [*_frame(across, up, by), *(_drawn(line, across, up, by) for line in lines)]
    shown = {line.label for line in lines}
    legend = "".join(_legend(each) for each in series if isinstance(each, Ramp) or each.label in shown)
    scale = f"{unit}, logarithmic axis" if up.log else unit
    label = f"{title} by {by} ({scale}). {'; '.join(_summary(line, by) for line in lines)}."
    return (
        f'<figure class="chart"><figcaption><h3>{escape(title)}</h3> <span class="unit">{escape(scale)}</span>'
        f'<p class="legend">{legend}</p></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" data-by="{escape(by)}" aria-label="{escape(label)}">'
        f"{''.join(parts)}"
        '<circle class="cursor" r="4" cx="-9" cy="-9"/></svg><output aria-hidden="true"></output></figure>'
    )


def _frame(across: Axis, up: Axis, by: str) -> list[str]:
    parts = []
    ticks = up.ticks(7)
    for text, y in zip(_labels(ticks), up.pixel(np.array(ticks)), strict=True):
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 7}" y="{y:.1f}" dy=".32em">{text}</text>')
    ticks = [tick for tick in across.ticks(6) if tick.is_integer()]  # there is no half of what is counted
    for text, x in zip(_labels(ticks), across.pixel(np.array(ticks)), strict=True):
        parts.append(f'<path class="axis" d="M{x:.1f} {_BOTTOM}v4"/>')
        parts.append(f'<text class="x" x="{x:.1f}" y="{_BOTTOM + 18}">{text}</text>')
    parts.append(f'<text class="y" x="{_LEFT - 14}" y="{_BOTTOM + 18}">{escape(by)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_BOTTOM}H{_RIGHT}"/>')
    return parts


def _drawn(line: Line, across: Axis, up: Axis, by: str) -> str:
    if isinstance(line, Dots) or len(line.x) == 1:
        return "".join(_dots(line, across, up, by))
    pixels = zip(across.pixel(line.x).tolist(), up.pixel(line.y).tolist(), strict=True)
    path = "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top in pixels)
    told = ""
    if line.told:
        pairs = zip(line.x.tolist(), line.y.tolist(), strict=True)
        values = " ".join(f"{at:.0f},{value:.4g}" for at, value in pairs)
        told = f' data-label="{escape(line.label)}" data-values="{values}"'
    return f'<path class="line {line.style}" d="{path}"{told}/>'


def _dots(line: Line, across: Axis, up: Axis, by: str) -> Iterator[str]:
    """Each point with its value as a title, which browsers show to a pointer that rests there."""
    errors = line.bars() if isinstance(line, Dots) else np.zeros(len(line.x))
    bottoms, tops = (up.pixel(np.clip(ends, up.low, up.high)) for ends in (line.y - errors, line.y + errors))
    lefts, middles = across.pixel(line.x), up.pixel(line.y)
    for i, (at, value, error) in enumerate(zip(line.x, line.y, errors, strict=True)):
        said = f"{line.label}, {by} {at:,.0f}: {figures(value)}"
        if error > 0:
            yield f'<path class="bar {line.style}" d="M{lefts[i]:.1f} {bottoms[i]:.1f}V{tops[i]:.1f}"/>'
            said += f" ± {figures(error)}"
        place = f'cx="{lefts[i]:.1f}" cy="{middles[i]:.1f}"'
        yield f'<circle class="dot {line.style}" {place} r="3"><title>{escape(said)}</title></circle>'


def _summary(line: Line, by: str) -> str:
    first, last = figures(line.y[0]), figures(line.y[-1])
    return f"{line.label}: {first} at {by} {line.x[0]:,.0f}, {last} at {by} {line.x[-1]:,.0f}"


def _legend(series: Line | Ramp) -> str:
    if isinstance(series, Ramp):
        swatches = "".join(f'<i class="{line.style}"></i>' for line in series.lines)
        return f'<span class="ramp">{escape(series.first)} {swatches} {escape(series.last)}</span>'
    mark = "dot" if isinstance(series, Dots) else "line"
    return f'<span><i class="{mark} {series.style}"></i>{escape(series.label)}</span>'


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values, at most `most`."""
    power = math.floor(math.log10((high - low) / most))
    for stride in (float(f"{multiple}e{power + more}") for more in (0, 1, 2) for multiple in (1, 2, 5)):
        count = math.floor(high / stride) - math.ceil(low / stride) + 1
        if count <= most:
            break
    return [(math.ceil(low / stride) + i) * stride for i in range(count)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as short texts, all written in one way: 20k, 1.5M, 0.002, 2·10⁻⁵."""
    sizes = [abs(value) for value in ticks if value]
    if sizes and (min(sizes) < 1e-4 or max(sizes) >= 1e9):
        return [with_power(value) for value in ticks]
    largest = max(sizes, default=0.0)
    divisor, letter = (1e6, "M") if largest >= 1e7 else (1e3, "k") if largest >= 1e4 else (1.0, "")
    return [f"{value / divisor:.6g}{letter}" if value else "0" for value in ticks]


def with_power(value: float) -> str:
    """A round number, written with a power of ten where it is long: 7, 2·10⁻⁵."""
    if value == 0 or 1 <= abs(value) < 100:
        return f"{value:g}"
    mantissa, power = f"{value:.3e}".split("e")
    of_ten = "10" + str(int(power)).translate(_SUPERSCRIPTS)
    return of_ten if float(mantissa) == 1 else f"{float(mantissa):g}·{of_ten}"
