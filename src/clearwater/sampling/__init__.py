"""Samplers: steppers on a grid of levels, in one shared loop."""

from clearwater.sampling.adaptive import AdaptiveODE
from clearwater.sampling.ancestral import Ancestral
from clearwater.sampling.ddim import DDIM
from clearwater.sampling.dpm_solver import DPMSolver, SDEDPMSolver, SinglestepDPMSolver
from clearwater.sampling.encoding import Encoded, encode, interpolate_encoded, slerp
from clearwater.sampling.fitting import fitted_to_bound, fitted_to_path, path_costs
from clearwater.sampling.grids import (
    GRIDS,
    Grid,
    all_levels,
    ends,
    karras,
    leading,
    log_snr,
    quadratic,
    shifted,
    trailing,
)
from clearwater.sampling.heun import Euler, Heun
from clearwater.sampling.loop import StepState, sample, sampling_states
from clearwater.sampling.named import SAMPLERS, Sampler, SamplerOptions, sampler
from clearwater.sampling.repaint import RePaint, Repeated
from clearwater.sampling.runge_kutta import RungeKutta
from clearwater.sampling.steps import Stepper
from clearwater.sampling.unipc import UniPC

__all__ = [
    "DDIM",
    "GRIDS",
    "SAMPLERS",
    "AdaptiveODE",
    "Ancestral",
    "DPMSolver",
    "Encoded",
    "Euler",
    "Grid",
    "Heun",
    "RePaint",
    "Repeated",
    "RungeKutta",
    "SDEDPMSolver",
    "Sampler",
    "SamplerOptions",
    "SinglestepDPMSolver",
    "StepState",
    "Stepper",
    "UniPC",
    "all_levels",
    "encode",
    "ends",
    "fitted_to_bound",
    "fitted_to_path",
    "interpolate_encoded",
    "karras",
    "leading",
    "log_snr",
    "path_costs",
    "quadratic",
    "sample",
    "sampler",
    "sampling_states",
    "shifted",
    "slerp",
    "trailing",
]
