"""Control over samples: denoisers around denoisers that change what is predicted.

All of them change x_0 and recompute eps from it, so that a step made of the two stays on its path.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from clearwater.denoisers import Around, Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level, scale
from clearwater.targets import Prediction, prediction_from_x_0

__all__ = ["ClassifierGuided", "DynamicThreshold", "Guided"]


class Guided(Around):
    """What one denoiser predicts, pushed away from what another does: ``x̂_0 + (scale - 1) (x̂_0 - x̂_0 of the guide)``.

    With a class-conditional denoiser and the same without its class it is classifier-free guidance (Ho & Salimans
    2022); with a weaker model as the guide, autoguidance (Karras et al. 2024). A scale of 1 changes nothing.

    Args:
        denoiser: what is guided; its chain and variance are kept.
        guide: what it is pushed away from.
        scale: how far; above 1 for more.
        interval: times (0 = data) between which guidance is on; elsewhere the guide is not evaluated
            (Kynkäänniemi et al. 2024).
        rescale: how much of the guided x̂_0's standard deviation over an image is brought back to the unguided one's,
            0 to 1 (Lin et al. 2024, section 3.4).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        guide: Denoiser,
        scale: float,
        *,
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
    ) -> None:
        if not math.isfinite(scale):
            raise InputError(f"The scale of guidance is a finite number, such as 2, not {scale}.")
        if not 0 <= rescale <= 1:
            raise InputError(f"Guidance is rescaled by 0 (not at all) to 1, not by {rescale}.")
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise InputError(
                f"Guidance is on between two times from 0 (data) to 1 (noise), the lower one first, not {interval}."
            )
        super().__init__(denoiser)
        self.guide, self.scale = guide, scale
        self.interval, self.rescale = interval, rescale

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        prediction = self.denoiser(x_t, t)
        # A sampler's level is one for the whole batch; a batch of levels is guided if all of it is in the interval.
        inside = float(t.time.min()) >= self.interval[0] and float(t.time.max()) <= self.interval[1]
        if self.scale == 1 or not inside:
            return prediction
        x_0 = prediction.x_0 + (self.scale - 1) * (prediction.x_0 - self.guide(x_t, t).x_0)
        if self.rescale:
            axes = list(range(1, x_0.ndim))
            ratio = prediction.x_0.std(axes, keepdim=True) / x_0.std(axes, keepdim=True).clamp(min=1e-12)
            x_0 = x_0 * (1 + self.rescale * (ratio - 1))
        return prediction_from_x_0(x_0, x_t, t, prediction.extra)


class ClassifierGuided(Around):
    """Classifier guidance: the score plus ``scale · ∇ log p(y | x_t)`` (Dhariwal & Nichol 2021, section 4).

    Args:
        denoiser: what is guided; its chain and variance are kept.
        log_prob: ``(x_t, time) → log p(y | x_t)``, shapes (B, ...) and (B,) to (B,), of the class that is wanted; its
            gradient is taken.
        scale: of the gradient.
    """

    def __init__(self, denoiser: Denoiser, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__(denoiser)
        self.log_prob, self.scale = log_prob, scale

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        prediction = self.denoiser(x_t, t)
        # Samplers run without gradients; here one is needed.
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            time = t.time.to(device=x.device, dtype=torch.float32).expand(len(x))
            (gradient,) = torch.autograd.grad(self.log_prob(x, time).sum(), x)
        # E[x_0 | x_t, y] = E[x_0 | x_t] + sigma²/alpha · ∇ log p(y | x_t), by Tweedie's formula.
        # A level without signal says nothing of the class either.
        size = (t.sigma.square() / t.alpha).where(t.alpha > 0, torch.zeros_like(t.alpha))
        x_0 = prediction.x_0 + scale(self.scale * size, gradient)
        return prediction_from_x_0(x_0, x_t, t, prediction.extra)


class DynamicThreshold(Around):
    """x̂_0 clipped to a quantile of its own absolute values and divided by it (Saharia et al. 2022, section 2.3).

    For strong guidance: where the quantile is within the range of the data, it clips to that, as `Clipped` does.

    Args:
        denoiser: whose prediction is clipped.
        quantile: of an image's absolute values, between 0 and 1.
        limit: the range of the data is from -limit to limit.
    """

    def __init__(self, denoiser: Denoiser, quantile: float = 0.995, limit: float = 1.0) -> None:
        if not 0 < quantile <= 1:
            raise InputError(f"The quantile of dynamic thresholding lies between 0 and 1, not {quantile}.")
        super().__init__(denoiser)
        self.quantile, self.limit = quantile, limit

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "clipped": True}

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        prediction = self.denoiser(x_t, t)
        bound = prediction.x_0.flatten(1).abs().float().quantile(self.quantile, 1).to(x_t.dtype).clamp(min=self.limit)
        bound = bound.reshape(-1, *[1] * (x_t.ndim - 1))
        x_0 = prediction.x_0.clamp(-bound, bound) * (self.limit / bound)
        return prediction_from_x_0(x_0, x_t, t, prediction.extra)
