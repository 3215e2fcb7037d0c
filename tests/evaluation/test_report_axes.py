"""Axes, thinning and averaging in the charts of a report."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import Element, chart_of, drawn, entries_of, parsed, run_of, scale

from clearwater.config import Config
from clearwater.evaluation.report import report_page
from clearwater.evaluation.report_series import Log, extremes, running_mean
from clearwater.evaluation.report_svg import Axis, Line, chart

# The axes


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 842, False, [0, 200, 400, 600, 800]),
        (0, 100_000, False, [0, 20_000, 40_000, 60_000, 80_000, 100_000]),
        (3.08, 4.52, False, [3.5, 4, 4.5]),
        (0.03, 1.2, True, [0.05, 0.1, 0.2, 0.5, 1]),
        (2e-5, 3e3, True, [1e-4, 1e-2, 1, 100]),
        (0.9, 1.1, True, [0.9, 0.95, 1, 1.05, 1.1]),
    ],
)
def test_ticks_are_at_round_values(low: float, high: float, log: bool, ticks: list[float]) -> None:
    np.testing.assert_allclose(Axis(low, high, 0, 1, log=log).ticks(6), ticks, rtol=1e-12)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(3, 10), st.booleans())
def test_ticks_are_few_rise_and_lie_within(low: float, reach: float, most: int, log: bool) -> None:
    low = abs(low) + 1e-6 if log else low
    if low + reach == low or reach < 1e-9 * abs(low):
        return
    ticks = Axis(low, low + reach, 0, 1, log=log).ticks(most)
    assert 1 <= len(ticks) <= most
    assert all(a < b for a, b in pairwise(ticks))
    slack = 1e-9 * max(abs(low), reach)
    assert low - slack <= ticks[0]
    assert ticks[-1] <= low + reach + slack


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0, 60.0], ["0", "10", "20", "30", "40", "50", "60"]),
        ([0.0, 25_000.0], ["0", "5k", "10k", "15k", "20k", "25k"]),
        ([0.0, 2.0e7], ["0", "5M", "10M", "15M", "20M"]),
        ([0.0, 2.0e-4], ["0", "5·10⁻⁵", "10⁻⁴", "1.5·10⁻⁴", "2·10⁻⁴"]),
        ([0.0, 0.002], ["0", "0.0005", "0.001", "0.0015", "0.002"]),
    ],
)
def test_the_ticks_of_an_axis_are_all_written_in_one_way(values: list[float], labels: list[str]) -> None:
    figure = parsed(chart("A", "b", [Line("c", "main", np.array([1.0, 2.0]), np.array(values))], zero=True))
    ticks = [tick.text for tick in figure.all("text", "y") if tick.text != "step"]
    assert ticks == labels


def test_steps_are_whole(page: Callable[..., Element]) -> None:
    ticks = [tick.text for tick in chart_of(page(entries_of(3, every=1)), "Loss").all("text", "x")]
    assert ticks == ["0", "1", "2", "3"]


# Thinning and averaging


@given(
    st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=300),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_thinning_keeps_the_lowest_and_the_highest_of_every_part(values: list[float], bins: int, seed: int) -> None:
    y = np.array(values)
    x = np.cumsum(np.random.default_rng(seed).integers(1, 50, len(y))).astype(float)
    kept = extremes(x, y, bins)
    finite = np.flatnonzero(np.isfinite(y))
    assert set(kept) <= set(finite)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= 2 * bins
    if len(finite) <= 2 * bins:
        assert list(kept) == list(finite)
        return
    part = np.minimum((x - x[finite[0]]) / (x[finite[-1]] - x[finite[0]]) * bins, bins - 1).astype(int)
    for each in range(bins):
        inside = [i for i in finite if part[i] == each]
        chosen = [i for i in kept if part[i] == each]
        assert len(chosen) <= 2
        if inside:
            assert {y[chosen].min(), y[chosen].max()} == {y[inside].min(), y[inside].max()}


@given(st.lists(st.one_of(st.floats(-100, 100), st.just(math.nan)), max_size=60), st.integers(1, 25))
def test_a_running_mean_is_the_mean_of_what_is_around(values: list[float], window: int) -> None:
    means = running_mean(np.array(values), window)
    for i, value in enumerate(values):
        around = values[max(0, i - (window - 1) // 2) : i + min(window // 2, i) + 1]
        expected = np.nan if math.isnan(value) else np.nanmean(around)
        np.testing.assert_allclose(means[i], expected, atol=1e-9)


def test_a_long_log_makes_a_small_page_that_loses_no_leap(tiny: Callable[..., Config], tmp_path: Path) -> None:
    entries = entries_of(20_000)
    entries[12_345]["loss"] = 77.0
    entries[12_346]["loss"] = 1e-5
    run = run_of(tmp_path / "run", tiny(), entries)
    text = report_page(run)
    assert len(text) < 400_000
    root = parsed(text)
    for line in root.all("path", "line"):
        assert len(drawn(line)) <= 600
    drawing = chart_of(root, "Loss")
    across, up = scale(drawing, "x", log=False), scale(drawing, "y", log=True)
    points = np.array(drawn(drawing.all("path", "faint")[0]))
    for step, loss in ((123_460, 77.0), (123_470, 1e-5)):
        assert np.abs(points - [across(step), up(loss)]).max(1).min() < 0.5


def test_a_log_is_read_by_columns() -> None:
    log = Log.of([{"step": 1, "a": 2}, {"a": 3}, {"step": 4, "a": None, "w": "x"}])
    np.testing.assert_array_equal(log.steps, [1, 4])
    np.testing.assert_array_equal(log.column("a"), [2, math.nan])
    assert (log.last("a"), log.last("b"), log.word("w"), log.word("a")) == (2.0, None, "x", None)
