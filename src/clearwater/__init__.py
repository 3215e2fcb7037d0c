"""clearwater: denoising diffusion models, exact, fast and easy to trust."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Imported when first used, so that the command line can answer without loading torch.
_HOME = {
    "Ancestral": "clearwater.sampling",
    "Bound": "clearwater.likelihood",
    "bound": "clearwater.likelihood",
    "BoundWeight": "clearwater.weights",
    "Chain": "clearwater.chains",
    "chain": "clearwater.chains",
    "ClearwaterError": "clearwater.errors",
    "Clipped": "clearwater.denoisers",
    "Config": "clearwater.config",
    "Denoiser": "clearwater.denoisers",
    "EDMWeight": "clearwater.weights",
    "EMA": "clearwater.training",
    "Eps": "clearwater.targets",
    "estimate_bound": "clearwater.bound_estimate",
    "Euclidean": "clearwater.objectives",
    "ExactDenoiser": "clearwater.analytic",
    "fit_optimal_variance": "clearwater.optimal_variance",
    "FixedLarge": "clearwater.variances",
    "FixedSmall": "clearwater.variances",
    "flow_likelihood": "clearwater.ode_likelihood",
    "flow_log_prob": "clearwater.ode_likelihood",
    "Gaussian": "clearwater.gaussians",
    "gaussian_bound": "clearwater.analytic",
    "gaussian_data": "clearwater.analytic",
    "GaussianMixture": "clearwater.analytic",
    "Hybrid": "clearwater.objectives",
    "InputError": "clearwater.errors",
    "LearnedChain": "clearwater.learned_chain",
    "LearnedNetwork": "clearwater.variances",
    "LearnedRange": "clearwater.variances",
    "Level": "clearwater.levels",
    "load_denoiser": "clearwater.training",
    "load_images": "clearwater.data",
    "LogitNormal": "clearwater.times",
    "LossAware": "clearwater.times",
    "LowDiscrepancy": "clearwater.times",
    "marginal": "clearwater.process",
    "Mean": "clearwater.targets",
    "MinSNR": "clearwater.weights",
    "NetworkDenoiser": "clearwater.denoisers",
    "Objective": "clearwater.objectives",
    "Optimal": "clearwater.variances",
    "P2": "clearwater.weights",
    "Pair": "clearwater.levels",
    "posterior": "clearwater.process",
    "Prediction": "clearwater.targets",
    "RectifiedFlow": "clearwater.schedules",
    "RunFolder": "clearwater.training",
    "sample": "clearwater.sampling",
    "sampling_states": "clearwater.sampling",
    "Score": "clearwater.targets",
    "SigmoidWeight": "clearwater.weights",
    "SquaredError": "clearwater.objectives",
    "Target": "clearwater.targets",
    "TimeSampler": "clearwater.times",
    "Trainer": "clearwater.training",
    "transition": "clearwater.process",
    "UNet": "clearwater.networks",
    "Uniform": "clearwater.times",
    "Unweighted": "clearwater.weights",
    "V": "clearwater.targets",
    "Variance": "clearwater.variances",
    "VE": "clearwater.schedules",
    "Velocity": "clearwater.targets",
    "VLB": "clearwater.objectives",
    "VP": "clearwater.schedules",
    "Weight": "clearwater.weights",
    "X0": "clearwater.targets",
}

if TYPE_CHECKING:
    from clearwater.analytic import ExactDenoiser, GaussianMixture, gaussian_bound, gaussian_data
    from clearwater.bound_estimate import estimate_bound
    from clearwater.chains import Chain, chain
    from clearwater.config import Config
    from clearwater.data import load_images
    from clearwater.denoisers import Clipped, Denoiser, NetworkDenoiser
    from clearwater.errors import ClearwaterError, InputError
    from clearwater.gaussians import Gaussian
    from clearwater.learned_chain import LearnedChain
    from clearwater.levels import Level, Pair
    from clearwater.likelihood import Bound, bound
    from clearwater.networks import UNet
    from clearwater.objectives import VLB, Euclidean, Hybrid, Objective, SquaredError
    from clearwater.ode_likelihood import flow_likelihood, flow_log_prob
    from clearwater.optimal_variance import fit_optimal_variance
    from clearwater.process import marginal, posterior, transition
    from clearwater.sampling import Ancestral, sample, sampling_states
    from clearwater.schedules import VE, VP, RectifiedFlow
    from clearwater.targets import X0, Eps, Mean, Prediction, Score, Target, V, Velocity
    from clearwater.times import LogitNormal, LossAware, LowDiscrepancy, TimeSampler, Uniform
    from clearwater.training import EMA, RunFolder, Trainer, load_denoiser
    from clearwater.variances import FixedLarge, FixedSmall, LearnedNetwork, LearnedRange, Optimal, Variance
    from clearwater.weights import P2, BoundWeight, EDMWeight, MinSNR, SigmoidWeight, Unweighted, Weight

__all__ = [
    "EMA",
    "P2",
    "VE",
    "VLB",
    "VP",
    "X0",
    "Ancestral",
    "Bound",
    "BoundWeight",
    "Chain",
    "ClearwaterError",
    "Clipped",
    "Config",
    "Denoiser",
    "EDMWeight",
    "Eps",
    "Euclidean",
    "ExactDenoiser",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "GaussianMixture",
    "Hybrid",
    "InputError",
    "LearnedChain",
    "LearnedNetwork",
    "LearnedRange",
    "Level",
    "LogitNormal",
    "LossAware",
    "LowDiscrepancy",
    "Mean",
    "MinSNR",
    "NetworkDenoiser",
    "Objective",
    "Optimal",
    "Pair",
    "Prediction",
    "RectifiedFlow",
    "RunFolder",
    "Score",
    "SigmoidWeight",
    "SquaredError",
    "Target",
    "TimeSampler",
    "Trainer",
    "UNet",
    "Uniform",
    "Unweighted",
    "V",
    "Variance",
    "Velocity",
    "Weight",
    "bound",
    "chain",
    "estimate_bound",
    "fit_optimal_variance",
    "flow_likelihood",
    "flow_log_prob",
    "gaussian_bound",
    "gaussian_data",
    "load_denoiser",
    "load_images",
    "marginal",
    "posterior",
    "sample",
    "sampling_states",
    "transition",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'clearwater' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
