"""The bound in a run's report: the points are the terms, and the sums are theirs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import Element, chart_of, drawn, scale, tiles, told
from run_folders import checkpoint_of

from clearwater.config import Config
from clearwater.evaluation.results import Result, keep
from clearwater.training import RunFolder

STEP, LEVELS = 20, 100
KL = [0.5 / k**1.5 for k in range(2, LEVELS + 1)]


@pytest.fixture
def saved(page: Callable[..., Element], tiny: Callable[..., Config], tmp_path: Path) -> Path:
    """The run of `page`, with a checkpoint."""
    page(None)
    RunFolder.open(tmp_path / "run").save(checkpoint_of(STEP), tiny())
    return tmp_path / "run"


def found(kl: list[float] = KL, **more: Any) -> dict[str, Any]:
    """An exact bound of ten images of the run's own."""
    prior, decoder = 2e-7, 1.25
    return {
        "total": prior + sum(kl) + decoder, "prior": prior, "rate": sum(kl), "decoder": decoder, "kl": kl,
        "stderr": 0.0125, "stderr_population": 0.25, "evaluations": 10 * (len(kl) + 1), "data": "fashion-mini",
        "split": "held_out", "weights": "ema", "clipped": True, "images": 10, "variance": "optimal",
        "levels": len(kl) + 1, "decoder_kind": "discretized", **more,
    }  # fmt: skip


def measured(run: Path, of: dict[str, Any], *words: str, step: int = STEP) -> None:
    keep(run, Result("bound", step, ("bound", str(run), "fashion-mini", *words), of))


def section(root: Element) -> Element:
    (shown,) = [each for each in root.all("section") if each.all("h2")[0].text == "The bound by level"]
    return shown


def test_the_points_are_the_terms_of_the_levels(saved: Path, page: Callable[..., Element]) -> None:
    measured(saved, found())
    drawing = chart_of(page(None), "Terms by level")
    across, up = scale(drawing, "x", log=True), scale(drawing, "y", log=True)
    (line,) = drawing.all("path", "line")
    assert told(line) == [(k, float(f"{kl:.4g}")) for k, kl in enumerate(KL, start=2)]
    expected = [(across(k), up(kl)) for k, kl in enumerate(KL, start=2)]
    np.testing.assert_allclose(drawn(line), expected, atol=0.5)
    (dot,) = drawing.all("circle", "dot")
    assert dot.text == "decoder, level 1: 1.25"
    assert abs(float(dot.attributes["cy"]) - up(1.25)) < 0.5
    assert drawing.all("svg")[0].attributes["data-by"] == "level"
    assert "level" in [text.text for text in drawing.all("text", "y")]


def test_the_terms_add_up_from_noise_to_data(saved: Path, page: Callable[..., Element]) -> None:
    measured(saved, found())
    drawing = chart_of(page(None), "Adding up, from noise to data")
    (line,) = drawing.all("path", "line")
    sums = [2e-7 + math.fsum(KL[i:]) for i in range(len(KL))]
    assert told(line) == [(k, float(f"{value:.4g}")) for k, value in enumerate(sums, start=2)]
    (dot,) = drawing.all("circle", "dot")
    assert dot.text == f"with the decoder, level 1: {sums[0] + 1.25:.4g} ± 0.0125"


def test_an_estimate_is_averaged_over_neighbours_with_what_it_has_not_seen(
    saved: Path, page: Callable[..., Element]
) -> None:
    """The area under the line is the rate, although most of a thousand levels were not met."""
    kl = [0.0] * 999
    for i in range(0, 999, 7):
        kl[i] = 7 * 0.3 / (i + 2)
    measured(saved, found(kl, evaluations=500))
    drawing = chart_of(page(None), "Terms by level")
    (line,) = drawing.all("path", "line")
    assert "mean of neighbours" in line.attributes["data-label"]
    points = told(line)
    # Where every part holds some levels that were met, its mean is near the truth of 0.3 / k.
    assert all(value == pytest.approx(0.3 / k, rel=0.5) for k, value in points if k > 100)
    assert len(points) <= 60
    (sums,) = chart_of(page(None), "Adding up, from noise to data").all("path", "line")
    assert told(sums)[0] == (2, pytest.approx(sum(kl), rel=1e-3))


