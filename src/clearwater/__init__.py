"""clearwater: denoising diffusion models, exact, fast and easy to trust."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Imported when first used, so that the command line can answer without loading torch.
_HOME = {
    "Ancestral": "clearwater.sampling",
    "Bound": "clearwater.likelihood",
    "bound": "clearwater.likelihood",
    "Chain": "clearwater.chains",
    "chain": "clearwater.chains",
    "ClearwaterError": "clearwater.errors",
    "Clipped": "clearwater.denoisers",
    "Config": "clearwater.config",
    "Denoiser": "clearwater.denoisers",
    "EMA": "clearwater.training",
    "Eps": "clearwater.targets",
    "FixedLarge": "clearwater.variances",
    "FixedSmall": "clearwater.variances",
    "Gaussian": "clearwater.gaussians",
    "InputError": "clearwater.errors",
    "Level": "clearwater.levels",
    "load_denoiser": "clearwater.training",
    "load_images": "clearwater.data",
    "LowDiscrepancy": "clearwater.objectives",
    "marginal": "clearwater.process",
    "Mean": "clearwater.targets",
    "MinSNR": "clearwater.weights",
    "NetworkDenoiser": "clearwater.denoisers",
    "Objective": "clearwater.objectives",
    "Pair": "clearwater.levels",
    "posterior": "clearwater.process",
    "Prediction": "clearwater.targets",
    "RectifiedFlow": "clearwater.schedules",
    "RunFolder": "clearwater.training",
    "sample": "clearwater.sampling",
    "sampling_states": "clearwater.sampling",
    "Score": "clearwater.targets",
    "Target": "clearwater.targets",
    "Trainer": "clearwater.training",
    "transition": "clearwater.process",
    "UNet": "clearwater.networks",
    "Unweighted": "clearwater.weights",
    "V": "clearwater.targets",
    "Variance": "clearwater.variances",
    "VE": "clearwater.schedules",
    "Velocity": "clearwater.targets",
    "VP": "clearwater.schedules",
    "Weight": "clearwater.weights",
    "X0": "clearwater.targets",
}

if TYPE_CHECKING:
    from clearwater.chains import Chain, chain
    from clearwater.config import Config
    from clearwater.data import load_images
    from clearwater.denoisers import Clipped, Denoiser, NetworkDenoiser
    from clearwater.errors import ClearwaterError, InputError
    from clearwater.gaussians import Gaussian
    from clearwater.levels import Level, Pair
    from clearwater.likelihood import Bound, bound
    from clearwater.networks import UNet
    from clearwater.objectives import LowDiscrepancy, Objective
    from clearwater.process import marginal, posterior, transition
    from clearwater.sampling import Ancestral, sample, sampling_states
    from clearwater.schedules import VE, VP, RectifiedFlow
    from clearwater.targets import X0, Eps, Mean, Prediction, Score, Target, V, Velocity
    from clearwater.training import EMA, RunFolder, Trainer, load_denoiser
    from clearwater.variances import FixedLarge, FixedSmall, Variance
    from clearwater.weights import MinSNR, Unweighted, Weight

__all__ = [
    "EMA",
    "VE",
    "VP",
    "X0",
    "Ancestral",
    "Bound",
    "Chain",
    "ClearwaterError",
    "Clipped",
    "Config",
    "Denoiser",
    "Eps",
    "FixedLarge",
    "FixedSmall",
    "Gaussian",
    "InputError",
    "Level",
    "LowDiscrepancy",
    "Mean",
    "MinSNR",
    "NetworkDenoiser",
    "Objective",
    "Pair",
    "Prediction",
    "RectifiedFlow",
    "RunFolder",
    "Score",
    "Target",
    "Trainer",
    "UNet",
    "Unweighted",
    "V",
    "Variance",
    "Velocity",
    "Weight",
    "bound",
    "chain",
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
