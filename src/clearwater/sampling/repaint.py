"""Steps that are done over, and RePaint: a sampler made to fill in what a mask leaves open (Lugmayr et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.process import transition
from clearwater.sampling.inputs import fits
from clearwater.sampling.steps import AtLogSNR, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["RePaint", "Repeated"]


@dataclass(frozen=True)
class _RepeatedStep:
    step: Step
    t: Level
    s: Level
    times: int

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        # A multistep sampler's memory is of another x_t: each step begins anew.
        x_s, prediction, _ = self.step(denoiser, x_t, (), noise)
        if float(self.s.sigma) > 0:
            back = Pair(self.s, self.t)
            for _ in range(self.times - 1):
                x_s, prediction, _ = self.step(denoiser, transition(x_s, back).sample(noise()), (), noise)
        return x_s, prediction, ()


@dataclass(frozen=True)
class Repeated(Stepper):
    """Another stepper with each step done over: back up by q(x_t | x_s), and down again.

    What a step got wrong is forgotten, where the prediction says more than the model was trained for: with a known
    part of the image, or a `Posterior`. The step to data is done once.

    Attributes:
        stepper: best one that needs no memory of earlier steps, such as Ancestral, DDIM or Heun.
        times: how often each step is done; each costs a step's evaluations.
    """

    stepper: Stepper
    times: int = 5

    def __post_init__(self) -> None:
        if self.times < 1:
            raise InputError(f"Each step is done at least once, not {self.times} times.")

    @property
    def stochastic(self) -> bool:
        return self.times > 1 or self.stepper.stochastic

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        if self.stepper.multistep:  # planned alone, each step of such a one is of first order
            steps = [self.stepper.plan(path[i : i + 2], at_log_snr)[0] for i in range(len(path) - 1)]
        else:
            steps = list(self.stepper.plan(path, at_log_snr))
        return [_RepeatedStep(step, path[i], path[i + 1], self.times) for i, step in enumerate(steps)]


@dataclass(frozen=True)
class _KnownStep:
    step: Step
    s: Level
    known: Tensor
    mask: Tensor

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        for name, given in (("known image", self.known), ("mask", self.mask)):
            if not fits(given.shape, x_t.shape):
                raise InputError(
                    f"The {name} has shape {tuple(given.shape)}, which does not fit images of shape "
                    f"{tuple(x_t.shape)}: give one for all, or one each, of their size."
                )
        x_s, prediction, memory = self.step(denoiser, x_t, memory, noise)
        known = self.s.noise(self.known, noise()) if float(self.s.sigma) > 0 else self.known
        return self.mask * known + (1 - self.mask) * x_s, prediction, memory


@dataclass(frozen=True)
class _KnownPixels(Stepper):
    """Another stepper, with the known pixels put back after each step, as noisy as they are there."""

    stepper: Stepper
    known: Tensor
    mask: Tensor

    @property
    def multistep(self) -> bool:
        return self.stepper.multistep

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        steps = self.stepper.plan(path, at_log_snr)
        return [_KnownStep(step, path[i + 1], self.known, self.mask) for i, step in enumerate(steps)]


@dataclass(frozen=True)
class RePaint(Stepper):
    """Another stepper, with the known pixels put back after each step, and each step done over (algorithm 1).

    Attributes:
        stepper: best one that needs no memory of earlier steps, such as Ancestral, DDIM or Heun.
        known: the image, values in [-1, 1], broadcastable to x_t.
        mask: 1 where the image is known and 0 where it is to be filled in, broadcastable to x_t.
        times: how often each step is done; each costs a step's evaluations.
    """

    stepper: Stepper
    known: Tensor
    mask: Tensor
    times: int = 5

    def __post_init__(self) -> None:
        self._repeated()  # refuses a number of times that means nothing

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return self._repeated().plan(path, at_log_snr)

    def _repeated(self) -> Repeated:
        return Repeated(_KnownPixels(self.stepper, self.known, self.mask), self.times)
