"""The figures of a run's samples in its report: the numbers are those that were kept, each beside its floor."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reports import Element
from run_folders import checkpoint_of

from clearwater.config import Config
from clearwater.evaluation.figures import FIGURES
from clearwater.evaluation.report_words import GROUPS
from clearwater.evaluation.results import Result, keep
from clearwater.training import RunFolder

STEP = 20


@pytest.fixture
def saved(page: Callable[..., Element], tiny: Callable[..., Config], tmp_path: Path) -> Path:
    """The run of `page`, with a checkpoint."""
    page(None)
    RunFolder.open(tmp_path / "run").save(checkpoint_of(STEP), tiny())
    return tmp_path / "run"


def figure(value: float, low: float, high: float, n: int = 2000, **more: Any) -> dict[str, Any]:
    return {"value": value, "interval": [low, high], "n": n, "of": 9000, "floor": None, "at_floor": None, **more}


def found(figures: dict[str, Any], **more: Any) -> dict[str, Any]:
    images = {"samples": 2000, "data": 9000, "held-out": 1000}
    return {"images": images, "features": "garments-64", "is_fid": False, "figures": figures, "left_out": {}, **more}


def measured(run: Path, of: dict[str, Any], *words: str, step: int = STEP) -> None:
    keep(run, Result("fidelity", step, ("measure", str(run), *words), of))


def section(root: Element) -> Element:
    (shown,) = [each for each in root.all("section") if each.all("h2")[0].text == "Fidelity"]
    return shown


def rows(root: Element) -> dict[str, dict[str, str]]:
    """By title: the cells by the head of their column."""
    table = section(root).all("table", "measures")[0]
    heads = [head.text for head in table.all("thead")[0].all("th")][1:]
    shown = [row for row in table.all("tr") if row.all("td")]
    return {
        row.all("th")[0].words[0]: {head: cell.text for head, cell in zip(heads, row.all("td"), strict=True) if head}
        for row in shown
    }


def test_every_figure_has_words() -> None:
    assert [name for group in GROUPS.values() for name in group] != []
    assert {name for group in GROUPS.values() for name in group} == set(FIGURES)


def test_the_figures_are_those_that_were_kept(saved: Path, page: Callable[..., Element]) -> None:
    figures = {
        "frechet_distance": figure(
            12.3456, 11.9, 12.8, floor=figure(3.21, 3.0, 3.4, 1000), at_floor=figure(12.9, 12.0, 13.8, 1000)
        ),
        "precision": figure(0.9113, 0.898, 0.923, floor=figure(0.946, 0.93, 0.96, 1000)),
        "kernel_distance": figure(-0.00031, -0.00071, 0.00009),
    }
    measured(saved, found(figures, left_out={"recall": "Too few images."}), "--n", "2000")
    root = page(None)
    assert rows(root) == {
        "Fréchet distance": {
            "value": "12.35of 2,000", "95% interval": "11.90 to 12.80", "like for like": "12.90of 1,000",
            "floor": "3.21of 1,000",
        },
        "Kernel distance": {
            "value": "-0.00031of 2,000", "95% interval": "-0.00071 to 0.00009", "like for like": "–", "floor": "–",
        },
        "Precision": {
            "value": "0.911of 2,000", "95% interval": "0.898 to 0.923", "like for like": "–", "floor": "0.946of 1,000",
        },
    }  # fmt: skip
    text = section(root).text
    assert "2,000 samples, beside 9,000 images that were trained on, in the features garments-64." in text
    assert "The floor is what real images that were held out have in their place." in text
    assert "Recall: Too few images." in text
    assert not section(root).all("p", "caution")
    (command,) = section(root).all("details", "how")[0].all("pre")
    assert shlex.split(command.text) == ["clearwater", "measure", str(saved), "--n", "2000"]
    better = [cell.all("small")[0].text for cell in section(root).all("td", "scale")]
    assert better == ["lower is better", "lower is better", "higher is better"]
    (tile,) = [tile for tile in root.all("dl", "tiles")[0].children if tile.all("dt")[0].text == "Fréchet distance"]
    assert tile.all("dd")[0].text == "12.35 of 1,000: 12.90, floor 3.21"


def test_the_scale_shows_the_figure_its_interval_and_the_floor_in_their_places(
    saved: Path, page: Callable[..., Element]
) -> None:
    # Of shares the scale goes from 0 to a little above 1, and what is drawn is of as many images as the floor.
    at_floor = figure(0.25, 0.2, 0.3, 1000)
    kept = {"coverage": figure(0.37, 0.3, 0.4, floor=figure(0.75, 0.7, 0.8, 1000), at_floor=at_floor)}
    measured(saved, found(kept))
    (drawing,) = section(page(None)).all("td", "scale")[0].all("svg")
    (dot,) = drawing.all("circle")
    places = {path.attributes["class"]: path.attributes["d"] for path in drawing.all("path")}
    at = {name: float(d[1:].split()[0]) for name, d in places.items()}
    middle, zero = float(dot.attributes["cx"]), at["grid"]
    unit = (at["mark"] - zero) / 0.75
    assert middle == pytest.approx(zero + 0.25 * unit, abs=0.2)
    assert at["interval faint"] == pytest.approx(zero + 0.2 * unit, abs=0.2)
    assert float(places["interval faint"].split("H")[1]) == pytest.approx(zero + 0.3 * unit, abs=0.2)
    assert zero + unit < float(places["grid"].split("H")[1])


@pytest.mark.parametrize(("is_fid", "title"), [(True, "FID"), (False, "Fréchet distance")])
def test_only_the_standard_network_has_an_fid(
    saved: Path, page: Callable[..., Element], is_fid: bool, title: str
) -> None:
    kept = {name: figure(5.0, 4.0, 6.0) for name in ("frechet_distance", "frechet_distance_at_infinity")}
    measured(saved, found(kept, is_fid=is_fid))
    assert list(rows(page(None))) == [title, f"{title} at infinity"]


def test_what_makes_figures_doubtful_is_said(saved: Path, page: Callable[..., Element]) -> None:
    of = found({"precision": figure(0.5, 0.4, 0.6)}, images={"samples": 2000, "data": 9000}, images_needed=2049)
    measured(saved, of, step=10)
    cautions = [each.text for each in section(page(None)).all("p", "caution")]
    assert cautions == [
        "These are of step 10; the newest checkpoint is of step 20.",
        "2,000 samples are few for these features: below 2,049 the Fréchet distance says little.",
        "No images are held out, so there are no floors, and nothing tells copies from new images.",
    ]
    assert list(rows(page(None))["Precision"]) == ["value", "95% interval"]


def test_measurements_in_other_features_or_of_other_samples_stand_beside(
    saved: Path, page: Callable[..., Element]
) -> None:
    measured(saved, found({"recall": figure(0.5, 0.5, 0.5)}), "--sampler", "heun", step=10)
    for value, words, features in (
        (0.1, (), "garments-64"),
        (0.2, ("--sampler", "ddim", "--steps", "50"), "garments-64"),
        (0.3, (), "random-256 (untrained)"),
        (0.4, ("--n", "10"), "garments-64"),  # newer than the first, and the same otherwise
    ):
        measured(saved, found({"recall": figure(value, value, value)}, features=features), *words)
    shown = section(page(None))
    assert [table.all("b")[0].text for table in shown.all("table")] == ["0.4", "0.3", "0.2", "0.5"]
    titles = [each.all("summary")[0].text for each in shown.all("details", "more")]
    assert titles == [
        "In random-256 (untrained)",
        "In garments-64 --sampler ddim --steps 50",
        "In garments-64 --sampler heun",  # of an earlier checkpoint
    ]


def test_where_nothing_was_measured_is_the_command_that_does(saved: Path, page: Callable[..., Element]) -> None:
    (command,) = section(page(None)).all("pre")
    assert shlex.split(command.text) == ["clearwater", "measure", str(saved)]


def test_what_is_no_measurement_is_passed_over(saved: Path, page: Callable[..., Element]) -> None:
    measured(saved, found({"precision": figure(0.5, 0.4, 0.6)}))
    good = rows(page(None))
    folder = saved / "measured"
    (whole,) = folder.iterdir()
    (folder / "fidelity-torn.json").write_bytes(whole.read_bytes()[:-20])
    (folder / "fidelity-changed.json").write_bytes(whole.read_bytes().replace(b"0.5", b"0.6"))
    (folder / "fidelity-other.json").write_bytes(b"[]\n")
    for odd in ({}, {"figures": None}, {"figures": {"precision": 3, "recall": figure("a", 0, 1)}}):  # type: ignore[arg-type]
        measured(saved, odd, f"--seed={odd}")
    assert rows(page(None)) == good
    measured(saved, found({"precision": {"value": 0.25}, "new": figure(1, 0, 2)}), "--seed", "9")
    assert rows(page(None)) == {"Precision": {"value": "0.25of 0", "95% interval": "0.25 to 0.25"}}


HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'"


def test_words_in_a_result_are_text_whatever_is_in_them(saved: Path, page: Callable[..., Element]) -> None:
    of = found({"precision": figure(0.5, 0.4, 0.6)}, features=HOSTILE, left_out={HOSTILE: HOSTILE})
    measured(saved, of, "--sampler", HOSTILE)
    measured(saved, found({"precision": figure(0.5, 0.4, 0.6)}), "--classes", HOSTILE)
    root = page(None)
    assert (len(root.all("script")), len(root.all("img"))) == (1, 0)
    assert not [name for element in root.walk() for name in element.attributes if name.startswith("on")]
    text = section(root).text
    assert f"in the features {HOSTILE}." in text
    assert f"{HOSTILE}: {HOSTILE}" in text
    assert shlex.quote(HOSTILE) in text
