"""The model of a run with the reverse variance that was asked for: its own, a fixed, a measured, a learned one."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clearwater.cli.loading import Keeping
from clearwater.cli.progress import Report, command, live_line, say
from clearwater.cli.repeating import if_it_can_be_kept
from clearwater.errors import InputError

if TYPE_CHECKING:
    import torch

    from clearwater.config import DataConfig
    from clearwater.denoisers import Denoiser, NetworkDenoiser
    from clearwater.sampling import Grid
    from clearwater.training import RunFolder
    from clearwater.variances import LearnedNetwork, Optimal

__all__ = [
    "VarianceOption",
    "fitted_grid",
    "has_optimal_variance",
    "image_shape",
    "load_for_sampling",
    "load_network",
    "optimal_variance",
    "variance_folder",
]

_PATHS, _PATHS_AT_ONCE = 32, 16
_PATHS_MEASURED = "1"
_FEWEST, _PIXELS = 1000, 2**27  # of training images that the variance is measured on: half a GiB, but not too few
_OPTIMAL = "optimal-variance"
_MEASURED = "3"  # the way of measuring: another one does not take this one's files for its own

VarianceOption = Literal["fixed_small", "fixed_large", "learned_range", "network", "optimal"]


def load_network(
    folder: RunFolder,
    device: torch.device,
    *,
    variance: VarianceOption | None,
    clip: bool,
    weights: Literal["ema", "raw"] = "ema",
    exact: bool = False,
    keeping: Keeping | None = None,
) -> NetworkDenoiser:
    """The denoiser of a run.

    Args:
        folder: the run.
        device: where to put it.
        variance: its reverse variance, the run's own if None; "optimal" is measured if it was not before.
        clip: whether its predictions will be clipped to the range of the data, for a variance that fits.
        weights: averaged, or the last ones of training.
        exact: whether the network runs in the precision of its weights, whatever the run says.
        keeping: of the decoded images that the variance is measured on; None for the usual place.
    """
    from clearwater.training import load_denoiser

    named = None if variance == "optimal" or variance == "network" else variance
    model = load_denoiser(folder, device, variance=named, weights=weights)
    if exact:
        model = replace(model, autocast=None)
    if variance == "optimal":
        model = replace(model, variance=optimal_variance(folder, model, clip=clip, weights=weights, keeping=keeping))
    elif variance == "network":
        if weights == "raw":
            raise InputError("The variance network was trained beside the averaged weights: leave out --weights raw.")
        model = replace(model, variance=_network(folder, device, clip=clip, exact=exact))
    return model


def variance_folder(folder: RunFolder, *, clip: bool) -> Path:
    """Where a variance network is kept that belongs to the run's newest model."""
    step = folder.model()[1].step
    return folder.path / f"variance-{step:09d}{'' if clip else '-unclipped'}"


def _network(folder: RunFolder, device: torch.device, *, clip: bool, exact: bool) -> LearnedNetwork:
    from clearwater.training.loading import load_variance_network

    path = variance_folder(folder, clip=clip)
    if not (path / "checkpoints").is_dir():
        clipping = [] if clip else ["--no-clip"]
        raise InputError(
            f"'{folder.path}' has no variance network for its newest model: train one with "
            f"{command('variance', folder.path, *clipping)}"
        )
    return load_variance_network(path, device, exact=exact)


