"""The sides of the race by name: where they are written, and what has to be importable."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CLEARWATER", "DEFAULT", "SIDES", "Side"]


@dataclass(frozen=True)
class Side:
    """One side.

    Attributes:
        title: as tables and pictures call it.
        package: that it needs.
        module: of this folder, whose PEERS has it; empty for clearwater, which is run by its own command.
    """

    title: str
    package: str
    module: str = ""


def _diffusers(title: str) -> Side:
    return Side(f"diffusers, {title}", "diffusers", "with_diffusers")


def _denoising_diffusion(title: str) -> Side:
    return Side(f"denoising-diffusion-pytorch, {title}", "denoising_diffusion_pytorch", "with_denoising_diffusion")


CLEARWATER = "clearwater"

SIDES = {
    CLEARWATER: Side("clearwater, as it is", "clearwater"),
    "diffusers-documented": _diffusers("as documented"),
    "diffusers-best": _diffusers("best"),
    "diffusers-best-v": _diffusers("best, v"),
    "diffusers-best-epsilon": _diffusers("best, noise"),
    "denoising-diffusion-documented": _denoising_diffusion("as documented"),
    "denoising-diffusion-best": _denoising_diffusion("best"),
    "denoising-diffusion-best-v": _denoising_diffusion("best, v"),
    "plain-edm": Side("a plain EDM loop", "torch", "plain_edm"),
}

DEFAULT = (
    CLEARWATER,
    "diffusers-documented",
    "diffusers-best",
    "denoising-diffusion-documented",
    "denoising-diffusion-best",
    "plain-edm",
)
"""Those that run if nobody says which."""
