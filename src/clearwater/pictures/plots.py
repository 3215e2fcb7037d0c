"""Plots: the chain and the loss curve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from clearwater.chains import Chain

__all__ = ["plot_chain", "plot_loss"]


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


def plot_loss(entries: Sequence[dict[str, float]]) -> Figure:
    """The training loss over the steps: each report, and their running mean."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = torch.tensor([entry["step"] for entry in entries])
    losses = torch.tensor([entry["loss"] for entry in entries], dtype=torch.float64)
    axes.plot(steps, losses, color="#9cc5d3", linewidth=0.8, label="reports")
    window = max(1, len(losses) // 20)
    smooth = losses.unfold(0, window, 1).mean(1) if len(losses) else losses
    axes.plot(steps[len(losses) - len(smooth) :], smooth, color="#1f6f8b", linewidth=2, label=f"mean of {window}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.25, which="both")
    axes.legend()
    return figure
