"""The sampling loop: a generator of states that the command line, the pictures and the tests share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.denoisers import Denoiser
from clearwater.levels import Pair
from clearwater.randomness import ImageNoise
from clearwater.sampling.ancestral import Ancestral
from clearwater.targets import Prediction

__all__ = ["StepState", "Stepper", "sample", "sampling_states"]


class Noise(Protocol):
    """Gives standard normal noise of the shape of x_t, new at each call."""

    def __call__(self) -> Tensor: ...


class Stepper(Protocol):
    """One step t → s of a sampler."""

    def __call__(self, denoiser: Denoiser, x_t: Tensor, pair: Pair, noise: Noise, /) -> tuple[Tensor, Prediction]:
        """x_s, and the prediction at x_t that it was made from."""


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
    denoiser: Denoiser, noise: Noise, chain: Chain | None = None, stepper: Stepper | None = None
) -> Iterator[StepState]:
    """Sample, one state a level: from a draw of the prior at k = T to the finished images at k = 0.

    Args:
        denoiser: what predicts.
        noise: gives the noise of the whole batch at each call.
        chain: the levels to go through, the denoiser's own if None; `Chain.strided` for fewer.
        stepper: the sampler; ancestral if None.
    """
    chain = denoiser.chain if chain is None else chain
    stepper = Ancestral() if stepper is None else stepper
    with torch.inference_mode():
        x = noise() * float(chain.prior_variance.sqrt())
    yield StepState(chain.T, x, None)
    for k in range(chain.T, 0, -1):
        # Entered anew at each step: a generator must not leave its caller in another mode.
        with torch.inference_mode():
            x, prediction = stepper(denoiser, x, chain.pair(k), noise)
        yield StepState(k - 1, x, prediction)


def sample(
    denoiser: Denoiser,
    n: int,
    shape: Sequence[int],
    *,
    seed: int = 0,
    chain: Chain | None = None,
    stepper: Stepper | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`n` images of `shape` (C, H, W), shape (n, C, H, W); image i depends on the seed and i alone."""
    noise = ImageNoise(seed, range(n), shape, device)
    x = torch.empty(0)
    for state in sampling_states(denoiser, noise, chain, stepper):
        x = state.x
    return x
