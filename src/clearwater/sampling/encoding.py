"""The way back: from an image to the noise that a deterministic sampler makes it of; and between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level, scale
from clearwater.sampling.ddim import DDIM
from clearwater.sampling.inputs import refuse_batch, refuse_kinds, refuse_values
from clearwater.sampling.steps import Memory, Stepper, no_noise

__all__ = ["Encoded", "encode", "interpolate_encoded", "slerp"]

_FIRST_ITERATIONS = 4


@torch.inference_mode()
def encode(denoiser: Denoiser, x_0: Tensor, chain: Chain | None = None, stepper: Stepper | None = None) -> Tensor:
    """x at the last level of the chain, from which the same sampler makes about `x_0` again.

    Args:
        denoiser: the model.
        x_0: images, values in [-1, 1], shape (B, C, H, W).
        chain: the levels, the denoiser's own if None.
        stepper: a deterministic sampler, DDIM if None; the error of the way there and back falls with the step at
            its order or one above.

    Raises:
        InputError: the sampler draws noise, or the denoiser's network cannot see such images.
    """
    refuse_kinds(denoiser, chain, stepper)
    refuse_values(x_0)
    refuse_batch(denoiser, x_0.shape, x_0.device)
    chain = denoiser.chain if chain is None else chain
    stepper = DDIM() if stepper is None else stepper
    if stepper.stochastic:
        raise InputError(
            f"An image is encoded without randomness, and {type(stepper).__name__} draws noise as it is set here: use "
            "a deterministic sampler, such as ddim or heun."
        )
    first = chain.levels[1]
    # The step to data gives x̂_0(x_1): x_1 is what gives x_0 there, by a fixed point.
    x = float(first.alpha) * x_0
    for _ in range(_FIRST_ITERATIONS):
        x = first.noise(x_0, denoiser(x, first).eps)
    memory: Memory = ()
    for step in stepper.plan(chain.levels[1:], denoiser.chain.at_log_snr):
        x, _, memory = step(denoiser, x, memory, no_noise)
    return x


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Between two noises along the sphere, so that what lies between is as long as they are (Shoemake 1985).

    Args:
        a: shape (B, ...).
        b: the same shape.
        weight: 0 for a, 1 for b.
    """
    if a.shape != b.shape:
        raise InputError(f"slerp goes between noises of one shape, not {tuple(a.shape)} and {tuple(b.shape)}.")
    flat_a, flat_b = a.flatten(1).cpu().double(), b.flatten(1).cpu().double()  # some devices have no float64
    cosine = (flat_a * flat_b).sum(1) / (flat_a.norm(dim=1) * flat_b.norm(dim=1)).clamp(min=1e-300)
    angle = cosine.clamp(-1, 1).acos().unsqueeze(1)
    small = angle.sin() < 1e-6  # nearly the same direction: the straight line
    sine = angle.sin().where(~small, torch.ones_like(angle))
    of_a = (((1 - weight) * angle).sin() / sine).where(~small, torch.full_like(angle, 1 - weight))
    of_b = ((weight * angle).sin() / sine).where(~small, torch.full_like(angle, weight))
    between: Tensor = of_a * flat_a + of_b * flat_b
    return between.to(a).reshape(a.shape)


@dataclass(frozen=True)
class Encoded:
    """Images, and the x_t that a deterministic sampler makes them of.

    Attributes:
        x_0: the images, shape (B, ...).
        x_t: the same shape.
        level: the level of x_t, shape ().
    """

    x_0: Tensor
    x_t: Tensor
    level: Level

    def __post_init__(self) -> None:
        if self.x_0.shape != self.x_t.shape:
            raise InputError(
                f"Images and what they are encoded to have one shape, but these have {tuple(self.x_0.shape)} and "
                f"{tuple(self.x_t.shape)}."
            )
        if self.level.sigma.ndim or not float(self.level.sigma) > 0:
            raise InputError("Images are encoded to one level above data: give that, such as chain.levels[-1].")

    @property
    def eps(self) -> Tensor:
        """What is not image in x_t, as noise of standard deviation 1."""
        return scale(1 / self.level.sigma, self.x_t - scale(self.level.alpha, self.x_0))


def interpolate_encoded(a: Encoded, b: Encoded, weight: float) -> Tensor:
    """x_t between two at the same level: the images along the straight line, the noises along the sphere.

    So it has the signal and the noise that belong to the level. (Along the sphere as a whole, images would gain
    contrast, by √2 in the middle; along the line, noise would lose it.)

    Args:
        a: one of them.
        b: the other, of the same shape and at the same level.
        weight: 0 for a, 1 for b.
    """
    if a.x_0.shape != b.x_0.shape:
        raise InputError(
            f"Images are interpolated between in pairs, but these have shapes {tuple(a.x_0.shape)} and "
            f"{tuple(b.x_0.shape)}: give as many on both sides, of one shape."
        )
    if float(a.level.alpha) != float(b.level.alpha) or float(a.level.sigma) != float(b.level.sigma):
        raise InputError("Images are interpolated between at one level: encode both on the same chain.")
    return a.level.noise(torch.lerp(a.x_0, b.x_0, weight), slerp(a.eps, b.eps, weight))
