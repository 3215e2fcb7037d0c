"""The names that parameters have in checkpoints."""

from __future__ import annotations

from torch import nn

from clearwater.learned_chain import LearnedChain

__all__ = ["CHAIN", "trained_parameters"]

CHAIN = "chain."  # before the names of a learned chain's; the network's are as they are


def trained_parameters(network: nn.Module, chain: LearnedChain | None) -> dict[str, nn.Parameter]:
    """What training changes, by name: the parameters of the network, and of a chain if that is learned."""
    of_chain = chain.named_parameters() if chain is not None else ()
    return {**dict(network.named_parameters()), **{CHAIN + name: parameter for name, parameter in of_chain}}