def optimal_variance(
    folder: RunFolder,
    network: NetworkDenoiser,
    *,
    clip: bool,
    weights: Literal["ema", "raw"] = "ema",
    report: Report | None = None,
    keeping: Keeping | None = None,
) -> Optimal:
    """The run's optimal variance: measured once on its own training images, and kept with it.

    Args:
        folder: the run.
        network: its model.
        clip: whether its predictions will be clipped.
        weights: which of the run's these are.
        report: the live line to be told on; None for one of its own.
        keeping: of the decoded images; None for the usual place.
    """
    from clearwater.data import pixel_values
    from clearwater.denoisers import Clipped
    from clearwater.evaluation.unseen import some
    from clearwater.optimal_variance import fit_optimal_variance
    from clearwater.variances import Optimal

    key = _of_variance(folder, clip=clip, weights=weights)
    stored = folder.kept(_OPTIMAL, key)
    if stored is not None:
        return Optimal(stored["time"], stored["error"], stored.get("decoder"))
    data = folder.config().data
    data_of_run = (keeping or Keeping()).load(data.model_copy(update={"labels": False}))
    images, _ = some(data_of_run, max(_FEWEST, _PIXELS // math.prod(data_of_run.shape)))
    device = next(network.network.parameters()).device
    exactly = replace(network, autocast=None)  # the same figures whichever command asks first
    with nullcontext(report) if report is not None else live_line("measuring the optimal variance") as line:
        fitted = fit_optimal_variance(
            Clipped(exactly) if clip else exactly,
            pixel_values(images).to(device),
            progress=lambda fraction: line(fraction, "on training images, once for this model"),
        )
    tensors = {"time": fitted.time, "error": fitted.error}
    if fitted.decoder is not None:
        tensors["decoder"] = fitted.decoder
    with if_it_can_be_kept(folder):
        folder.keep(_OPTIMAL, tensors, key)
    return fitted


def has_optimal_variance(folder: RunFolder, *, clip: bool, weights: Literal["ema", "raw"] = "ema") -> bool:
    """Whether the run's optimal variance was measured."""
    return folder.kept(_OPTIMAL, _of_variance(folder, clip=clip, weights=weights)) is not None


def _of_variance(folder: RunFolder, *, clip: bool, weights: str) -> dict[str, str]:
    step = str(folder.model()[1].step)
    return {"step": step, "clipped": str(clip), "weights": weights, "measured": _MEASURED}


def fitted_grid(folder: RunFolder, network: NetworkDenoiser, *, clip: bool) -> Grid:
    """The grid that departs least from the run's own paths: measured once, and kept with it."""
    import torch

    from clearwater.denoisers import Clipped
    from clearwater.randomness import ImageNoise
    from clearwater.sampling import fitted_to_path, path_costs

    step = str(folder.model()[1].step)
    key = {"step": step, "clipped": str(clip), "weights": network.weights, "measured": _PATHS_MEASURED}
    stored = folder.kept("path-costs", key)
    if stored is not None:
        return fitted_to_path(stored["costs"])
    shape = image_shape(folder.path, folder.config().data)
    device = next(network.network.parameters()).device
    denoiser = Clipped(network) if clip else network
    parts = []
    with live_line("measuring the model's paths") as report:
        for first in range(0, _PATHS, _PATHS_AT_ONCE):
            noise = ImageNoise(0, range(first, first + _PATHS_AT_ONCE), shape, device)
            parts.append(path_costs(denoiser, noise))
            report((first + _PATHS_AT_ONCE) / _PATHS, "once for this model")
    costs = torch.stack(parts).mean(0)
    with if_it_can_be_kept(folder):
        folder.keep("path-costs", {"costs": costs}, key)
    return fitted_to_path(costs)


def load_for_sampling(run: Path, *, device: str) -> tuple[Denoiser, tuple[int, int, int], torch.device]:
    """The run's denoiser, clipped, the shape (C, H, W) of its images, and the device it is on."""
    from clearwater.assembly import pick_device
    from clearwater.denoisers import Clipped
    from clearwater.training import RunFolder

    chosen = pick_device(device)
    folder = RunFolder.open(run)
    network = load_network(folder, chosen, variance=None, clip=True)
    for warning in folder.warnings:
        say(warning)
    return Clipped(network), image_shape(run, folder.config().data), chosen


def image_shape(run: Path, data: DataConfig) -> tuple[int, int, int]:
    """(C, H, W) of the run's images."""
    if data.size is None or data.channels is None:
        raise InputError(f"The configuration of '{run}' does not say the size of its images: train it again.")
    return data.channels, *data.size
