"""From a configuration to the objects it names."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from clearwater.chains import Chain, chain
from clearwater.config import ChainConfig, Config, ObjectiveConfig
from clearwater.couplings import Coupling, Independent, OptimalTransport, Sinkhorn
from clearwater.data.augmentation import AUGMENTED
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.learned_chain import LearnedChain
from clearwater.networks.unet import UNet
from clearwater.objectives import VLB, Euclidean, Hybrid, Objective, SquaredError
from clearwater.targets import X0, Eps, Mean, PathVelocity, Score, Target, V, Velocity
from clearwater.times import LogitNormal, LogNormal, LossAware, LowDiscrepancy, Mode, Shifted, TimeSampler, Uniform
from clearwater.variances import LevelVariance, variance
from clearwater.weights import P2, BoundWeight, EDMWeight, MinSNR, SigmoidWeight, Unweighted, Weight

__all__ = [
    "build_chain",
    "build_denoiser",
    "build_learned_chain",
    "build_objective",
    "build_target",
    "build_times",
    "pick_autocast",
    "pick_device",
]


def pick_device(name: str) -> torch.device:
    """The device of this name: auto (a GPU if there is one), cpu, cuda or mps.

    Of several processes on one machine each gets a GPU of its own.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    if name not in available:
        raise InputError(f"There is no device named '{name}': choose auto, cpu, cuda or mps.")
    if not available[name]:
        raise InputError(f"This machine has no {name} device that torch can use: choose auto or cpu.")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(name)


