"""The exponential moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from clearwater.training.parameters import copy_into

__all__ = ["EMA"]

Network = TypeVar("Network", bound=nn.Module)


class EMA:
    """An average of parameters, by name, whose decay warms up.

    After n updates the decay is ``min(decay, (1 - 1/n)^(gamma + 1))``: at first the power function
    average of Karras et al. 2024 (section 3.1), which remembers a fixed fraction of the run and
    nothing of the initial weights, later the constant decay of Ho et al. 2020. Only parameters are
    averaged; schedules and other constants are not parameters, so nothing can degrade them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float, gamma: float) -> None:
        self._decay, self._gamma = decay, gamma
        self._live = dict(parameters)
        self.parameters = {name: value.detach().clone() for name, value in self._live.items()}

    def decay_at(self, n: int) -> float:
        """The decay of the n-th update, n = 1, 2, …"""
        return min(self._decay, float((1 - 1 / n) ** (self._gamma + 1)))

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Takes in the parameters after their n-th step."""
        averages, live = list(self.parameters.values()), [value.detach() for value in self._live.values()]
        torch._foreach_lerp_(averages, live, 1 - self.decay_at(n))

    def load(self, parameters: dict[str, Tensor]) -> None:
        """Goes on from these averages."""
        for name, value in self.parameters.items():
            copy_into(value, parameters[name])

    def averaged(self, network: Network, prefix: str = "") -> Network:
        """A copy of `network`, whose names begin with `prefix` here, with the averaged weights, in evaluation mode."""
        # Copied through a deep copy so that buffers and memory layout come along.
        twin = copy.deepcopy(network)
        twin.load_state_dict(
            {name: self.parameters[prefix + name] for name, _ in twin.named_parameters()}, strict=False
        )
        return twin.eval().requires_grad_(False)
