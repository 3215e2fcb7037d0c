"""What figures say, in words: each of a measurement for the page of a run, in a line, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from clearwater.evaluation.figures import FIGURES

__all__ = ["BETTER", "GROUPS", "Words", "beyond_pixels", "title_of"]

_PIXEL_BITS = 8

BETTER = {"lower": "lower is better", "higher": "higher is better", "floor": "best at its floor"}
"""What `FIGURES` says of a figure, in words."""


@dataclass(frozen=True)
class Words:
    """A figure in words.

    Attributes:
        title: its name.
        says: what it says.
        low, high: from where to where its scale goes at least.
    """

    title: str
    says: str
    low: float = 0.0
    high: float = 0.0


GROUPS: dict[str, dict[str, Words]] = {
    "How near to the data": {
        "frechet_distance": Words(
            "Fréchet distance", "Between the Gaussians with the means and covariances of the features."
        ),
        "frechet_distance_at_infinity": Words(
            "Fréchet distance at infinity", "The same if there were infinitely many samples."
        ),
        "kernel_distance": Words("Kernel distance", "Between all of the features; right on average at any number."),
        "precision": Words("Precision", "The share of samples that are where the data are.", 0, 1),
        "density": Words("Density", "How crowded with data the places of the samples are; 1 for real images.", 0, 1),
        "sliced_wasserstein": Words(
            "Sliced Wasserstein", "In pixels: colour, contrast and coarse shape, in grey values."
        ),
    },
    "How varied": {
        "recall": Words("Recall", "The share of the data that are where samples are.", 0, 1),
        "coverage": Words("Coverage", "The share of the data that have a sample near.", 0, 1),
        "inception_score": Words("Inception score", "Sure answers, of many classes; it does not look at the data.", 1),
        "class_balance": Words(
            "Classes out of balance", "The share of samples that would have to be of another class.", 0, 0.1
        ),
    },
    "Whether copied": {
        "closer_than_held_out": Words(
            "Nearer than new images",
            "How often a sample is nearer to the data than a held-out image; 0.5 by chance.",
            0,
            1,
        ),
        "copying_score": Words(
            "Copying score", "The same in standard deviations; below -3: nearer than chance.", -3, 3
        ),
        "copies": Words("Copies", "The share of samples that stand out towards one training image.", 0, 0.05),
        "copying_score_in_pixels": Words("Copying score in pixels", "As above, of distances in pixels.", -3, 3),
        "copies_in_pixels": Words("Copies in pixels", "As above, of distances in pixels.", 0, 0.05),
    },
}
"""All of `FIGURES` by what they are for, in the order of the page."""

assert {name for group in GROUPS.values() for name in group} == FIGURES.keys()


def title_of(name: str, *, is_fid: bool) -> str:
    """What a figure is called: the Fréchet distance is the FID in the features of one network alone."""
    words = {name: words for group in GROUPS.values() for name, words in group.items()}.get(name)
    title = name if words is None else words.title
    return title.replace("Fréchet distance", "FID") if is_fid else title


def beyond_pixels(total: float, *, optimal: bool) -> str | None:
    """What is to be known of a bound in bits per dimension that says no more than the pixels do; None below that.

    Args:
        total: the bound.
        optimal: whether it is that of the optimal variance.
    """
    if total <= _PIXEL_BITS:
        return None
    how = (
        "weighted losses, such as x0 with min_snr, leave the levels next to data poor, which are most of the bound and "
        "are hardly seen in samples."
        if optimal
        else "--variance optimal gives the lowest of this model."
    )
    return f"A bound above {_PIXEL_BITS} bits/dim is more than the pixels take as they are: {how}"
