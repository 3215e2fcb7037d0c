r"""Linear inverse problems: samples of p(x_0 | y) for a measurement y = A x_0 + sigma_y · noise.

A `Posterior` is a denoiser around a denoiser, so every sampler solves the problem. It takes p(x_0 | x_t) for the
Gaussian with the denoiser's mean and, by Tweedie's formula, the covariance V = sigma²/alpha · ∂x̂_0/∂x_t (MMPS: Rozet et
al. 2024, section 4), so that

    E[x_0 | x_t, y] = x̂_0 + V Aᵀ (sigma_y² I + A V Aᵀ)⁻¹ (y - A x̂_0),

exactly so for Gaussian data. With V = sigma²/(alpha² + sigma²) I it is ΠGDM (Song et al. 2023).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from clearwater.denoisers import Around, Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.sampling.inputs import fits
from clearwater.targets import Prediction, prediction_from_x_0

__all__ = ["Blurred", "Downsampled", "Masked", "Measurement", "Posterior"]


class Measurement(ABC):
    """A linear map A of images; the adjoint is had from it by differentiation."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x, of images of shape (B, C, H, W); linear in x."""


@dataclass(frozen=True)
class Masked(Measurement):
    """The pixels where the mask is above zero: inpainting.

    Attributes:
        mask: 1 where the image is known and 0 elsewhere, broadcastable to (B, C, H, W).
    """

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        if not fits(self.mask.shape, x.shape):
            raise InputError(
                f"The mask has shape {tuple(self.mask.shape)}, which does not fit images of shape {tuple(x.shape)}: "
                "give one for all, or one each, of their size."
            )
        return self.mask.to(x) * x


@dataclass(frozen=True)
class Downsampled(Measurement):
    """Means over blocks of pixels: super-resolution.

    Attributes:
        factor: the side of a block.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError(f"Images are made smaller by a factor of 1 or more, not {self.factor}.")

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise InputError(
                f"Images of {x.shape[-2]} × {x.shape[-1]} cannot be divided into blocks of {self.factor} × "
                f"{self.factor}: take a factor of both."
            )
        return F.avg_pool2d(x, self.factor)


@dataclass(frozen=True)
class Blurred(Measurement):
    """A convolution with a Gaussian, the edge going on outside the image, as most programs blur: deblurring.

    Attributes:
        deviation: of the Gaussian, in pixels.
    """

    deviation: float

    def __post_init__(self) -> None:
        if not 0 < self.deviation < math.inf:
            raise InputError(f"Images are blurred by a deviation above 0 pixels, not {self.deviation}.")

    def __call__(self, x: Tensor) -> Tensor:
        radius = max(1, round(3 * self.deviation))
        at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        line = (-0.5 * (at / self.deviation).square()).exp()
        line = line / line.sum()
        channels = x.shape[1]
        kernel = line.expand(channels, 1, 1, -1)
        wide = F.pad(x, (radius,) * 4, mode="replicate")
        across = F.conv2d(wide, kernel, groups=channels)
        return F.conv2d(across, kernel.transpose(2, 3), groups=channels)


class Posterior(Around):
    """A denoiser that knows a measurement of the image.

    Args:
        denoiser: what knows images; its chain and variance are kept.
        measurement: A.
        y: what was measured, of the shape of A x_0.
        noise: standard deviation sigma_y of the measurement.
        covariance: of x_0 given x_t: "tweedie", from the denoiser's Jacobian (a few evaluations' worth a step), or
            "isotropic", sigma²/(alpha² + sigma²).
        iterations: of the conjugate gradients that solve for the correction.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        measurement: Measurement,
        y: Tensor,
        noise: float = 0.01,
        *,
        covariance: Literal["tweedie", "isotropic"] = "tweedie",
        iterations: int = 5,
    ) -> None:
        if not noise > 0 or iterations < 1:
            raise InputError(
                f"A measurement has noise above zero, and its solution at least one iteration, not {noise} and "
                f"{iterations}."
            )
        super().__init__(denoiser)
        self.measurement, self.y, self.noise = measurement, y, noise
        self.covariance, self.iterations = covariance, iterations

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        spread = float(t.sigma.square() / (t.alpha.square() + t.sigma.square()))
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            prediction = self.denoiser(x, t)
            mean = prediction.x_0 if prediction.x_0.requires_grad else prediction.x_0.clone()
            measured = self.measurement(mean)
            self._refuse_shape(measured)
            y = self.y.clone().to(measured)

            def covariance_of(v: Tensor) -> Tensor:
                """V Aᵀ v."""
                if self.covariance == "isotropic" or not mean.requires_grad:
                    return spread * self._adjoint(v, mean)
                (back,) = torch.autograd.grad(measured, x, v, retain_graph=True)
                # The Jacobian of the mean is symmetric, so its transpose gives V.
                return float(t.sigma.square() / t.alpha) * back if float(t.alpha) else spread * self._adjoint(v, mean)

            residual = (y - measured).detach()
            solved = _conjugate_gradients(
                lambda v: self.noise**2 * v + self.measurement(covariance_of(v)).detach(), residual, self.iterations
            )
            x_0 = (mean + covariance_of(solved)).detach()
        extra = None if prediction.extra is None else prediction.extra.detach()
        return prediction_from_x_0(x_0, x_t, t, extra)

    def _refuse_shape(self, measured: Tensor) -> None:
        if not fits(self.y.shape, measured.shape):
            raise InputError(
                f"What is measured of these images has shape {tuple(measured.shape)}, and y has "
                f"{tuple(self.y.shape)}: give one y an image, or one for all."
            )

    def _adjoint(self, v: Tensor, like: Tensor) -> Tensor:
        probe = torch.zeros_like(like).requires_grad_()
        (back,) = torch.autograd.grad(self.measurement(probe), probe, v)
        return back


def _conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """An approximate solution of apply(v) = b, each image for itself (Hestenes & Stiefel 1952)."""

    def dot(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).flatten(1).sum(1).reshape(-1, *[1] * (p.ndim - 1))

    v, r, p = torch.zeros_like(b), b, b
    size = dot(r, r)
    for _ in range(iterations):
        image = apply(p)
        curvature = dot(p, image)
        # A network's Jacobian need not be a covariance: where it is none in this direction, the image is left here.
        step = torch.where(curvature > 0, size / curvature.clamp(min=1e-30), torch.zeros_like(size))
        v, r = v + step * p, r - step * image
        following = dot(r, r)
        p = torch.where(curvature > 0, r + following / size.clamp(min=1e-30) * p, torch.zeros_like(p))
        size = following
    return v
