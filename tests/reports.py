"""For the tests of a run's report: runs to report on, and the page as a tree of elements."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from clearwater.config import Config
from clearwater.training import RunFolder

_VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def all(self, tag: str, style: str | None = None) -> list[Element]:
        """Every element of this tag, and of this class if one is given, in the order of the page."""
        return [
            element
            for element in self.walk()
            if element.tag == tag and (style is None or style in element.attributes.get("class", "").split())
        ]

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def text(self) -> str:
        return "".join(self.words)


class _Page(HTMLParser):
    """A page as a tree; the words of an element are those of what is in it too."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("page")
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.words.append(data)


def parsed(text: str) -> Element:
    return _Page(text).root


def run_of(folder: Path, config: Config, entries: list[dict[str, object]] | None = None) -> RunFolder:
    run = RunFolder.create(folder, config)
    if entries is not None:
        (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return run


def entries_of(count: int, every: int = 10) -> list[dict[str, object]]:
    """Reports in which every value is another one."""
    return [
        {
            "step": every * (i + 1),
            "seconds": 0.5 * (i + 1),
            "loss": 2.0 / (i + 1) + 0.001 * i,
            "learning_rate": 1e-4 * (1 + i),
            "images_per_second": 200.0 + 7 * i,
            "gradient_norm": 0.3 + 2.0 / (i + 2),
            "level_losses": [(k + 1) / (i + 3) for k in range(10)],
            "memory_mb": 500.5 + i,
        }
        for i in range(count)
    ]


def tiles(root: Element) -> dict[str, str]:
    return {tile.all("dt")[0].text: tile.all("dd")[0].text for tile in root.all("dl", "tiles")[0].children}


def chart_of(root: Element, title: str) -> Element:
    found = [figure for figure in root.all("figure", "chart") if figure.all("h3")[0].text == title]
    assert len(found) == 1, title
    return found[0]


def titles(root: Element) -> list[str]:
    return [figure.all("h3")[0].text for figure in root.all("figure", "chart")]


def _value(label: str) -> float:
    """The number that a tick says: 20k, 1.5M, 0.002, 2·10⁻⁵."""
    plain = label.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    power = re.fullmatch(r"(?:([\d.]+)·)?10(-?\d+)", plain)
    if power is not None and label != plain:
        return float(power[1] or 1) * 10.0 ** int(power[2])
    return float(plain.rstrip("kM")) * {"k": 1e3, "M": 1e6}.get(plain[-1], 1.0)


def scale(drawing: Element, axis: str, *, log: bool) -> Callable[[float], float]:
    """From a value to its pixel, as the ticks of an axis say it."""
    ticks = [tick for tick in drawing.all("text", axis) if not tick.text.isalpha()]  # not what the axis counts
    values = [_value(tick.text) for tick in ticks]
    pixels = [float(tick.attributes[axis]) for tick in ticks]
    measure = math.log if log else float
    slope = (pixels[-1] - pixels[0]) / (measure(values[-1]) - measure(values[0]))
    for value, pixel in zip(values, pixels, strict=True):  # the ticks agree with each other
        assert abs(pixels[0] + slope * (measure(value) - measure(values[0])) - pixel) < 0.2
    return lambda value: pixels[0] + slope * (measure(value) - measure(values[0]))


def drawn(line: Element) -> list[tuple[float, float]]:
    """The pixels of a path."""
    return [(float(x), float(y)) for x, y in (point.split() for point in line.attributes["d"][1:].split("L"))]


def told(line: Element) -> list[tuple[float, float]]:
    """The steps and values that a line tells a pointer."""
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attributes["data-values"].split())]
