"""clearwater: denoising diffusion models, exact, fast and easy to trust."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Imported when first used, so that the command line can answer without loading torch.
_HOME = {
    "Ancestral": "clearwater.sampling",
    "Chain": "clearwater.chains",
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
    "Mean": "clearwater.targets",
    "LowDiscrepancy": "clearwater.objectives",
    "MinSNR": "clearwater.weights",
    "NetworkDenoiser": "clearwater.denoisers",
    "Objective": "clearwater.objectives",
    "Pair": "clearwater.levels",
    "Prediction": "clearwater.targets",
    "Score": "clearwater.targets",
    "Trainer": "clearwater.training",
    "UNet": "clearwater.networks",
    "V": "clearwater.targets",
    "Velocity": "clearwater.targets",
    "X0": "clearwater.targets",
    "chain": "clearwater.chains",
    "load_denoiser": "clearwater.training",
    "load_images": "clearwater.data",
    "marginal": "clearwater.process",
    "posterior": "clearwater.process",
    "sample": "clearwater.sampling",
    "sampling_states": "clearwater.sampling",
    "transition": "clearwater.process",
}

if TYPE_CHECKING:
    from clearwater.chains import Chain, chain
    from clearwater.config import Config
    from clearwater.data import load_images
    from clearwater.denoisers import Clipped, Denoiser, NetworkDenoiser
    from clearwater.errors import ClearwaterError, InputError
    from clearwater.gaussians import Gaussian
    from clearwater.levels import Level, Pair
    from clearwater.networks import UNet
    from clearwater.objectives import LowDiscrepancy, Objective
    from clearwater.process import marginal, posterior, transition
    from clearwater.sampling import Ancestral, sample, sampling_states
    from clearwater.targets import X0, Eps, Mean, Prediction, Score, V, Velocity
    from clearwater.training import EMA, Trainer, load_denoiser
    from clearwater.variances import FixedLarge, FixedSmall
    from clearwater.weights import MinSNR

__all__ = [
    "EMA",
    "X0",
    "Ancestral",
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
    "Score",
    "Trainer",
    "UNet",
    "V",
    "Velocity",
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
