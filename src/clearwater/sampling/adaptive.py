"""The probability-flow ODE by an adaptive solver: as many evaluations as a tolerance takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clearwater.denoisers import Denoiser
from clearwater.errors import InputError
from clearwater.levels import Level
from clearwater.probability_flow import norm_of, probability_flow
from clearwater.sampling.ddim import DDIM
from clearwater.sampling.steps import Between, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["AdaptiveODE"]


@dataclass(frozen=True)
class _SolvedStep:
    t: Level
    s: Level
    tolerance: float

    def __call__(
        self, denoiser: Denoiser, x_t: Tensor, memory: Memory, noise: Noise
    ) -> tuple[Tensor, Prediction, Memory]:
        try:
            from torchdiffeq import odeint
        except ImportError:
            raise InputError(
                "The adaptive sampler needs the package torchdiffeq: pip install 'clearwater[ode]'."
            ) from None
        ends = -torch.stack([self.t.log_snr, self.s.log_snr]).to(x_t.device) / 2
        z = odeint(
            lambda u, z: probability_flow(denoiser, z, float(u)).to(z.dtype),
            x_t.double() / float(norm_of(self.t)),
            ends,
            rtol=self.tolerance,
            atol=self.tolerance,
            method="dopri5",
        )
        return (z[-1] * float(norm_of(self.s))).to(x_t.dtype), denoiser(x_t, self.t), ()


@dataclass(frozen=True)
class AdaptiveODE(Stepper):
    """Dormand and Prince's method of order 5 between each two levels of the path: best on few, as `ends` has them.

    The last step, to data, is DDIM's, since data lies infinitely far along the ODE's time: so the path's lowest level
    above data should be the chain's. The solver begins anew at each level, so every one between costs evaluations.

    The images of a batch share the solver's steps, so an image depends on its batch within the tolerance.

    Attributes:
        tolerance: relative and absolute.
    """

    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise InputError(f"The tolerance of the solver lies between 0 and 1, not {self.tolerance}.")

    def plan(self, path: Level, between: Between) -> Sequence[Step]:
        return [self._step(path[i : i + 2], between) for i in range(len(path) - 1)]

    def _step(self, path: Level, between: Between) -> Step:
        # A level without signal, and data, lie infinitely far along the ODE's time.
        if bool(path.log_snr.isfinite().all()):
            return _SolvedStep(path[0], path[1], self.tolerance)
        return DDIM().plan(path, between)[0]
