"""Every figure by its name, made of the same material and in one form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from clearwater.errors import InputError
from clearwater.evaluation.estimates import Estimate
from clearwater.evaluation.extrapolation import frechet_at_infinity
from clearwater.evaluation.fidelity import Moments, frechet_estimate
from clearwater.evaluation.kernel import kernel_distance
from clearwater.evaluation.manifold import manifold
from clearwater.evaluation.material import Material
from clearwater.evaluation.memorisation import closer_than_held_out, copies, copying_score, nearest_training
from clearwater.evaluation.pixels import PixelRows, Pixels
from clearwater.evaluation.scores import class_balance, inception_score
from clearwater.evaluation.sliced import sliced_wasserstein

__all__ = ["FIGURES", "MAKERS", "Better", "Case", "Figure", "Maker"]

Better = Literal["lower", "higher", "floor"]
"""Which way a figure is better: "floor" if both more and less than the floor's is worse."""

FIGURES: dict[str, Better] = {
    "frechet_distance": "lower",
    "frechet_distance_at_infinity": "lower",
    "kernel_distance": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "inception_score": "higher",
    "class_balance": "lower",
    "sliced_wasserstein": "lower",
    "closer_than_held_out": "floor",
    "copying_score": "floor",
    "copies": "floor",
    "copying_score_in_pixels": "floor",
    "copies_in_pixels": "floor",
}
"""The names of all figures, in the order of a table, and which way each is better."""

_SHOWN = 2000  # samples and held-out images whose pixels are compared with those of all training images


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: one of `FIGURES`.
        value: the figure.
        error: its standard error.
        interval: of 95%, from and to: of the figure at this number of images, without the bias that it has there.
        n: of how many samples.
        of: against how many images of the data; held-out images for those of memorisation.
        better: which way.
        features: the name of the extractor, or "pixels".
    """

    name: str
    value: float
    error: float
    interval: tuple[float, float]
    n: int
    of: int
    better: Better
    features: str


@dataclass(frozen=True)
class Case:
    """What figures are made of.

    Attributes:
        samples: what is measured.
        data: the training images.
        held_out: real images that the model was not trained on, if there are any.
        features: the name of the extractor.
        k: which neighbour precision and recall, density and coverage look at.
        seed: of what is drawn.
    """

    samples: Material
    data: Material
    held_out: Material | None
    features: str
    k: int
    seed: int


@dataclass(frozen=True)
class Maker:
    """A function that makes one or more of the figures.

    Attributes:
        names: of the figures.
        make: the function; it raises InputError if they cannot be made.
        features: "pixels" if they are made of those, else None.
        by_held_out: whether samples are compared with held-out images, by what both are to the data.
        most: samples, and held-out images, that it takes; None for all.
    """

    names: tuple[str, ...]
    make: Callable[[Case], Sequence[Estimate]]
    features: str | None = None
    by_held_out: bool = False
    most: int | None = None

    def __call__(self, case: Case) -> dict[str, Figure]:
        """The figures by name."""
        against = case.data
        if self.by_held_out:
            if case.held_out is None:
                raise InputError(
                    "Whether samples are copies takes real images that the model was not trained on: give some."
                )
            most = self.most or max(len(case.samples), len(case.held_out))
            samples, against = (of.drawn(most, case.seed) for of in (case.samples, case.held_out))
            case = replace(case, samples=samples, held_out=against)
        return {
            name: Figure(
                name,
                found.value,
                found.error,
                found.interval,
                len(case.samples),
                len(against),
                FIGURES[name],
                self.features or case.features,
            )
            for name, found in zip(self.names, self.make(case), strict=True)
        }


def _frechet(case: Case) -> Sequence[Estimate]:
    return [frechet_estimate(case.samples.features, case.data.features)]


def _at_infinity(case: Case) -> Sequence[Estimate]:
    return [frechet_at_infinity(case.samples.features, Moments.of(case.data.features), seed=case.seed).estimate]


def _kernel(case: Case) -> Sequence[Estimate]:
    return [kernel_distance(case.samples.features, case.data.features)]


def _manifold(case: Case) -> Sequence[Estimate]:
    found = manifold(case.samples.features, case.data.features, k=case.k, seed=case.seed)
    return [found.precision, found.recall, found.density, found.coverage]


def _inception(case: Case) -> Sequence[Estimate]:
    if case.samples.probabilities is None:
        raise InputError("The extractor knows no classes, so there is no Inception score: take one that does.")
    return [inception_score(case.samples.probabilities)]


def _balance(case: Case) -> Sequence[Estimate]:
    samples, data = case.samples, case.data
    if samples.probabilities is not None and data.probabilities is not None:
        classes = data.probabilities.shape[1]
        return [class_balance(samples.probabilities.argmax(1), data.probabilities.argmax(1), classes).apart]
    if samples.labels is not None and data.labels is not None:
        classes = 1 + int(max(samples.labels.max(), data.labels.max()))
        return [class_balance(samples.labels, data.labels, classes).apart]
    raise InputError("Neither the extractor nor the images tell classes, so there is no balance of them.")


def _images(*sets: Material) -> list[Pixels | Tensor]:
    images = [of.images for of in sets if of.images is not None]
    if len(images) < len(sets):
        raise InputError("There are features but no images, so pixels cannot be compared: give the images.")
    return images


def _sliced(case: Case) -> Sequence[Estimate]:
    samples, data = _images(case.samples, case.data)
    return [sliced_wasserstein(samples, data, seed=case.seed)]


def _memorisation(case: Case) -> Sequence[Estimate]:
    assert case.held_out is not None
    sets = case.samples.features, case.held_out.features
    absolute = [nearest_training(of, case.data.features) for of in sets]
    # A share that is called copies should not be of samples that are only too much alike.
    relative = [nearest_training(of, case.data.features, relative_to=2) for of in sets]
    return [closer_than_held_out(*absolute), copying_score(*absolute), copies(*relative)]


def _memorisation_in_pixels(case: Case) -> Sequence[Estimate]:
    assert case.held_out is not None
    samples, held_out, data = (PixelRows(of) for of in _images(case.samples, case.held_out, case.data))
    # Blurred images are nearer to all others in pixels, so only relative distances say anything.
    relative = [nearest_training(of, data, relative_to=2) for of in (samples, held_out)]
    return [copying_score(*relative), copies(*relative)]


MAKERS = (
    Maker(("frechet_distance",), _frechet),
    Maker(("frechet_distance_at_infinity",), _at_infinity),
    Maker(("kernel_distance",), _kernel),
    Maker(("precision", "recall", "density", "coverage"), _manifold),
    Maker(("inception_score",), _inception),
    Maker(("class_balance",), _balance),
    Maker(("sliced_wasserstein",), _sliced, features="pixels"),
    Maker(("closer_than_held_out", "copying_score", "copies"), _memorisation, by_held_out=True),
    Maker(
        ("copying_score_in_pixels", "copies_in_pixels"),
        _memorisation_in_pixels,
        features="pixels",
        by_held_out=True,
        most=_SHOWN,
    ),
)
"""What makes all of `FIGURES`."""
