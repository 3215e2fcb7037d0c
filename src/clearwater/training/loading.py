"""A denoiser from a run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from clearwater.assembly import build_denoiser, pick_device
from clearwater.denoisers import NetworkDenoiser
from clearwater.errors import InputError
from clearwater.training.checkpoint import RunFolder
from clearwater.variances import VarianceName
from clearwater.variances import variance as named_variance

__all__ = ["load_denoiser"]


def load_denoiser(
    run: RunFolder | Path | str,
    device: torch.device | str = "auto",
    *,
    variance: VarianceName | None = None,
    weights: Literal["ema", "raw"] = "ema",
) -> NetworkDenoiser:
    """The model of a run, in evaluation mode.

    Args:
        run: the run, or the path of its folder.
        device: where to put it; "auto" for a GPU if there is one.
        variance: a reverse variance other than the run's own.
        weights: the averaged ones, or the last ones of training.

    Raises:
        InputError: there is no run, or its weights do not fit its configuration.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder.open(Path(run))
    tensors, _ = folder.model(weights)
    denoiser = build_denoiser(folder.config(), pick_device(str(device)) if isinstance(device, str) else device)
    try:
        # The weights are all there is to load: buffers are constants of the code.
        denoiser.network.load_state_dict(tensors)
    except RuntimeError:
        raise InputError(
            f"The weights in '{folder.path}' do not fit its config.toml, which was changed after training: restore it."
        ) from None
    denoiser.network.eval().requires_grad_(False)
    return replace(denoiser, variance=named_variance(variance)) if variance else denoiser
