"""Denoisers: ``(x_t, t) → Prediction``, and the reverse process that follows from one.

Samplers, the bound and the pictures see only this. What changes a prediction (clipping, guidance, an
ensemble) is a denoiser around a denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clearwater.chains import Chain
from clearwater.errors import InputError
from clearwater.gaussians import Gaussian
from clearwater.levels import Level, Pair, scale
from clearwater.process import posterior
from clearwater.targets import Prediction, Target, prediction_from_x_0
from clearwater.variances import Variance

__all__ = ["Around", "Clipped", "Denoiser", "NetworkDenoiser", "OnChain"]


class Denoiser(ABC):
    """What predicts x_0 and eps from x_t, on a chain of levels, with a reverse variance."""

    chain: Chain
    variance: Variance

    @abstractmethod
    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        """The prediction at `x_t`, shape (B, ...); `t` has shape () or (B,)."""

    def describe(self) -> dict[str, object]:
        """What this is, for whoever reports a figure of it: weights, variance, clipped or not."""
        return {"weights": "given", "variance": type(self.variance).__name__, "clipped": False}

    def reverse(self, x_t: Tensor, pair: Pair) -> Gaussian:
        """p(x_s | x_t) (Ho et al. 2020, eq. 1)."""
        return self.reverse_from(self(x_t, pair.t), x_t, pair)

    def reverse_from(self, prediction: Prediction, x_t: Tensor, pair: Pair) -> Gaussian:
        """p(x_s | x_t) of a prediction that was made before: q(x_s | x_t, x_0) at the predicted x_0.

        In terms of eps its mean is Ho et al. 2020, eq. 11.
        """
        mean = posterior(x_t, prediction.x_0, pair).mean
        return Gaussian(mean, self.variance.of(pair, x_t, prediction))


@dataclass(frozen=True)
class NetworkDenoiser(Denoiser):
    """A network, the chain it knows, what it predicts, and the variance of its reverse process.

    Attributes:
        network: ``(x_t, time) → y``, shapes (B, ...) and (B,) to the shape of x_t.
        chain: the levels it was trained on.
        target: what y is.
        variance: the reverse variance.
        autocast: the dtype that the network's matrix work is done in; None for that of its weights.
        weights: which of a run's weights these are, ema or raw; "given" for a network that was passed in.
        labels: the class of each image, int64, shape (B,), which the network is told as a third argument; None tells
            it nothing.
        augmented: how each image was augmented (data/augmentation.py), shape (B, AUGMENTED), which the network is told
            as a fourth argument; None for not at all.
    """

    network: nn.Module
    chain: Chain
    target: Target
    variance: Variance
    autocast: torch.dtype | None = None
    weights: str = "given"
    labels: Tensor | None = None
    augmented: Tensor | None = None

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "weights": self.weights}

    def __post_init__(self) -> None:
        self.target.system(self.chain.levels[1:])  # refuses a target that has no meaning on the chain

    def output(self, x_t: Tensor, t: Level) -> Tensor:
        """What the network says, in the dtype of `x_t`: y, and extra channels if it has them."""
        # A float64 state is the solver's, not the network's; but a time in bf16 would be another time.
        x = x_t.to(next((weight.dtype for weight in self.network.parameters()), x_t.dtype))
        precise = torch.float64 if x.dtype == torch.float64 else torch.float32
        if t.time.ndim == 0:  # a number: made where it is needed, not copied there
            time = torch.full((len(x),), float(t.time), dtype=precise, device=x.device)
        else:
            time = t.time.to(device=x.device, dtype=precise, non_blocking=True)
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            told: tuple[Tensor | None, ...] = (self.labels, self.augmented)
            while told and told[-1] is None:  # a network that knows nothing of them need not take them
                told = told[:-1]
            y: Tensor = self.network(x, time, *told)
        return y.to(x_t.dtype)

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        return self.target.solve(x_t, self.output(x_t, t), t)


class Around(Denoiser):
    """A denoiser around another one, whose chain and variance it keeps.

    Attributes:
        denoiser: the other one.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.chain = denoiser.chain
        self.variance = denoiser.variance

    def describe(self) -> dict[str, object]:
        return self.denoiser.describe()


