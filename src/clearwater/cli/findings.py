"""What `clearwater compare` finds of a run, and in which way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearwater.cli.loading import Keeping
from clearwater.cli.measuring import Real
from clearwater.cli.subjects import Subject

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Bits", "Distance", "Found", "Way"]


@dataclass(frozen=True)
class Way:
    """How every run is measured, the same for all.

    Attributes:
        n: samples of each distance.
        seed: of their noise, and of what is drawn of the real images.
        sampler: its name.
        steps: that it takes for each number of evaluations, rising.
        middle: evaluations for distances on the way and for the images that are shown.
        real: what samples are compared with, and what sees them.
        own: whether all runs were trained on these images.
        digests: of these images.
        device: where to compute.
        command: what finds all of it again, the words after `clearwater`.
        keeping: of decoded images.
    """

    n: int
    seed: int
    sampler: str
    steps: Mapping[int, int]
    middle: int
    real: Real
    own: bool
    digests: Mapping[str, str | None]
    device: torch.device
    command: Sequence[str]
    keeping: Keeping

    def key(self, weights: str, evaluations: int) -> dict[str, object]:
        """By what samples are known again: of equal keys they are equal, as far as a device repeats itself."""
        from clearwater import __version__

        return {
            "weights": weights,
            "seed": self.seed,
            "sampler": self.sampler,
            "steps": self.steps[evaluations],
            "device": self.device.type,
            "version": __version__,
        }


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance of a run.

    Attributes:
        evaluations: of the network, for an image.
        steps: of the sampler.
        at: the step of training.
        seconds: of training.
        compared: the figure with its floor, as `Compared.as_dict` has it.
    """

    evaluations: int
    steps: int
    at: int
    seconds: float
    compared: dict[str, Any]

    @property
    def value(self) -> float:
        """The distance."""
        return float(self.compared["value"])

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95%, from and to."""
        low, high = self.compared["interval"]
        return float(low), float(high)


@dataclass(frozen=True)
class Bits:
    """The bound of a run with its optimal variance, estimated: bits per dimension.

    Attributes:
        value: the bound.
        error: its standard error for these images.
        population: that for all images like them.
    """

    value: float
    error: float
    population: float


@dataclass(frozen=True)
class Found:
    """What was found of a run.

    Attributes:
        subject: the run.
        by_evaluations: at its end, for each number of evaluations.
        by_time: at each moment and at its end, for as many evaluations as the images have.
        bits: the bound; None where it cannot be made.
        images: samples, uint8, shape (M, C, H, W).
    """

    subject: Subject
    by_evaluations: Sequence[Distance]
    by_time: Sequence[Distance]
    bits: Bits | None
    images: Tensor
