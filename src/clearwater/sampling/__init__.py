"""Samplers: steppers on a grid of levels, in one shared loop."""

from clearwater.sampling.adaptive import AdaptiveODE
from clearwater.sampling.ancestral import Ancestral
from clearwater.sampling.ddim import DDIM
from clearwater.sampling.dpm_solver import DPMSolver, SDEDPMSolver, SinglestepDPMSolver
from clearwater.sampling.grids import GRIDS, Grid, all_levels, fitted, karras, leading, log_snr, quadratic, trailing
from clearwater.sampling.heun import Euler, Heun
from clearwater.sampling.loop import StepState, sample, sampling_states
from clearwater.sampling.steps import Stepper
from clearwater.sampling.unipc import UniPC

__all__ = [
    "DDIM",
    "GRIDS",
    "AdaptiveODE",
    "Ancestral",
    "DPMSolver",
    "Euler",
    "Grid",
    "Heun",
    "SDEDPMSolver",
    "SinglestepDPMSolver",
    "StepState",
    "Stepper",
    "UniPC",
    "all_levels",
    "fitted",
    "karras",
    "leading",
    "log_snr",
    "quadratic",
    "sample",
    "sampling_states",
    "trailing",
]
