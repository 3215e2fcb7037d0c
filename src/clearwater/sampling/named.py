"""Samplers by name, each with a line that says what it is and when to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clearwater.errors import InputError
from clearwater.sampling.adaptive import AdaptiveODE
from clearwater.sampling.ancestral import Ancestral
from clearwater.sampling.ddim import DDIM
from clearwater.sampling.dpm_solver import DPMSolver, SDEDPMSolver, SinglestepDPMSolver
from clearwater.sampling.heun import Euler, Heun
from clearwater.sampling.runge_kutta import RungeKutta
from clearwater.sampling.steps import Stepper
from clearwater.sampling.unipc import UniPC

__all__ = ["SAMPLERS", "Sampler", "SamplerOptions", "sampler"]


@dataclass(frozen=True)
class SamplerOptions:
    """What some samplers take.

    Attributes:
        eta: of ddim, the share of the noise.
        churn: of euler and heun, the noise that is added on the way.
        tolerance: of adaptive.
    """

    eta: float | None = None
    churn: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Sampler:
    """A sampler that has a name.

    Attributes:
        make: the stepper, from the options.
        takes: the options that it knows.
        order: of convergence, for those without noise; or None.
        evaluations: of the network, a step.
        stochastic: whether it draws noise on the way.
        use: when to use it.
    """

    make: Callable[[SamplerOptions], Stepper]
    takes: tuple[str, ...]
    order: int | None
    evaluations: str
    stochastic: bool
    use: str


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler(
        lambda _: Ancestral(), (), None, "1", True, "of the DDPM paper; needs hundreds of steps; takes --variance"
    ),
    "ddim": Sampler(lambda options: DDIM(options.eta or 0.0), ("eta",), 1, "1", False, "simple and robust"),
    "euler": Sampler(lambda options: Euler(options.churn or 0.0), ("churn",), 1, "1", False, "ddim, but for --churn"),
    "heun": Sampler(
        lambda options: Heun(options.churn or 0.0),
        ("churn",),
        2,
        "2",
        False,
        "of EDM; 10 steps and more; on a flow midpoint",
    ),
    "midpoint": Sampler(lambda _: RungeKutta(2), (), 2, "2", False, "euler's next order on a flow; 10 steps and more"),
    "rk4": Sampler(lambda _: RungeKutta(4), (), 4, "4", False, "the classical one of four slopes; 10 steps and more"),
    "dpm++1": Sampler(lambda _: DPMSolver(1), (), 1, "1", False, "ddim by another road, for comparison"),
    "dpm++2m": Sampler(lambda _: DPMSolver(2), (), 2, "1", False, "much as unipc, and simpler"),
    "dpm++3m": Sampler(lambda _: DPMSolver(3), (), 3, "1", False, "dpm++2m of the next order; 15 steps and more"),
    "dpm++2s": Sampler(
        lambda _: SinglestepDPMSolver(), (), 2, "2", False, "each step for itself: steady under strong guidance"
    ),
    "dpm++2m-sde": Sampler(
        lambda _: SDEDPMSolver(), (), None, "1", True, "dpm++2m with noise, which mends errors; 20 to 50 steps"
    ),
    "unipc": Sampler(lambda _: UniPC(2), (), 3, "1", False, "the default; good in the fewest steps, 5 to 20"),
    "unipc-bh1": Sampler(lambda _: UniPC(2, "bh1"), (), 3, "1", False, "unipc's other variant; 20 steps and more"),
    "unipc3": Sampler(lambda _: UniPC(3), (), 4, "1", False, "unipc of the next order; 15 steps and more"),
    "adaptive": Sampler(
        lambda options: AdaptiveODE(1e-4 if options.tolerance is None else options.tolerance),
        ("tolerance",),
        5,
        "as many as it takes",
        False,
        "what samplers without noise come to in endless steps",
    ),
}


def sampler(name: str, options: SamplerOptions | None = None) -> Stepper:
    """The sampler of this name.

    Raises:
        InputError: there is none, or it does not take an option that was given.
    """
    if name not in SAMPLERS:
        raise InputError(f"There is no sampler named '{name}': choose one of {', '.join(SAMPLERS)}.")
    found = SAMPLERS[name]
    options = SamplerOptions() if options is None else options
    for option in ("eta", "churn", "tolerance"):
        if getattr(options, option) is not None and option not in found.takes:
            takers = ", ".join(other for other, entry in SAMPLERS.items() if option in entry.takes)
            raise InputError(f"The sampler {name} has no {option}: it is an option of {takers}.")
    return found.make(options)