@pytest.mark.parametrize("levels", [2, 3, 5, 4000])
def test_any_number_of_levels_can_be_drawn(saved: Path, page: Callable[..., Element], levels: int) -> None:
    for evaluations in (10 * levels, 5):
        measured(saved, found([0.1] * (levels - 1), evaluations=evaluations))
        drawing = chart_of(page(None), "Terms by level")
        shown = drawing.all("path", "line") or drawing.all("circle", "main")
        assert shown
        values = [value for line in drawing.all("path", "line") for _, value in told(line)]
        assert all(value == pytest.approx(0.1, rel=1e-9) for value in values)


def test_a_table_says_the_parts_and_the_words_what_they_are_of(saved: Path, page: Callable[..., Element]) -> None:
    measured(saved, found(), "--variance", "optimal")
    shown = section(page(None))
    table = {row.all("th")[0].text: row.all("td")[0].text for row in shown.all("table", "terms")[0].all("tr")}
    rate = sum(KL)
    assert table == {"prior": "2·10⁻⁷", "rate": f"{rate:.4g}", "decoder": "1.25", "total": f"{rate + 1.25:.4g}"}
    assert f"-log p of 10 images held out is at most {rate + 1.25:.4g} ± 0.013 bits/dim." in shown.text
    assert "Variance optimal, 100 levels." in shown.text
    assert "± 0.013 for these images, ± 0.25 for all images like them" in shown.text
    (command,) = shown.all("pre")
    assert shlex.split(command.text) == ["clearwater", *f"bound {saved} fashion-mini --variance optimal".split()]
    assert tiles(page(None))["Bound, images held out"] == f"{rate + 1.25:.4g} ±\N{NO-BREAK SPACE}0.013"


def test_other_results_have_a_line_each(saved: Path, page: Callable[..., Element]) -> None:
    ode = {"total": 3.5, "stderr": 0.5, "images": 8, "trace": "hutchinson", "split": "train", "data": "fashion-mini"}
    measured(saved, found())
    measured(saved, {**ode, "weights": "ema"}, "--ode", step=10)
    measured(saved, found(total=9.0, data="<b>others</b>", split="other"), "others")
    measured(saved, found(total=8.0, weights="raw", variance="fixed_small", clipped=False), "--weights", "raw")
    shown = section(page(None))
    lines = [each.all("p")[0].text for each in shown.all("div", "other-bound")]
    assert lines == [
        "The likelihood of the probability-flow ODE, 8 training images: 3.5 ± 0.5 bits/dim.",
        "Of the last weights, variance fixed small, 100 levels, not clipped, 10 images held out: 8 ± 0.013 bits/dim.",
        "Variance optimal, 100 levels, 10 images of <b>others</b>: 9 ± 0.013 bits/dim.",
    ]
    assert [each.text for each in shown.all("p", "caution")] == [
        "This is of step 10; the newest checkpoint is of step 20."
    ]
    assert len(shown.all("figure", "chart")) == 2
    assert f"at most {sum(KL) + 1.25:.4g}" in shown.text  # of the run's own images with its own weights


def test_where_there_is_no_bound_is_the_command_that_makes_one(saved: Path, page: Callable[..., Element]) -> None:
    measured(saved, {"kl": [1.0], "total": "much"})
    (command,) = section(page(None)).all("pre")
    assert shlex.split(command.text) == ["clearwater", *f"bound {saved} fashion-mini --variance optimal".split()]
    assert not [title for title in tiles(page(None)) if title.startswith("Bound")]
