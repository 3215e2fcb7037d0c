"""A denoiser from a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clearwater.assembly import build_chain, build_denoiser, build_learned_chain, pick_device
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.training.parameters import CHAIN
from clearwater.training.run import RunFolder
from clearwater.variances import LearnedNetwork, VarianceName
from clearwater.variances import variance as named_variance

__all__ = ["load_denoiser", "load_variance_network"]


def load_variance_network(path: Path, device: torch.device, *, exact: bool = False) -> LearnedNetwork:
    """The variance that `clearwater variance` trained into this folder.

    Args:
        path: the folder.
        device: where to put it.
        exact: whether it runs in the precision of its weights, whatever the run says.
    """
    network = _loaded(RunFolder.open(path), device, "ema")
    return LearnedNetwork((replace(network, autocast=None) if exact else network).output)


def load_denoiser(
    run: RunFolder | Path | str,
    device: torch.device | str = "auto",
    *,
    variance: VarianceName | None = None,
    weights: Literal["ema", "raw"] = "ema",
    tensors: Mapping[str, Tensor] | None = None,
) -> NetworkDenoiser:
    """The model of a run, in evaluation mode.

    Args:
        run: the run, or the path of its folder.
        device: where to put it; "auto" for a GPU if there is one.
        variance: a reverse variance other than the run's own.
        weights: the averaged ones, or the last ones of training.
        tensors: weights by name in place of those in the run, such as an average of another length.

    Raises:
        InputError: there is no run, its weights do not fit its configuration, or it has no learned range to use.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    config = folder.config()
    if config.objective.loss == "variance":
        raise InputError(f"'{folder.path}' holds a variance network, which is no model alone: give the run it is in.")
    if variance == "learned_range" and config.chain.variance != variance:
        raise InputError(
            f"The model in '{folder.path}' has no channels for a learned range: choose fixed_small, fixed_large or "
            "optimal, or train with objective=hybrid."
        )
    denoiser = _loaded(folder, pick_device(str(device)) if isinstance(device, str) else device, weights, tensors)
    return replace(denoiser, variance=named_variance(variance)) if variance else denoiser


def _loaded(
    folder: RunFolder,
    device: torch.device,
    weights: Literal["ema", "raw"],
    given: Mapping[str, Tensor] | None = None,
) -> NetworkDenoiser:
    config = folder.config()
    tensors = dict(folder.model(weights)[0] if given is None else given)
    denoiser = build_denoiser(config, device)
    learned_chain = build_learned_chain(config.chain)
    try:
        # The weights are all there is to load: buffers are constants of the code.
        if learned_chain is not None:
            learned_chain.load_state_dict(
                {name.removeprefix(CHAIN): tensors.pop(name) for name in list(tensors) if name.startswith(CHAIN)}
            )
        denoiser.network.load_state_dict(tensors)
    except RuntimeError:
        raise InputError(
            f"The weights in '{folder.path}' do not fit its config.toml, which was changed after training: restore it."
        ) from None
    denoiser.network.eval().requires_grad_(False)
    if learned_chain is not None:
        denoiser = replace(denoiser, chain=build_chain(config.chain, learned_chain))
    return replace(denoiser, weights=weights if given is None else "given")
