"""The sampling loop: a generator of states that the command line, the pictures and the tests share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.randomness import ImageNoise
from clearwater.sampling.ancestral import Ancestral
from clearwater.sampling.inputs import (
    device_of,
    refuse_batch,
    refuse_kinds,
    refuse_values,
    shape_of_image,
    whole_number,
)
from clearwater.sampling.steps import Memory, Noise, Stepper
from clearwater.targets import Prediction

__all__ = ["StepState", "sample", "sampling_states"]


@dataclass(frozen=True)
class StepState:
    """Where a sampler is.

    Attributes:
        k: the level of `x`, counted on the chain that is sampled on; 0 is the finished sample.
        x: the image at level k, shape (B, ...).
        prediction: what the denoiser said at level k + 1; None at the start.
    """

    k: int
    x: Tensor
    prediction: Prediction | None


def sampling_states(
    denoiser: Denoiser,
    noise: Noise,
    chain: Chain | None = None,
    stepper: Stepper | None = None,
    start: Tensor | None = None,
) -> Iterator[StepState]:
    """Sample, one state a level: from a draw of the prior at k = T to the finished images at k = 0.

    Args:
        denoiser: what predicts.
        noise: gives the noise of the whole batch at each call.
        chain: the levels to go through, the denoiser's own if None; `Chain.strided` for fewer.
        stepper: the sampler; ancestral if None.
        start: x at the chain's last level, shape (B, ...), in place of a draw of the prior.

    Raises:
        InputError: the denoiser's network cannot see such images, or has labels for another number of them.
    """
    refuse_kinds(denoiser, chain, stepper)
    if start is not None:
        refuse_values(start)
    chain = denoiser.chain if chain is None else chain
    stepper = Ancestral() if stepper is None else stepper
    path = chain.levels[torch.arange(chain.T, -1, -1)]
    steps = stepper.plan(path, denoiser.chain.at_log_snr)
    with torch.inference_mode():
        x = noise() * float(chain.prior_variance.sqrt()) if start is None else start
    refuse_batch(denoiser, x.shape, x.device)
    yield StepState(chain.T, x, None)
    memory: Memory = ()
    for k, step in zip(range(chain.T - 1, -1, -1), steps, strict=True):
        # Entered anew at each step: a generator must not leave its caller in another mode.
        with torch.inference_mode():
            x, prediction, memory = step(denoiser, x, memory, noise)
        yield StepState(k, x, prediction)


def sample(
    denoiser: Denoiser,
    n: int,
    shape: Sequence[int],
    *,
    seed: int = 0,
    batch: int = 64,
    chain: Chain | None = None,
    stepper: Stepper | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """`n` images of `shape` (C, H, W), shape (n, C, H, W), made `batch` at a time.

    Image i depends on the seed and i alone.

    Args:
        denoiser: what predicts. Labels that it has are those of each batch: of one label for all, or n with batch=n.
        n: how many images.
        shape: of an image, (C, H, W).
        seed: any whole number.
        batch: how many at a time; does not change them.
        chain: the levels to go through, the denoiser's own if None; `Chain.strided` for fewer.
        stepper: the sampler; ancestral if None.
        device: where the network is, which is found if None.

    Raises:
        InputError: one of these cannot be, or the denoiser's network cannot see such images.
    """
    n, batch, seed = whole_number("n", n), whole_number("batch", batch), whole_number("seed", seed)
    if n < 1 or batch < 1:
        raise InputError(f"At least one image is sampled, and at least one at a time, not {n} and {batch}.")
    refuse_kinds(denoiser, chain, stepper)
    sizes, place = shape_of_image(shape), device_of(device, denoiser)
    for at_once in (min(batch, n), (n - 1) % batch + 1):  # the first and the last batch, which may be smaller
        refuse_batch(denoiser, (at_once, *sizes), place)
    made = []
    for first in range(0, n, batch):
        noise = ImageNoise(seed, range(first, min(first + batch, n)), sizes, place)
        # A queue of one: the states before the last are let go as they come.
        made.append(deque(sampling_states(denoiser, noise, chain, stepper), maxlen=1).pop().x)
    return torch.cat(made)
