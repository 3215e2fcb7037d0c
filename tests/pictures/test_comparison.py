"""The picture of a comparison shows the numbers that it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from clearwater.pictures import Curve, Standing, grid, plot_comparison, write_picture

Floor = tuple[float, tuple[float, float]]


def _images(value: int, channels: int = 1) -> torch.Tensor:
    return torch.full((3, channels, 4, 6), value, dtype=torch.uint8)


MUON = Standing(
    "muon",
    Curve([5, 20], [1.25, 0.4], [(1.0, 1.5), (0.3, 0.5)]),
    Curve([60, 120, 360], [3.0, 1.0, 0.4], [(2.5, 3.5), (0.8, 1.2), (0.3, 0.5)]),
    (3.25, 0.01),
    _images(40),
)
ADAM = Standing(
    "adam",
    Curve([5, 20], [2.0, 0.1], [(1.5, 2.5), (-0.1, 0.3)]),
    Curve([240], [0.1], [(-0.1, 0.3)]),
    (3.5, 0.02),
    _images(200),
)


def _drawn(*runs: Standing, floor: Floor | None = (0.05, (0.03, 0.07))) -> tuple[Figure, list[Axes], list[Axes]]:
    """The figure, its panels, and the axes of the rows of images."""
    figure = plot_comparison(
        runs,
        distance="Fréchet distance",
        caption="of these",
        floor=floor,
        floor_of="real images",
        bits_of="held-out images",
        evaluations_on_the_way=20,
    )
    figure.draw_without_rendering()
    above, *below = figure.subfigs
    return figure, above.axes, [axes for place in below for axes in place.axes]


def _bars(axes: Axes) -> list[ErrorbarContainer]:
    return [each for each in axes.containers if isinstance(each, ErrorbarContainer)]


def _ends(of: ErrorbarContainer) -> list[list[tuple[float, float]]]:
    """The two ends of each bar."""
    (bars,) = of.lines[2]
    return [[(float(x), float(y)) for x, y in segment] for segment in bars.get_segments()]


def test_the_curves_are_the_distances_with_their_intervals_and_time_is_in_a_unit_of_its_length() -> None:
    _, (by_evaluations, by_time, _), _ = _drawn(MUON, ADAM)
    for axes, name, scale in ((by_evaluations, "by_evaluations", 1), (by_time, "by_time", 60)):
        for bars, run in zip(_bars(axes), (MUON, ADAM), strict=True):
            curve: Curve = getattr(run, name)
            line = bars.lines[0]
            np.testing.assert_allclose(np.asarray(line.get_xdata(), float), np.asarray(curve.x) / scale)
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), curve.values)
            for ends, (low, high), value in zip(_ends(bars), curve.intervals, curve.values, strict=True):
                # A logarithm has no room for an end below zero.
                assert [y for _, y in ends] == pytest.approx([max(low, 0.1 * value), high])
        assert axes.get_yscale() == "log"
        (floor,) = (line for line in axes.lines if line.get_label() == "real images")
        assert list(np.asarray(floor.get_ydata())) == [0.05, 0.05]
        (band,) = axes.patches
        assert isinstance(band, Rectangle)
        assert (band.get_y(), band.get_height()) == pytest.approx((0.03, 0.04))
    assert by_evaluations.get_xscale() == "log"
    assert [text.get_text() for text in by_evaluations.get_xticklabels()] == ["5", "20"]
    assert by_time.get_xlabel() == "training time, minutes"


def test_bits_per_dim_have_their_standard_errors_and_a_run_without_them_has_no_point() -> None:
    _, panels, _ = _drawn(MUON, ADAM)
    for bars, run in zip(_bars(panels[2]), (MUON, ADAM), strict=True):
        assert run.bits is not None
        ((left, right),) = _ends(bars)
        assert (left[0], right[0]) == pytest.approx((run.bits[0] - run.bits[1], run.bits[0] + run.bits[1]))
    assert [text.get_text() for text in panels[2].texts] == ["3.250 ± 0.010", "3.500 ± 0.020"]
    without = Standing("none", ADAM.by_evaluations, ADAM.by_time, None, ADAM.images)
    _, panels, _ = _drawn(MUON, without, floor=None)
    assert len(_bars(panels[2])) == 1
    assert all(line.get_label() != "real images" for axes in panels for line in axes.lines)
    _, panels, _ = _drawn(without)
    assert len(panels) == 2


def test_a_row_of_images_a_run_has_its_name_in_the_colour_of_its_curve() -> None:
    long = Standing("a" * 40 + "z", MUON.by_evaluations, MUON.by_time, None, _images(90, 3))
    _, panels, rows = _drawn(MUON, long)
    for row, run, bars in zip(rows, (MUON, long), _bars(panels[0]), strict=True):
        (image,) = row.images
        shown = image.get_array()
        assert shown is not None
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(grid(run.images, columns=3)))
        title = row._left_title  # type: ignore[attr-defined]  # there is no other way to one at the left
        assert title.get_color() == to_hex(bars.lines[0].get_color())
    assert rows[0].get_title(loc="left") == "muon"
    assert rows[1].get_title(loc="left") == "a" * 13 + "…" + "a" * 13 + "z"


@pytest.mark.parametrize("many", [1, 9])
def test_nothing_is_off_the_picture_with_one_run_or_many(tmp_path: Path, many: int) -> None:
    runs = [Standing(f"run {i}", MUON.by_evaluations, MUON.by_time, MUON.bits, MUON.images) for i in range(many)]
    figure, panels, rows = _drawn(*runs)
    assert len(rows) == many
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in (*panels, *rows)]
    for box in boxes:
        assert box is not None
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    for i, box in enumerate(boxes):  # and nothing on another thing
        assert not any(box.overlaps(other) for other in boxes[i + 1 :] if box is not None and other is not None)
    write_picture(tmp_path / "a.png", figure)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1800
