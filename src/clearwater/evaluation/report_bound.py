"""Of a run's report: the bound on the likelihood, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clearwater.evaluation.report_commands import how, offer
from clearwater.evaluation.report_series import Array, number_of, numbers_of
from clearwater.evaluation.report_svg import Dots, Line, chart, figures, with_power
from clearwater.evaluation.report_words import beyond_pixels
from clearwater.evaluation.results import Result, results

__all__ = ["bound", "headline"]

_SHOWN = 6  # results
_POINTS, _PARTS = 300, 60  # of a line; of the levels, in which the terms of an estimate are averaged
_OF = {"held_out": "images held out", "train": "training images"}


@dataclass(frozen=True)
class _Bound:
    """A result with its terms, all in bits/dim.

    Attributes:
        result: as it was kept.
        total, stderr: the bound, and its standard error for these images.
        prior, decoder: the first and the last term.
        kl: the terms between, of the levels 2, 3, …: shape (levels - 1,).
        images: how many.
        evaluations: of the network, an image at a level each.
    """

    result: Result
    total: float
    stderr: float
    prior: float
    decoder: float
    kl: Array
    images: int
    evaluations: int

    @classmethod
    def of(cls, result: Result) -> _Bound | None:
        """The result, or None if it has no terms."""
        found = result.found
        names = ("total", "stderr", "prior", "decoder", "images", "evaluations")
        total, stderr, prior, decoder, images, evaluations = (number_of(found.get(name)) for name in names)
        kl = found.get("kl")
        if None in (total, stderr, prior, decoder, images, evaluations) or not isinstance(kl, list) or not kl:
            return None
        assert total is not None
        assert stderr is not None
        assert prior is not None
        assert decoder is not None
        return cls(
            result,
            total,
            stderr,
            prior,
            decoder,
            np.nan_to_num(numbers_of(kl)),
            int(images or 0),
            int(evaluations or 0),
        )

    @property
    def estimated(self) -> bool:
        """Whether it has not been at every level with every image."""
        return self.evaluations < self.images * (len(self.kl) + 1)


def bound(folder: Path, source: str, step: int | None) -> str:
    """The newest bound of the run's own images as charts and a table, and the others in a line each.

    Args:
        folder: of the run.
        source: of its images.
        step: of the newest checkpoint; None if there is none.
    """
    kept = [result for result in results(folder, "bound") if number_of(result.found.get("total")) is not None]
    # Of other images, or with other weights, it is a question beside; a sort keeps the newest first.
    kept.sort(key=lambda result: (result.found.get("data") != source, result.found.get("weights") == "raw"))
    whole = [found for result in kept if (found := _Bound.of(result)) is not None]
    if not kept:
        words = ["bound", str(folder), source, "--variance", "optimal"]
        return "" if step is None else offer("The bound was not measured yet.", words)
    first = whole[0] if whole else None
    others = [result for result in kept if first is None or result is not first.result][:_SHOWN]
    shown = "" if first is None else _shown(first, step)
    return shown + _others(others, step)


def headline(folder: Path, source: str, step: int) -> tuple[str, str, str] | None:
    """Of the newest bound of this step on the run's images: of which images, the value, and its error."""
    for result in results(folder, "bound"):
        found = _Bound.of(result)
        own = result.step == step and result.found.get("data") == source and result.found.get("weights") != "raw"
        if found is not None and own:
            return f"Bound, {_images(result)}", figures(found.total), f" ±\N{NO-BREAK SPACE}{found.stderr:.2g}"
    return None


def _shown(found: _Bound, step: int | None) -> str:
    result = found.result
    charts = f'<div class="charts">{_by_level(found)}{_adding_up(found)}</div>'
    sentence = (
        f"-log p of {found.images:,} {escape(_images(result))} is at most {figures(found.total)} ± {found.stderr:.2g} "
        f"bits/dim. {escape(_way(result))}."
    )
    rows = (
        ("prior", found.prior, "what is left of the data at the last level"),
        ("rate", found.total - found.prior - found.decoder, f"the steps down from levels {len(found.kl) + 1:,} to 2"),
        ("decoder", found.decoder, "the last step, to 8-bit pixels"),
        ("total", found.total, f"± {found.stderr:.2g} for these images{_of_population(result)}"),
    )
    table = "".join(
        f'<tr><th scope="row">{name}</th><td>{_short(value)}</td><td>{escape(says)}</td></tr>'
        for name, value, says in rows
    )
    warning = beyond_pixels(found.total, optimal=result.found.get("variance") == "optimal")
    caution = "" if warning is None else f'<p class="caution">{escape(warning)}</p>'
    return (
        f'<p>{sentence}</p>{_of_step(result, step)}{caution}{charts}<table class="terms"><tbody>{table}</tbody></table>'
        f"{how([result.command])}"
    )


