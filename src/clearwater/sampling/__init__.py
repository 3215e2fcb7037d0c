"""Samplers: steppers on a grid of levels, in one shared loop."""

from clearwater.sampling.ancestral import Ancestral
from clearwater.sampling.loop import Stepper, StepState, sample, sampling_states

__all__ = ["Ancestral", "StepState", "Stepper", "sample", "sampling_states"]
