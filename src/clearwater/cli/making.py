"""How `clearwater sample` makes its images: a model, what steers it, a sampler on a grid, and where it starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clearwater.cli.writing import fingerprint
from clearwater.errors import ClearwaterError, InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clearwater.chains import Chain
    from clearwater.config import DataConfig
    from clearwater.denoisers import Denoiser, NetworkDenoiser
    from clearwater.inverse import Measurement
    from clearwater.sampling import Stepper, StepState
    from clearwater.training import RunFolder

__all__ = [
    "Change",
    "Guidance",
    "Making",
    "Measured",
    "classes_of",
    "finite",
    "known_image",
    "mask_of",
    "refuse_new_noise",
]

_LEVEL = 0.6
_TIMES = 5


@dataclass(frozen=True)
class Guidance:
    """What a sample is pushed away from, and how far.

    Attributes:
        scale: 1 for not at all.
        interval: times between which it is on.
        rescale: how much of the unguided contrast is brought back.
        guide: another, weaker model to be pushed away from; None for the same without its class.
        guide_knows_classes: whether that is told the class.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    guide: NetworkDenoiser | None = None
    guide_knows_classes: bool = False


@dataclass(frozen=True)
class Change:
    """What of an image is changed: all of it, made anew from a level on, or what is white in a mask.

    Attributes:
        image: the file; None to begin with noise alone.
        level: how much noise all of it is given; None for 0.6.
        mask: a file, white where to fill in.
        repaint: how often each step is done to fill in; None for 5.
    """

    image: Path | None = None
    level: float | None = None
    mask: Path | None = None
    repaint: int | None = None

    def __post_init__(self) -> None:
        if self.image is None and (self.mask is not None or self.level is not None):
            raise InputError("--mask and --level say what of an image is changed: give the image with --from.")
        if self.mask is None and self.repaint is not None:
            raise InputError(
                "--repaint is how often the steps are done that fill in a mask: give --mask, or leave it out."
            )
        if self.mask is not None and self.level is not None:
            raise InputError("With --mask all noise is given to what is filled in: leave out --level.")

    @property
    def from_level(self) -> float:
        """The time from which on images are made."""
        if self.image is None or self.mask is not None:
            return 1.0
        return _LEVEL if self.level is None else self.level

    def begin(
        self, stepper: Stepper, shape: tuple[int, int, int], device: torch.device
    ) -> tuple[Stepper, Tensor | None]:
        """The sampler that makes the change, and the image that it begins with, if with any."""
        from clearwater.sampling import RePaint

        if self.image is None:
            return stepper, None
        known = known_image(self.image, shape).to(device)
        if self.mask is None:
            return stepper, known
        kept = mask_of(self.mask, shape, self.image).to(device)
        return RePaint(stepper, known, kept, self.repaint or _TIMES), None

    def told(self) -> dict[str, object]:
        """What samples.json says of it."""
        return {
            "from_path": str(self.image) if self.image else None,
            "from": [fingerprint(self.image), self.from_level] if self.image else None,
            "mask_path": str(self.mask) if self.mask else None,
            "mask": [fingerprint(self.mask), self.repaint or _TIMES] if self.mask else None,
        }


@dataclass(frozen=True)
class Measured:
    """What is known of an image that is to be restored.

    Attributes:
        measurement: the linear map A.
        y: what was measured, shape (1, ...).
        noise: its standard deviation.
    """

    measurement: Measurement
    y: Tensor
    noise: float


