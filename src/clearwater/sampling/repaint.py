"""RePaint: any sampler made to fill in what a mask leaves open (Lugmayr et al. 2022, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level, Pair
from clearwater.process import transition
from clearwater.sampling.steps import Between, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["RePaint"]


@dataclass(frozen=True)
class _RepaintedStep:
    step: Step
    t: Level
    s: Level
    known: Tensor
    mask: Tensor
    times: int

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        x_s, prediction = self._once(denoiser, x_t, noise)
        if float(self.s.sigma) > 0:
            for _ in range(self.times - 1):
                # Back up, so that both parts are seen together once more.
                x_t = transition(x_s, Pair(self.s, self.t)).sample(noise())
                x_s, prediction = self._once(denoiser, x_t, noise)
        return x_s, prediction, ()

    def _once(self, denoiser: Denoiser, x_t: Tensor, noise: Noise) -> tuple[Tensor, Prediction]:
        # A multistep sampler's memory is of another x_t: each step begins anew.
        x_s, prediction, _ = self.step(denoiser, x_t, (), noise)
        known = self.s.noise(self.known, noise()) if float(self.s.sigma) > 0 else self.known
        return self.mask * known + (1 - self.mask) * x_s, prediction


@dataclass(frozen=True)
class RePaint(Stepper):
    """Another stepper, with the known pixels put back after each step, and each step done over.

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
        if self.times < 1:
            raise InputError(f"RePaint does each step at least once, not {self.times} times.")

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, path: Level, between: Between) -> Sequence[Step]:
        if self.stepper.multistep:  # planned alone, each step of such a one is of first order
            steps = [self.stepper.plan(path[i : i + 2], between)[0] for i in range(len(path) - 1)]
        else:
            steps = list(self.stepper.plan(path, between))
        return [
            _RepaintedStep(step, path[i], path[i + 1], self.known, self.mask, self.times)
            for i, step in enumerate(steps)
        ]
