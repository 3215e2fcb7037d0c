"""Plots: the chain and the loss curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from clearwater.chains import Chain
from clearwater.likelihood import Bound

__all__ = ["plot_bound", "plot_chain", "plot_lengths", "plot_loss"]


def plot_bound(bound: Bound, chain: Chain) -> Figure:
    """The KL terms of a bound by level, and how they add up from the prior to the data."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    by_level, adding_up = figure.subplots(1, 2)
    k = torch.arange(2, chain.T + 1)
    # An estimate has not been at every level: what it did not see is left out, not drawn as zero.
    seen = bound.kl > 0
    by_level.plot(k[seen], bound.kl[seen], ".-", color="#1f6f8b", linewidth=1, markersize=3)
    by_level.set_yscale("log")
    by_level.set_xlabel("level k (0 = data)")
    by_level.set_ylabel("KL of the step k → k - 1, bits/dim")
    rate = bound.kl.flip(0).cumsum(0).flip(0) + float(bound.prior.mean())
    adding_up.plot(k, rate, color="#1f6f8b", linewidth=2, label="prior and KL terms from level k up")
    adding_up.axhline(bound.total, color="#c2572b", linewidth=1.5, label=f"with the decoder: {bound.total:.3f}")
    adding_up.set_xlabel("level k (0 = data)")
    adding_up.set_ylabel("bits/dim")
    adding_up.legend()
    for axes in (by_level, adding_up):
        axes.grid(alpha=0.25)
    return figure


def plot_chain(chain: Chain, name: str) -> Figure:
    """beta, alpha_bar and log-SNR of a chain over its levels."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    k = torch.arange(chain.T + 1)
    curves = (
        (r"$\beta_k$, variance added by step $k$", k[1:], chain.beta),
        (r"$\bar\alpha_k$, signal kept (variance)", k, chain.alpha_bar),
        (r"$\log\,\mathrm{SNR}_k$", k[1:], chain.levels[1:].log_snr),
    )
    for axes, (title, x, y) in zip(figure.subplots(1, 3), curves, strict=True):
        axes.plot(x, y, color="#1f6f8b", linewidth=2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("level k (0 = data)")
        axes.grid(alpha=0.25)
    figure.suptitle(f"{name}, T = {chain.T}")
    return figure


def plot_lengths(lengths: Sequence[float], losses: Sequence[float], distances: Sequence[float] | None) -> Figure:
    """The loss, and the distance of samples if it was measured, against the length of an average of the weights."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(lengths, losses, "o-", color="#1f6f8b", linewidth=2)
    axes.set_xlabel("length of the average, as a part of the run")
    axes.set_ylabel("loss on unseen images", color="#1f6f8b")
    if distances is not None:
        other = axes.twinx()
        other.plot(lengths, distances, "s--", color="#c2572b", linewidth=2)
        other.set_ylabel("Fréchet distance, garments-64", color="#c2572b")
    axes.grid(alpha=0.25)
    return figure


def plot_loss(entries: Sequence[Mapping[str, float]]) -> Figure:
    """The training loss over the steps: each report, and their running mean."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = torch.tensor([entry["step"] for entry in entries])
    losses = torch.tensor([entry["loss"] for entry in entries], dtype=torch.float64)
    axes.plot(steps, losses, color="#9cc5d3", linewidth=0.8, label="reports")
    window = max(1, len(losses) // 20)
    smooth = losses.unfold(0, window, 1).mean(1) if len(losses) else losses
    middle = (len(losses) - len(smooth)) // 2
    axes.plot(steps[middle : middle + len(smooth)], smooth, color="#1f6f8b", linewidth=2, label=f"mean of {window}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.25, which="both")
    axes.legend()
    return figure