@dataclass(frozen=True)
class Making:
    """All that is the same for every batch.

    Attributes:
        network: the model, unclipped.
        clip: whether predictions are clipped to the range of the data.
        chain: the levels to go through.
        stepper: the sampler.
        shape: (C, H, W) of an image.
        device: where it is made.
        seed: of the noise; image i has its own.
        classes: image i is of class classes[i % len]; empty for none.
        guidance: away from what.
        start: an image, shape (1, C, H, W), to be changed from the chain's last level on; None to start from noise.
        measured: what is known of the image; None for nothing.
    """

    network: NetworkDenoiser
    clip: bool
    chain: Chain
    stepper: Stepper
    shape: tuple[int, int, int]
    device: torch.device
    seed: int
    classes: tuple[int, ...] = ()
    guidance: Guidance = Guidance()
    start: Tensor | None = None
    measured: Measured | None = None

    def states(self, indices: Sequence[int]) -> Iterator[StepState]:
        """The states of the images with these numbers, from noise to data."""
        from clearwater.randomness import ImageNoise
        from clearwater.sampling import sampling_states

        noise = ImageNoise(self.seed, indices, self.shape, self.device)
        start = None if self.start is None else self.chain.levels[-1].noise(self.start, noise())
        yield from sampling_states(self.denoiser(indices), noise, self.chain, self.stepper, start)

    def images(self, indices: Sequence[int], report: Callable[[float], None]) -> Tensor:
        """The finished images with these numbers, uint8, shape (B, C, H, W); `report` is told the fraction done."""
        from clearwater.pictures import to_uint8

        state: StepState | None = None
        for state in self.states(indices):
            report(1 - state.k / self.chain.T)
        assert state is not None
        if not bool(state.x.isfinite().all()):
            raise ClearwaterError(
                "The images came out as no numbers at all: guide less, add less noise, or take another sampler."
            )
        return to_uint8(state.x)

    def denoiser(self, indices: Sequence[int]) -> Denoiser:
        """What predicts the images with these numbers.

        Raises:
            InputError: what steers it makes no sense.
        """
        import torch

        from clearwater.denoisers import Clipped
        from clearwater.guidance import Guided
        from clearwater.inverse import Posterior

        plain: NetworkDenoiser = self.network
        labels: Tensor | None = None
        if self.classes:
            labels = torch.tensor([self.classes[i % len(self.classes)] for i in indices], device=self.device)
        model: Denoiser = replace(plain, labels=labels)
        if self.guidance.scale != 1:
            guide: Denoiser = plain
            if self.guidance.guide is not None:
                told = labels if self.guidance.guide_knows_classes else None
                guide = replace(self.guidance.guide, labels=told)
            model = Guided(
                model, guide, self.guidance.scale, interval=self.guidance.interval, rescale=self.guidance.rescale
            )
        if self.measured is not None:
            y = self.measured.y.expand(len(indices), *self.measured.y.shape[1:])
            model = Posterior(model, self.measured.measurement, y, self.measured.noise)
        return Clipped(model) if self.clip else model


def classes_of(text: str | None, data: DataConfig) -> tuple[int, ...]:
    """The numbers of classes that are given by name or by number, such as "0,3" or "bag,coat"; "all" for each."""
    if text is None:
        return ()
    known = data.classes or ()
    if not data.labels or not known:
        raise InputError("This run knows no classes: train it with --labels, or leave --classes out.")
    if text == "all":
        return tuple(range(len(known)))
    numbers = []
    for word in (part.strip() for part in text.split(",")):
        if word in known:
            numbers.append(known.index(word))
        elif word.isascii() and word.isdecimal() and int(word) < len(known):
            numbers.append(int(word))
        else:
            raise InputError(
                f"There is no class '{word}': give names or numbers with commas between, of 0 to {len(known) - 1}: "
                f"{', '.join(known)}; or all."
            )
    return tuple(numbers)


def known_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """An image as a run of this (C, H, W) sees images: shape (1, C, H, W), values in [-1, 1]."""
    from clearwater.data import pixel_values
    from clearwater.data.folder import read_image

    return pixel_values(read_image(path, shape[1:], shape[0])).unsqueeze(0)


def mask_of(path: Path, shape: tuple[int, int, int], of: Path) -> Tensor:
    """1 where the mask is black, which is kept, and 0 where it is white, which is filled in; shape (1, 1, H, W).

    Raises:
        InputError: it is of another shape than the image `of` and the run's images, or of one colour.
    """
    from clearwater.data.folder import image_size, read_image

    kept = (read_image(path, shape[1:], 1) < 128).float().unsqueeze(0)
    height, width = image_size(path)
    if all(height * w != width * h for h, w in (shape[1:], image_size(of))):
        raise InputError(
            f"The mask '{path}' is {height} × {width}, in another proportion than '{of}' and the run's {shape[1]} × "
            f"{shape[2]}: make it of the size of the image that it is for."
        )
    if bool((kept == kept.flatten()[0]).all()):
        what = "black: nothing is filled in" if bool(kept.any()) else "white: nothing of the image is left"
        raise InputError(f"The mask '{path}' is all {what}. Make it white where to fill in and black elsewhere.")
    return kept


def refuse_new_noise(folder: RunFolder, why: str) -> None:
    """Refuses, with an `InputError`, what adds noise of its own to what was trained with noise that was chosen."""
    coupling = folder.config().objective.coupling
    if coupling != "independent":
        raise InputError(
            f"'{folder.path}' was trained with objective.coupling = {coupling}, so it is a flow from its noise alone, "
            f"and {why}: sample from it without --from, by a sampler that adds none, such as unipc or rk4."
        )


def finite(name: str, value: float | None) -> None:
    """Refuses, with an `InputError`, a number that is not one."""
    if value is not None and not math.isfinite(value):
        raise InputError(f"{name} is a finite number, not {value}.")
