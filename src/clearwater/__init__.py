"""clearwater: denoising diffusion models, exact, fast and easy to trust."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Imported when first used, so that the command line can answer without loading torch.
_HOME = {
    "AdaptiveODE": "clearwater.sampling",
    "Ancestral": "clearwater.sampling",
    "Blurred": "clearwater.inverse",
    "Bound": "clearwater.likelihood",
    "bound": "clearwater.likelihood",
    "BoundWeight": "clearwater.weights",
    "Chain": "clearwater.chains",
    "chain": "clearwater.chains",
    "ClassifierGuided": "clearwater.guidance",
    "ClearwaterError": "clearwater.errors",
    "Clipped": "clearwater.denoisers",
    "Config": "clearwater.config",
    "DDIM": "clearwater.sampling",
    "Denoiser": "clearwater.denoisers",
    "Downsampled": "clearwater.inverse",
    "DPMSolver": "clearwater.sampling",
    "DynamicThreshold": "clearwater.guidance",
    "EDMWeight": "clearwater.weights",
    "EMA": "clearwater.training",
    "encode": "clearwater.sampling",
    "Encoded": "clearwater.sampling",
    "Eps": "clearwater.targets",
    "estimate_bound": "clearwater.bound_estimate",
    "Euclidean": "clearwater.objectives",
    "Euler": "clearwater.sampling",
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
    "Guided": "clearwater.guidance",
    "Heun": "clearwater.sampling",
    "Hybrid": "clearwater.objectives",
    "InputError": "clearwater.errors",
    "interpolate_encoded": "clearwater.sampling",
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
    "Masked": "clearwater.inverse",
    "Mean": "clearwater.targets",
    "Measurement": "clearwater.inverse",
    "MinSNR": "clearwater.weights",
    "NetworkDenoiser": "clearwater.denoisers",
    "Objective": "clearwater.objectives",
    "Optimal": "clearwater.variances",
    "P2": "clearwater.weights",
    "Pair": "clearwater.levels",
    "Posterior": "clearwater.inverse",
    "posterior": "clearwater.process",
    "Prediction": "clearwater.targets",
    "RectifiedFlow": "clearwater.schedules",
    "RePaint": "clearwater.sampling",
    "Repeated": "clearwater.sampling",
    "RunFolder": "clearwater.training",
    "sample": "clearwater.sampling",
    "sampler": "clearwater.sampling",
    "sampling_states": "clearwater.sampling",
    "Score": "clearwater.targets",
    "SDEDPMSolver": "clearwater.sampling",
    "SigmoidWeight": "clearwater.weights",
    "SinglestepDPMSolver": "clearwater.sampling",
    "slerp": "clearwater.sampling",
    "SquaredError": "clearwater.objectives",
    "Stepper": "clearwater.sampling",
    "Target": "clearwater.targets",
    "TimeSampler": "clearwater.times",
    "Trainer": "clearwater.training",
    "transition": "clearwater.process",
    "UNet": "clearwater.networks",
    "Uniform": "clearwater.times",
    "UniPC": "clearwater.sampling",
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
    from clearwater.guidance import ClassifierGuided, DynamicThreshold, Guided
    from clearwater.inverse import Blurred, Downsampled, Masked, Measurement, Posterior
    from clearwater.learned_chain import LearnedChain
    from clearwater.levels import Level, Pair
    from clearwater.likelihood import Bound, bound
    from clearwater.networks import UNet
    from clearwater.objectives import VLB, Euclidean, Hybrid, Objective, SquaredError
    from clearwater.ode_likelihood import flow_likelihood, flow_log_prob
    from clearwater.optimal_variance import fit_optimal_variance
    from clearwater.process import marginal, posterior, transition
    from clearwater.sampling import (
        DDIM,
        AdaptiveODE,
        Ancestral,
        DPMSolver,
        Encoded,
        Euler,
        Heun,
        RePaint,
        Repeated,
        SDEDPMSolver,
        SinglestepDPMSolver,
        Stepper,
        UniPC,
        encode,
        interpolate_encoded,
        sample,
        sampler,
        sampling_states,
        slerp,
    )
    from clearwater.schedules import VE, VP, RectifiedFlow
    from clearwater.targets import X0, Eps, Mean, Prediction, Score, Target, V, Velocity
    from clearwater.times import LogitNormal, LossAware, LowDiscrepancy, TimeSampler, Uniform
    from clearwater.training import EMA, RunFolder, Trainer, load_denoiser
    from clearwater.variances import FixedLarge, FixedSmall, LearnedNetwork, LearnedRange, Optimal, Variance
    from clearwater.weights import P2, BoundWeight, EDMWeight, MinSNR, SigmoidWeight, Unweighted, Weight

__all__ = [
    "DDIM",
    "EMA",
    "P2",
    "VE",
    "VLB",
    "VP",
    "X0",
    "AdaptiveODE",
    "Ancestral",
    "Blurred",
    "Bound",
    "BoundWeight",
    "Chain",
    "ClassifierGuided",
    "ClearwaterError",
    "Clipped",
    "Config",
    "DPMSolver",
    "Denoiser",
    "Downsampled",
    "DynamicThreshold",
    "EDMWeight",
    "Encoded",
    "Eps",
    "Euclidean",
    "Euler",
    "ExactDenoiser",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "GaussianMixture",
    "Guided",
    "Heun",
    "Hybrid",
    "InputError",
    "LearnedChain",
    "LearnedNetwork",
    "LearnedRange",
    "Level",
    "LogitNormal",
    "LossAware",
    "LowDiscrepancy",
    "Masked",
    "Mean",
    "Measurement",
    "MinSNR",
    "NetworkDenoiser",
    "Objective",
    "Optimal",
    "Pair",
    "Posterior",
    "Prediction",
    "RePaint",
    "RectifiedFlow",
    "Repeated",
    "RunFolder",
    "SDEDPMSolver",
    "Score",
    "SigmoidWeight",
    "SinglestepDPMSolver",
    "SquaredError",
    "Stepper",
    "Target",
    "TimeSampler",
    "Trainer",
    "UNet",
    "UniPC",
    "Uniform",
    "Unweighted",
    "V",
    "Variance",
    "Velocity",
    "Weight",
    "bound",
    "chain",
    "encode",
    "estimate_bound",
    "fit_optimal_variance",
    "flow_likelihood",
    "flow_log_prob",
    "gaussian_bound",
    "gaussian_data",
    "interpolate_encoded",
    "load_denoiser",
    "load_images",
    "marginal",
    "posterior",
    "sample",
    "sampler",
    "sampling_states",
    "slerp",
    "transition",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'clearwater' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
