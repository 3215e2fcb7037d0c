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
from clearwater.sampling.steps import AtLogSNR, Memory, Noise, Step, Stepper
from clearwater.targets import Prediction

__all__ = ["AdaptiveODE"]

_FINEST = 1e-13  # float64 has 2e-16, of which the sums of a solver lose some
_MOST_STEPS = 2000  # one that keeps to a tolerance of 1e-12 takes 220


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 where there is none: on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


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
        exact = widest_float(x_t.device)
        ends = -torch.stack([self.t.log_snr, self.s.log_snr]) / 2
        try:
            z = odeint(
                lambda u, z: probability_flow(denoiser, z, float(u)).to(z.dtype),
                x_t.to(exact) / float(norm_of(self.t)),
                ends.to(exact).to(x_t.device),
                rtol=self.tolerance,
                atol=self.tolerance,
                method="dopri5",
                options={"dtype": exact, "max_num_steps": _MOST_STEPS},
            )
        except AssertionError as error:  # the solver's word for giving up
            raise InputError(
                f"The adaptive solver gave up at a tolerance of {self.tolerance} ({str(error).split(':')[0]}): give a "
                "larger one, or guide less."
            ) from error
        return (z[-1] * float(norm_of(self.s))).to(x_t.dtype), denoiser(x_t, self.t), ()


@dataclass(frozen=True)
class AdaptiveODE(Stepper):
    """Dormand and Prince's method of order 5 between each two levels of the path: best on few, as `ends` has them.

    The last step, to data, is DDIM's, since data lies infinitely far along the ODE's time: so the path's lowest level
    above data should be the chain's. The solver begins anew at each level, so every one between costs evaluations.

    The images of a batch share the solver's steps, so an image depends on its batch within the tolerance.

    Attributes:
        tolerance: relative and absolute. The network's own rounding must be well below it: 1e-5 is fine for bfloat16.
    """

    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not _FINEST <= self.tolerance < 1:
            raise InputError(f"The tolerance of the solver goes from {_FINEST} to below 1; {self.tolerance} was given.")

    def plan(self, path: Level, at_log_snr: AtLogSNR) -> Sequence[Step]:
        return [self._step(path[i : i + 2], at_log_snr) for i in range(len(path) - 1)]

    def _step(self, path: Level, at_log_snr: AtLogSNR) -> Step:
        # A level without signal, and data, lie infinitely far along the ODE's time.
        if bool(path.log_snr.isfinite().all()):
            return _SolvedStep(path[0], path[1], self.tolerance)
        return DDIM().plan(path, at_log_snr)[0]