def _by_level(found: _Bound) -> str:
    kl, levels = found.kl, _levels(found)
    label = "KL of the step down from a level"
    if found.estimated:
        # Each level was met by few images or none; the mean over a part of the levels is right on average all the same.
        ends = [0, *_spread(len(kl), _PARTS)[1:-1], len(kl)]
        k, kl = _means(levels, ends), _means(kl, ends)
        label += ", mean of neighbours"
    else:
        shown = _spread(len(kl), _POINTS)
        k, kl = levels[shown], kl[shown]
    drawn: Array = np.where(kl > 0, kl, np.nan)
    decoder = np.array([found.decoder if found.decoder > 0 else np.nan])
    series = [
        Line(label, "main", k, drawn),
        # The last level, which is not drawn, makes both charts reach as far.
        Dots("decoder", "other", np.array([1.0, len(found.kl) + 1.0]), np.append(decoder, np.nan)),
    ]
    return chart("Terms by level", "bits/dim", series, log=True, by="level", by_log=True)


def _adding_up(found: _Bound) -> str:
    shown = _spread(len(found.kl), _POINTS)
    sums = found.prior + found.kl[::-1].cumsum()[::-1]
    series = [
        Line("prior and all levels from here up", "main", _levels(found)[shown], sums[shown]),
        Dots("with the decoder", "other", np.array([1.0]), np.array([found.total]), errors=np.array([found.stderr])),
    ]
    return chart("Adding up, from noise to data", "bits/dim", series, zero=True, by="level", by_log=True)


def _levels(found: _Bound) -> Array:
    """The level of each KL term: the one that its step comes down from."""
    return np.arange(2, len(found.kl) + 2, dtype=np.float64)


def _means(values: Array, ends: Sequence[int]) -> Array:
    """The mean of each part between two ends."""
    sums = np.add.reduceat(values, np.array(ends[:-1]))
    return np.asarray(sums / np.diff(ends), dtype=np.float64)


def _spread(count: int, most: int) -> npt.NDArray[np.intp]:
    """At most so many of the terms, evenly spread over the logarithm of their level, both ends among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.geomspace(2, count + 1, most).round().astype(np.intp)) - 2


def _short(value: float) -> str:
    return figures(value) if abs(value) >= 1e-4 else with_power(float(f"{value:.2g}"))


def _others(kept: Sequence[Result], step: int | None) -> str:
    """The results that are not drawn: of the ODE, of other images, in other ways."""
    return "".join(
        f'<div class="other-bound"><p>{_way(result)}, {number_of(result.found.get("images")) or 0:,.0f} '
        f"{escape(_images(result))}: <b>{figures(number_of(result.found.get('total')) or 0.0)}</b>"
        f"{_error(result)} bits/dim.</p>{_of_step(result, step)}{how([result.command])}</div>"
        for result in kept
    )


def _images(result: Result) -> str:
    return _OF.get(str(result.found.get("split")), f"images of {result.found.get('data')}")


def _way(result: Result) -> str:
    """How it was measured, in a few words."""
    found: dict[str, Any] = result.found
    parts = ["Of the last weights"] if found.get("weights") == "raw" else []
    if "trace" in found:
        parts.append(f"{'the' if parts else 'The'} likelihood of the probability-flow ODE")
    else:
        levels = number_of(found.get("levels")) or 0
        variance = str(found.get("variance", "")).replace("_", " ")
        parts += [f"{'variance' if parts else 'Variance'} {variance}", f"{levels:,.0f} levels"]
    if found.get("clipped") is False:
        parts.append("not clipped")
    if found.get("decoder_kind") == "density":
        parts.append("density at the last step")
    return escape(", ".join(parts))


def _error(result: Result) -> str:
    error = number_of(result.found.get("stderr"))
    return "" if error is None else f" ± {error:.2g}"


def _of_population(result: Result) -> str:
    error = number_of(result.found.get("stderr_population"))
    return "" if error is None else f", ± {error:.2g} for all images like them"


def _of_step(result: Result, step: int | None) -> str:
    if step is None or result.step == step:
        return ""
    return f'<p class="caution">This is of step {result.step:,}; the newest checkpoint is of step {step:,}.</p>'