def pick_autocast(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of the network's matrix work if it is not that of the weights; with "auto", bf16 where it is fast."""
    if precision == "auto":
        fast = {"cuda": _cuda_has_bf16, "cpu": _processor_has_bf16}
        return torch.bfloat16 if device.type in fast and fast[device.type]() else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def _cuda_has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _processor_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux: no way to ask, so take what is always right
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def build_target(objective: ObjectiveConfig, on: Chain) -> Target:
    """What the network predicts on this chain.

    Raises:
        InputError: the target is the velocity of a continuous path, and the chain is a table.
    """
    match objective.target:
        case "eps":
            return Eps()
        case "x0":
            return X0()
        case "v":
            return V()
        case "velocity":
            return Velocity()
        case "path_velocity":
            if on.schedule is None:
                raise InputError(
                    "The target path_velocity is that of a continuous path, and the chain is none: set chain.name to "
                    "vp or flow, or objective.target to v."
                )
            return PathVelocity(on.schedule)
        case "score":
            return Score()
        case "mean":
            return Mean(on)


def build_times(objective: ObjectiveConfig, on: Chain) -> TimeSampler:
    """How the chain's levels are drawn in training.

    Raises:
        InputError: what draws them cannot be shifted.
    """
    if objective.shift == 1:
        return _times(objective, on)
    if objective.times in ("importance", "log_normal"):
        raise InputError(
            f"objective.shift moves times, and objective.times = {objective.times} draws them in another way: leave "
            "out one of the two."
        )
    return Shifted(_times(objective, on), on, objective.shift)


def build_coupling(objective: ObjectiveConfig) -> Coupling:
    """Which noise goes with which image."""
    match objective.coupling:
        case "optimal":
            return OptimalTransport()
        case "sinkhorn":
            return Sinkhorn(objective.sinkhorn)
        case _:  # of reflow the noise is the image's own, whoever draws it
            return Independent()


def _times(objective: ObjectiveConfig, on: Chain) -> TimeSampler:
    match objective.times:
        case "uniform":
            return Uniform()
        case "low_discrepancy":
            return LowDiscrepancy()
        case "importance":
            return LossAware(on.T)
        case "logit_normal":
            return LogitNormal(objective.logit_mean, objective.logit_std)
        case "mode":
            return Mode(objective.mode_scale)
        case "log_normal":
            return LogNormal(on, objective.log_mean, objective.log_std)


def _build_weight(objective: ObjectiveConfig, on: Chain, fixed: LevelVariance | None) -> Weight:
    match objective.weight:
        case "unweighted":
            return Unweighted()
        case "bound":
            if fixed is None:
                raise InputError(
                    "The weight bound is of a fixed reverse variance, and chain.variance is learned_range: set "
                    "objective.weight to unweighted, or objective.loss to vlb, which is the bound itself."
                )
            return BoundWeight(on, fixed)
        case "min_snr":
            return MinSNR(objective.gamma)
        case "edm":
            return EDMWeight(objective.sigma_data)
        case "p2":
            return P2(objective.p2_gamma, objective.p2_k)
        case "sigmoid":
            return SigmoidWeight(objective.bias, on)


def build_objective(config: Config) -> Objective:
    """What is made small in training.

    Raises:
        InputError: the settings contradict each other, such as a learned range that nothing would train.
    """
    objective, chain = config.objective, config.chain
    learned_range = chain.variance == "learned_range"
    if chain.name == "learned" and objective.loss != "vlb":
        raise InputError(
            f"A learned chain is trained through the bound, and objective.loss is {objective.loss}: set "
            "objective.loss to vlb, or chain.name to a chain that is fixed."
        )
    if config.training.shard and config.training.precision == "fp16":
        raise InputError("The loss is not scaled over divided weights: with training.shard use bf16 or fp32.")
    if config.training.shard and chain.name == "learned":
        raise InputError("A learned chain cannot be divided among processes: leave out training.shard.")
    if learned_range and objective.loss not in ("vlb", "hybrid"):
        raise InputError(
            f"The loss {objective.loss} does not train a learned range: set objective=hybrid or objective=vlb, or "
            "chain.variance to fixed_small."
        )
    if objective.loss == "hybrid" and not learned_range:
        raise InputError(
            f"The loss hybrid is for a learned variance, and chain.variance is {chain.variance}: set it to "
            "learned_range, or objective.loss to squared."
        )
    if chain.levels < 2 and (objective.loss != "squared" or objective.weight == "bound"):
        raise InputError(
            "The bound needs at least 2 levels, since its decoder's variance is that of the second step, and "
            f"chain.levels is {chain.levels}: use more levels, or a squared loss that is not weighted as the bound."
        )
    if objective.loss in ("vlb", "euclidean") and objective.weight != "unweighted":
        raise InputError(
            f"The loss {objective.loss} has the bound's own weights, and objective.weight is {objective.weight}: set "
            "that to unweighted, or objective.loss to squared."
        )
    _refuse_coupling(config)
    if chain.name == "learned" and (objective.times == "log_normal" or objective.shift != 1):
        named = "objective.shift" if objective.shift != 1 else "objective.times=log_normal"
        raise InputError(f"Levels of a learned chain move, so {named} has no meaning: leave it out.")
    levels = build_chain(chain)
    if chain.name != "learned" and float(levels.levels.alpha[-1]) == 0 and objective.target in ("eps", "score"):
        raise InputError(
            f"The chain {chain.name} ends in pure noise, in which objective.target = {objective.target} says nothing "
            "about the image: set objective.target to v, x0 or velocity, or chain.name to cosine or linear."
        )
    build_target(objective, levels)  # refuses a velocity of no path
    times = build_times(objective, levels)
    if objective.loss == "vlb":
        return VLB(times)
    if objective.loss == "variance":
        raise InputError(
            "The loss variance is for a variance beside a trained mean: train the mean with another loss, then use "
            "`clearwater variance RUN`."
        )
    rule = variance(chain.variance)
    fixed = rule if isinstance(rule, LevelVariance) else None
    if objective.loss == "euclidean":
        assert fixed is not None  # a learned range was refused above
        return Euclidean(fixed, times)
    weight = _build_weight(objective, levels, fixed)
    if objective.loss == "hybrid":
        return Hybrid(weight, objective.share, times)
    return SquaredError(weight, times, build_coupling(objective))


def _refuse_coupling(config: Config) -> None:
    """Refuses noise that is chosen for an image where it must be independent, or cannot be that image's own."""
    coupling, data = config.objective.coupling, config.data
    if coupling != "independent" and config.objective.loss != "squared":
        raise InputError(
            f"The coupling {coupling} is of flows, trained with objective.loss = squared, and it is "
            f"{config.objective.loss}: the bound is of independent noise."
        )
    if coupling != "independent" and data.augment:
        raise InputError(
            f"With objective.coupling = {coupling} the noise of images is chosen for them as they are: leave out "
            "data.augment."
        )
    if coupling == "reflow" and (data.flip or data.held_out):
        raise InputError(
            "With objective.coupling = reflow each image has its own noise, so images are not flipped or held out: "
            "leave out data.flip and data.held_out."
        )


def build_learned_chain(config: ChainConfig) -> LearnedChain | None:
    """The parameters of a chain that is learned, as training begins with them; None for one that is fixed."""
    return LearnedChain(config.levels) if config.name == "learned" else None


def build_chain(config: ChainConfig, learned: LearnedChain | None = None) -> Chain:
    """The noise levels; those of a learned chain are as they are in `learned`, or before training if it is None."""
    learned = build_learned_chain(config) if learned is None else learned
    if learned is None:
        return chain(config.name, config.levels)
    with torch.no_grad():
        return learned.chain()


def build_denoiser(config: Config, device: torch.device) -> NetworkDenoiser:
    """A new denoiser with random weights, on `device`. The data's channels must be known."""
    if config.data.channels is None:
        raise InputError("The number of channels of the data is not known yet: load the data, or set data.channels.")
    if config.data.labels and not config.data.classes:
        raise InputError("The classes of the data are not known yet: load the data, or set data.classes.")
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
        config.data.channels * (2 if config.chain.variance == "learned_range" else 1),
        len(config.data.classes) if config.data.labels and config.data.classes else None,
        AUGMENTED if config.data.augment else 0,
    )
    network.recompute = config.training.recompute
    levels = build_chain(config.chain)
    if config.chain.name == "learned" and config.objective.target == "mean":
        raise InputError(
            "The target mean is of a chain that stays, and this one is learned: set objective.target to eps, x0 or v."
        )
    return NetworkDenoiser(
        network.place(device),
        levels,
        build_target(config.objective, levels),
        variance(config.chain.variance),
        pick_autocast(config.training.precision, device),
    )
