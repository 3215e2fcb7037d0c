"""Ancestral sampling (Ho et al. 2020, algorithm 2), on any levels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.levels import Pair
from clearwater.targets import Prediction

__all__ = ["Ancestral"]


class Ancestral:
    """x_s ~ p(x_s | x_t); where s is data, the mean of it (z = 0)."""

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, pair: Pair, noise: Callable[[], Tensor]
    ) -> tuple[Tensor, Prediction]:
        prediction = denoiser(x_t, pair.t)
        reverse = denoiser.reverse_from(prediction, x_t, pair)
        return (reverse.sample(noise()) if pair.s.sigma > 0 else reverse.mean), prediction
