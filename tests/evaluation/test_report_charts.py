"""The charts of a report: every point is where the log says, within a pixel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from reports import Element, chart_of, drawn, entries_of, parsed, scale, tiles, titles, told

from clearwater.evaluation.report_svg import Dots, chart


@pytest.mark.parametrize(
    ("title", "name", "log"),
    [
        ("Loss", "loss", True),
        ("Learning rate", "learning_rate", False),
        ("Gradient norm", "gradient_norm", True),
        ("Speed", "images_per_second", False),
        ("Memory", "memory_mb", False),
    ],
)
def test_the_points_of_a_chart_are_those_of_the_log(
    page: Callable[..., Element], title: str, name: str, log: bool
) -> None:
    entries = entries_of(30)
    drawing = chart_of(page(entries), title)
    assert ("logarithmic" in drawing.all("span", "unit")[0].text) == log
    across, up = scale(drawing, "x", log=False), scale(drawing, "y", log=log)
    raw = drawing.all("path", "faint") or drawing.all("path", "main")  # one report in a mean leaves one line
    expected = [(across(entry["step"]), up(entry[name])) for entry in entries]  # type: ignore[arg-type]
    assert np.abs(np.array(drawn(raw[0])) - np.array(expected)).max() < 0.5


def test_a_few_reports_are_told_as_they_are_and_more_of_them_as_running_means(page: Callable[..., Element]) -> None:
    entries = entries_of(19)
    (line,) = chart_of(page(entries), "Loss").all("path", "line")
    assert line.attributes["data-label"] == "reports"
    assert told(line) == [(entry["step"], float(f"{entry['loss']:.4g}")) for entry in entries]

    entries = entries_of(60)
    faint, strong = chart_of(page(entries), "Loss").all("path", "line")
    losses = [float(entry["loss"]) for entry in entries]  # type: ignore[arg-type]
    assert (strong.attributes["data-label"], "data-values" in faint.attributes) == ("mean of 3", False)
    expected = [losses[0], *(sum(losses[i - 1 : i + 2]) / 3 for i in range(1, 59)), sum(losses[-2:]) / 2]
    assert told(strong) == [
        (entry["step"], float(f"{mean:.4g}")) for entry, mean in zip(entries, expected, strict=True)
    ]


def test_each_tenth_of_the_levels_has_its_line_from_data_to_noise(page: Callable[..., Element]) -> None:
    entries = entries_of(12)
    entries[4]["level_losses"] = [None, *(math.nan for _ in range(8)), 0.5]
    del entries[5]["level_losses"]
    drawing = chart_of(page(entries), "Loss by level")
    up = scale(drawing, "y", log=True)
    for k in range(10):
        (line,) = drawing.all("path", f"level-{k}")
        seen = [entry for entry in entries if math.isfinite(entry.get("level_losses", [None] * 10)[k] or math.nan)]  # type: ignore[attr-defined]
        assert len(seen) == (11 if k == 9 else 10)
        values = [entry["level_losses"][k] for entry in seen]  # type: ignore[index]
        assert line.attributes["data-label"] == f"levels {10 * k}–{10 * k + 10}%"
        assert told(line) == [(entry["step"], float(f"{value:.4g}")) for entry, value in zip(seen, values, strict=True)]
        assert max(abs(y - up(value)) for (_, y), value in zip(drawn(line), values, strict=True)) < 0.5
    assert [swatch.attributes["class"] for swatch in drawing.all("i")] == [f"level-{k}" for k in range(10)]
    assert drawing.all("p", "legend")[0].text.split() == ["data", "noise"]


@pytest.mark.parametrize(
    ("images", "said"), [("held_out", "images held out"), ("train", "training images (none are held out)")]
)
def test_the_bound_has_its_error_bars_and_says_of_which_images(
    page: Callable[..., Element], images: str, said: str
) -> None:
    entries = entries_of(10)
    measured = {3: (4.5, 0.25, 0.9), 7: (3.25, 0.125, 0.7)}
    for i, (bits, error, loss) in measured.items():
        entries[i] |= {"bits_per_dim": bits, "bits_per_dim_error": error, "unseen_loss": loss, "unseen_images": images}
    root = page(entries)
    drawing = chart_of(root, "Bound on -log p")
    across, up = scale(drawing, "x", log=False), scale(drawing, "y", log=False)
    dots, bars = drawing.all("circle", "dot"), drawing.all("path", "bar")
    for dot, bar, (i, (bits, error, _)) in zip(dots, bars, measured.items(), strict=True):
        x, low, high = (float(number) for number in re.findall(r"[\d.]+", bar.attributes["d"]))
        np.testing.assert_allclose([low, high], [up(bits - error), up(bits + error)], atol=0.5)
        assert abs(x - across(10 * (i + 1))) < 0.5
        assert abs(float(dot.attributes["cy"]) - up(bits)) < 0.5
        assert dot.text == f"{said}, ± standard error, step {10 * (i + 1)}: {bits:.4g} ± {error:.4g}"
    losses = chart_of(root, "Loss").all("circle", "dot")
    assert [dot.text for dot in losses] == [f"{said}, step 40: 0.9", f"{said}, step 80: 0.7"]
    shown = tiles(root)
    assert shown[f"Bound, {said}"] == "3.25 ±\N{NO-BREAK SPACE}0.12"
    assert shown[f"Loss of {said}"] == "0.7"


@pytest.mark.parametrize(("clip", "shown"), [(0.75, True), (1000, False)])
def test_the_norm_above_which_gradients_are_clipped_is_drawn_where_it_is_in_view(
    page: Callable[..., Element], clip: float, shown: bool
) -> None:
    drawing = chart_of(page(entries_of(10), f"training.clip={clip}"), "Gradient norm")
    limits = drawing.all("path", "limit")
    assert len(limits) == shown == ("clipped above 0.75" in drawing.text)
    up = scale(drawing, "y", log=True)
    assert all(abs(y - up(clip)) < 0.5 for limit in limits for _, y in drawn(limit))


def test_a_loss_that_is_not_always_above_zero_gets_a_linear_axis(page: Callable[..., Element]) -> None:
    entries = entries_of(10)
    entries[5]["loss"] = -0.5
    drawing = chart_of(page(entries), "Loss")
    assert "logarithmic" not in drawing.text
    up = scale(drawing, "y", log=False)
    (line,) = drawing.all("path", "line")
    assert abs(drawn(line)[5][1] - up(-0.5)) < 0.5


def test_what_the_log_has_no_value_of_has_nochart_of(page: Callable[..., Element]) -> None:
    assert titles(page([{"step": 1, "loss": 0.5}])) == ["Loss"]
    assert titles(page([{"step": 1, "loss": math.nan, "level_losses": [None] * 10}])) == []
    assert titles(page(entries_of(4))) == ["Loss", "Loss by level", "Learning rate", "Gradient norm", "Speed", "Memory"]


def test_one_report_is_a_point(page: Callable[..., Element]) -> None:
    (dot,) = chart_of(page([{"step": 7, "loss": 0.5}]), "Loss").all("circle", "dot")
    assert dot.text == "reports, step 7: 0.5"


def test_every_chart_says_in_words_what_it_shows(page: Callable[..., Element]) -> None:
    root = page(entries_of(12))
    drawings = root.all("svg")
    assert len(drawings) == 6
    assert all(drawing.attributes["role"] == "img" for drawing in drawings)
    last = f"{2 / 12 + 0.011:.4g}"
    assert drawings[0].attributes["aria-label"] == (
        f"Loss by step (of the objective, logarithmic axis). reports: 2 at step 10, {last} at step 120."
    )


def test_points_whose_error_is_not_known_have_no_bar() -> None:
    x, y, errors = np.array([1.0, 2.0, 3.0]), np.array([3.0, math.nan, 5.0]), np.array([math.nan, 1.0, 0.5])
    figure = parsed(chart("A", "b", [Dots("c", "other", x, y, errors=errors)]))
    assert [dot.text for dot in figure.all("circle", "dot")] == ["c, step 1: 3", "c, step 3: 5 ± 0.5"]
    assert len(figure.all("path", "bar")) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "12", True, [1.0], {"a": 1}, 1e300, 10**400])
def test_a_value_that_is_no_number_is_left_out(page: Callable[..., Element], value: object) -> None:
    entries = entries_of(8)
    names = ("seconds", "loss", "learning_rate", "images_per_second", "gradient_norm", "memory_mb", "bits_per_dim")
    entries[3] |= dict.fromkeys((*names, "unseen_loss", "bits_per_dim_error", "level_losses"), value)
    root = page(entries)
    others = [entry["step"] for entry in entries if entry["step"] != 40]
    assert titles(root) == ["Loss", "Loss by level", "Learning rate", "Gradient norm", "Speed", "Memory"]
    for line in root.all("path", "line"):
        if "limit" not in line.attributes["class"]:
            assert [step for step, _ in told(line)] == others
    assert not re.search(r"\b(nan|inf)\b", "".join(drawing.text for drawing in root.all("figure", "chart")), re.I)


def test_the_smallest_and_the_largest_values_have_achart_of(page: Callable[..., Element]) -> None:
    entries = [{"step": i + 1, "loss": loss} for i, loss in enumerate([5e-324, 1e99, 1.0])]
    (line,) = chart_of(page(entries), "Loss").all("path", "line")
    heights = [y for _, y in drawn(line)]
    assert heights[1] == min(heights)
    assert all(0 < height < 264 for height in heights)


@pytest.mark.parametrize("loss", [0.0, 0.25, -3.0])
def test_a_loss_that_never_changes_has_achart_of(page: Callable[..., Element], loss: float) -> None:
    drawing = chart_of(page([{"step": i + 1, "loss": loss} for i in range(5)]), "Loss")
    (line,) = drawing.all("path", "line")
    assert len({y for _, y in drawn(line)}) == 1
    assert told(line) == [(i + 1, loss) for i in range(5)]