class Clipped(Around):
    """Another denoiser with its x_0 clipped to the range of the data, and eps recomputed from it."""

    def __init__(self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__(denoiser)
        self.low, self.high = low, high

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "clipped": True}

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        prediction = self.denoiser(x_t, t)
        return prediction_from_x_0(prediction.x_0.clamp(self.low, self.high), x_t, t, prediction.extra)


class OnChain(Around):
    """Another denoiser on the levels of another chain, such as one of a flow: no training is needed.

    Levels of one signal-to-noise ratio differ by a factor alone, so x_t becomes what the other denoiser knows if it is
    multiplied by the ratio of the alphas, which is that of the sigmas. The x_0 and the eps in it stay the same, and a
    reverse step is the other denoiser's own at another scale: the same model, with the same bound but for the prior.

    Args:
        denoiser: the other one; its variance is kept.
        chain: the levels, within the log-SNR that the denoiser's own chain has; `Chain.along` makes such a chain.

    Raises:
        InputError: the denoiser knows less of noise, or of data, than the chain asks for.
    """

    def __init__(self, denoiser: Denoiser, chain: Chain) -> None:
        super().__init__(denoiser)
        self.chain = chain
        self._known(chain.levels[1:])

    def __call__(self, x_t: Tensor, t: Level) -> Prediction:
        known = self._known(t)
        return self.denoiser(scale(_ratio(known, t), x_t), known)

    def reverse_from(self, prediction: Prediction, x_t: Tensor, pair: Pair) -> Gaussian:
        # The other's step at its own scale, since its variance may be of its own levels, and back.
        s, t = self._known(pair.s), self._known(pair.t)
        to_s, to_t = _ratio(s, pair.s), _ratio(t, pair.t)
        decoder, at_data = pair.decoder_variance, pair.s.sigma == 0
        if decoder is not None and bool(at_data.any()):  # the variance of level 1, from which steps to data come
            decoder = decoder * to_t[at_data].square().flatten()[0]
        step = self.denoiser.reverse_from(prediction, scale(to_t, x_t), Pair(s, t, decoder_variance=decoder))
        return Gaussian(scale(1 / to_s, step.mean), scale(1 / to_s.square(), step.variance))

    def _known(self, t: Level) -> Level:
        """The levels of the other denoiser with the signal-to-noise ratios of `t`."""
        levels = self.denoiser.chain.levels
        silent, data = t.alpha == 0, t.sigma == 0
        if bool(silent.any()) and float(levels.alpha[-1]) != 0:
            raise InputError(f"The chain has a level without signal, and the denoiser's own chain has none{_INSTEAD}")
        try:
            # What is asked for in place of the ends does not count.
            known = self.denoiser.chain.at_log_snr(t.log_snr.where(~(silent | data), levels[1].log_snr))
        except InputError as error:
            raise InputError(f"{str(error).removesuffix('.')}{_INSTEAD}") from None
        return Level(
            *(
                torch.where(silent, end, torch.where(data, start, between))
                for end, start, between in (
                    (levels.alpha[-1], levels.alpha[0], known.alpha),
                    (levels.sigma[-1], levels.sigma[0], known.sigma),
                    (levels.time[-1], levels.time[0], known.time),
                )
            )
        )


_INSTEAD = ": use a chain with the denoiser's signal-to-noise ratios, denoiser.chain.along(schedule)."


def _ratio(known: Level, t: Level) -> Tensor:
    """What x_t is multiplied by: the ratio of the alphas, which is that of the sigmas; that of the larger two."""
    return torch.where(t.sigma > t.alpha, known.sigma / t.sigma, known.alpha / t.alpha)
