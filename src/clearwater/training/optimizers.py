"""The optimisers by name, and what each keeps of a parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from clearwater.config import TrainingConfig
from clearwater.training.muon import Muon, matrices

__all__ = ["moments_of", "optimizer"]


def optimizer(
    training: TrainingConfig, parameters: Mapping[str, nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser that a configuration names.

    Args:
        training: the settings.
        parameters: what it changes, by name.
        device: where they are.
    """
    shared: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "weight_decay": training.weight_decay,
        "fused": device.type != "mps",
    }
    match training.optimizer:
        case "adam":
            return torch.optim.Adam(parameters.values(), **shared)
        case "adamw":
            return torch.optim.AdamW(parameters.values(), **shared)
        case "muon":
            return Muon(parameters.values(), matrices(parameters), **shared)


def moments_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> set[str]:
    """The names of the tensors that an optimiser keeps of a parameter."""
    turned = isinstance(optimizer, Muon) and parameter in optimizer.turned
    return {"step", "momentum"} if turned else {"step", "exp_avg", "exp_avg_sq"}
