"""The optimal variance of a run: measured when it is first asked for, and kept with the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from clearwater.cli.progress import live_line

if TYPE_CHECKING:
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.training import RunFolder
    from clearwater.variances import Optimal

__all__ = ["optimal_variance"]


def optimal_variance(
    folder: RunFolder, network: NetworkDenoiser, *, clip: bool, weights: Literal["ema", "raw"] = "ema"
) -> Optimal:
    """The run's optimal variance: measured once on its own training images, and kept with it."""
    from clearwater.data import load_images
    from clearwater.denoisers import Clipped
    from clearwater.likelihood import fit_optimal_variance

    key = {"step": str(folder.model()[1].step), "clipped": str(clip), "weights": weights}
    stored = folder.load_variance(key)
    if stored is not None:
        return stored
    data = folder.config().data
    images = load_images(data.source, size=data.size, channels=data.channels).images
    device = next(network.network.parameters()).device
    with live_line("measuring the optimal variance") as report:
        fitted = fit_optimal_variance(
            Clipped(network) if clip else network,
            (images.float() / 127.5 - 1).to(device),
            progress=lambda fraction: report(fraction, "on training images"),
        )
    folder.save_variance(fitted, key)
    return fitted
