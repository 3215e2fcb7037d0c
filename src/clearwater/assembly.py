"""From a configuration to the objects it names."""

from __future__ import annotations

from pathlib import Path

import torch

from clearwater.chains import Chain, chain
from clearwater.config import Config, ObjectiveConfig
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.networks.unet import UNet
from clearwater.objectives import LowDiscrepancy, Objective, Uniform
from clearwater.targets import X0, Eps, Mean, Score, Target, V, Velocity
from clearwater.variances import variance
from clearwater.weights import MinSNR, Unweighted

__all__ = ["build_denoiser", "build_objective", "build_target", "pick_autocast", "pick_device"]


def pick_device(name: str) -> torch.device:
    """The device of this name: auto (a GPU if there is one), cpu, cuda or mps."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, usable in available.items() if usable))
    if name not in available:
        raise InputError(f"There is no device named '{name}': choose auto, cpu, cuda or mps.")
    if not available[name]:
        raise InputError(f"This machine has no {name} device that torch can use: choose auto or cpu.")
    return torch.device(name)


def pick_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of the network's matrix work: bf16 if asked for or, with "auto", where it is fast."""
    if precision == "auto":
        fast = {"cuda": _cuda_has_bf16, "cpu": _processor_has_bf16}
        return torch.bfloat16 if device.type in fast and fast[device.type]() else None
    return torch.bfloat16 if precision == "bf16" else None


def _cuda_has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _processor_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: no way to ask, so take what is always right
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def build_target(objective: ObjectiveConfig, on: Chain) -> Target:
    """What the network predicts."""
    match objective.target:
        case "eps":
            return Eps()
        case "x0":
            return X0()
        case "v":
            return V()
        case "velocity":
            return Velocity()
        case "score":
            return Score()
        case "mean":
            return Mean(on)


def build_objective(objective: ObjectiveConfig) -> Objective:
    """How its error is weighted, and how levels are drawn."""
    weight = MinSNR(objective.gamma) if objective.weight == "min_snr" else Unweighted()
    return Objective(weight, LowDiscrepancy() if objective.times == "low_discrepancy" else Uniform())


def build_denoiser(config: Config, device: torch.device) -> NetworkDenoiser:
    """A new denoiser with random weights, on `device`. The data's channels must be known."""
    if config.data.channels is None:
        raise InputError("The number of channels of the data is not known yet: load the data, or set data.channels.")
    model = config.model
    network = UNet(
        config.data.channels,
        model.channels,
        model.multipliers,
        model.blocks,
        model.attention,
        model.heads,
        model.dropout,
        model.group_size,
        model.patch,
    )
    levels = chain(config.chain.name, config.chain.levels)
    return NetworkDenoiser(
        network.place(device),
        levels,
        build_target(config.objective, levels),
        variance(config.chain.variance),
        pick_autocast(config.training.precision, device),
    )
