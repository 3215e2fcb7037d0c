"""The names that parameters have in checkpoints, and their values, also where each process has only a part of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from clearwater.errors import InputError
from clearwater.learned_chain import LearnedChain

__all__ = ["CHAIN", "begin_with", "copy_into", "local", "trained_parameters", "whole"]

_LABEL, _AUGMENTED = "label.", "augmented."  # what a run may know that the one it starts from did not
CHAIN = "chain."  # before the names of a learned chain's; the network's are as they are


def trained_parameters(network: nn.Module, chain: LearnedChain | None) -> dict[str, nn.Parameter]:
    """What training changes, by name: the parameters of the network, and of a chain if that is learned."""
    of_chain = chain.named_parameters() if chain is not None else ()
    return {**dict(network.named_parameters()), **{CHAIN + name: parameter for name, parameter in of_chain}}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, of which those that are divided among processes are gathered: all of these take part together."""
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()}


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this process has: all of it, unless it is divided among processes."""
    return value.to_local() if isinstance(value, DTensor) else value


@torch.no_grad()
def copy_into(tensor: Tensor, value: Tensor) -> None:
    """Copies a whole value into a tensor, of which this process may have only a part."""
    if isinstance(tensor, DTensor):
        value = distribute_tensor(value.to(tensor.device), tensor.device_mesh, tensor.placements)
    tensor.copy_(value)


@torch.no_grad()
def begin_with(parameters: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor] | None) -> None:
    """Copies weights, if there are any; what knows of classes or augmentation begins anew if it was not there.

    Raises:
        InputError: the weights are of another network.
    """
    if weights is None:
        return
    for name, parameter in parameters.items():
        found = weights.get(name)
        if found is not None and found.shape == parameter.shape:
            copy_into(parameter, found)
        elif name.startswith(_AUGMENTED):
            parameter.zero_()  # zeros say of every image that it is as it is
        elif not name.startswith(_LABEL):
            there = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise InputError(
                f"The run to start from has another network: {name}, here of shape {tuple(parameter.shape)}, {there} "
                "in it. Leave the settings of the model as they are there."
            )
