r"""Noise levels, and the algebra of two of them.

A level is a pair (alpha, sigma): ``x_t = alpha * x_0 + sigma * eps`` with ``eps ~ N(0, I)``. Level 0 is
data (1, 0). Everything that diffusion needs of two levels s < t follows from

    delta = 1 - snr_t / snr_s = -expm1(log_snr_t - log_snr_s),

whether they are adjacent or not, variance preserving, variance exploding or a flow, and also at
sigma_s = 0 (Kingma et al. 2021, appendix A). So a strided chain needs no second set of tables, and a
table in float32, which loses 1e-4 of the posterior variance, is never made: levels are float64 on the
CPU, and only final multipliers are cast to a tensor's dtype (`scale`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from clearwater.errors import InputError

__all__ = ["Level", "Pair", "scale", "shifted_share"]


def scale(coefficient: Tensor, x: Tensor) -> Tensor:
    """``coefficient * x`` for a coefficient per image.

    The coefficient, shape () or (B,), is cast once to the dtype and device of `x`, shape (B, ...).
    """
    if coefficient.ndim == 0 and not coefficient.requires_grad:
        return coefficient.to(x.dtype) * x  # a number on the CPU goes along with the kernel: nothing is copied
    if coefficient.ndim:
        coefficient = coefficient.reshape(-1, *[1] * (x.ndim - 1))
    return coefficient.to(device=x.device, dtype=x.dtype, non_blocking=True) * x


def shifted_share(share: Tensor, shift: float) -> Tensor:
    """The `Level.noise_share` with `shift` times the sigma / alpha, so with a log-SNR less by 2 log(shift).

    Esser et al. 2024, eq. 23.
    """
    return shift * share / (1 + (shift - 1) * share)


@dataclass(frozen=True)
class Level:
    """One noise level, or a batch of them: ``x_t = alpha * x_0 + sigma * eps``.

    Attributes:
        alpha: what the data is multiplied by; float64, shape () or (N,).
        sigma: standard deviation of the noise, same shape.
        time: what the network is told of the level, same shape: 0 at data and rising, to 1 on chains that are fixed.
    """

    alpha: Tensor
    sigma: Tensor
    time: Tensor

    def __post_init__(self) -> None:
        for name in ("alpha", "sigma", "time"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu")
            object.__setattr__(self, name, value)
        if not self.alpha.shape == self.sigma.shape == self.time.shape:
            raise InputError(
                f"A level needs alpha, sigma and time of one shape, but they have {tuple(self.alpha.shape)}, "
                f"{tuple(self.sigma.shape)} and {tuple(self.time.shape)}."
            )

    @property
    def log_snr(self) -> Tensor:
        """log(alpha² / sigma²): +inf at data, -inf at pure noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def snr(self) -> Tensor:
        """alpha² / sigma²."""
        return (self.alpha / self.sigma).square()

    @property
    def noise_share(self) -> Tensor:
        """sigma / (alpha + sigma), from 0 at data to 1 at pure noise: a rectified flow's time, of any path."""
        return self.sigma / (self.alpha + self.sigma)

    def __len__(self) -> int:
        return len(self.alpha)

    def __getitem__(self, index: int | slice | Tensor) -> Level:
        return Level(self.alpha[index], self.sigma[index], self.time[index])

    def noise(self, x_0: Tensor, eps: Tensor) -> Tensor:
        """x_t of these data and this noise, both of shape (B, ...)."""
        return scale(self.alpha, x_0) + scale(self.sigma, eps)


@dataclass(frozen=True)
class Pair:
    """Two levels s < t, and every coefficient of q(x_t | x_s) and q(x_s | x_t, x_0).

    Attributes:
        s: the level with less noise.
        t: the level with more noise; same shape as `s`.
        decoder_variance: the reverse variance to use where s is data, shape () (Ho et al. 2020: the
            posterior variance of the next step up, since that of the last step is zero). A chain
            fills it in; without it the variance at data is what the formulas say.
    """

    s: Level
    t: Level
    decoder_variance: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        s, t = self.s.log_snr, self.t.log_snr
        if s.shape != t.shape:
            raise InputError(
                "A pair of levels needs s to have less noise than t everywhere, so both are of one shape, not of "
                f"{tuple(s.shape)} at s and {tuple(t.shape)} at t."
            )
        if not bool((s > t).all()):
            wrong = int((~(s > t)).flatten().nonzero()[0])
            of_s, of_t = (float(each.flatten()[wrong]) for each in (s, t))
            raise InputError(
                "A pair of levels needs s to have less noise than t everywhere, "
                f"but log-SNR is {of_s:.6g} at s and {of_t:.6g} at t"
                + (f" (number {wrong})" if s.ndim else "")
                + ": swap them, or choose different levels."
            )

    def __getitem__(self, index: int | slice | Tensor) -> Pair:
        return Pair(self.s[index], self.t[index], decoder_variance=self.decoder_variance)

    @property
    def delta(self) -> Tensor:
        """1 - snr_t / snr_s, without cancellation."""
        return -torch.expm1(self.t.log_snr - self.s.log_snr)

    @property
    def transition_coefficient(self) -> Tensor:
        """q(x_t | x_s) has mean ``transition_coefficient * x_s``; √(1 - beta_t) on adjacent VP levels."""
        return self.t.alpha / self.s.alpha

    @property
    def transition_variance(self) -> Tensor:
        """Variance of q(x_t | x_s); beta_t on adjacent VP levels."""
        return self.t.sigma.square() * self.delta

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_s | x_t, x_0); beta-tilde on adjacent VP levels (Ho et al. 2020, eq. 7)."""
        return self.s.sigma.square() * self.delta

    @property
    def c_0(self) -> Tensor:
        """The weight of x_0 in the mean of q(x_s | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        return self.s.alpha * self.delta

    @property
    def c_t(self) -> Tensor:
        """The weight of x_t in the mean of q(x_s | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        return self.t.alpha / self.s.alpha * (self.s.sigma / self.t.sigma).square()
