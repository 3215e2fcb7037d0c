"""Averages of the weights whose length is chosen after training (Karras et al. 2024, section 3 and appendix C).

Two averages of fixed relative length are kept during training, and copies of both on the way. An average of any length
is then a linear combination of these copies: the one whose profile over the steps is nearest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from clearwater.errors import InputError
from clearwater.files import write_atomically

__all__ = [
    "LENGTHS",
    "Snapshot",
    "Snapshots",
    "combination",
    "gamma_of",
    "length_of",
    "profile_product",
]

LENGTHS = (0.05, 0.10)
"""The relative lengths that are kept; those between and around them are made of both."""

_LONGEST = 12**-0.5  # of a profile that is flat: the mean of all weights


def length_of(gamma: float) -> float:
    """The relative length of a power-function average: the standard deviation of its profile over a run."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of(length: float) -> float:
    """The exponent of the average with this relative length, the root of a cubic.

    Raises:
        InputError: no power function is that long.
    """
    if not 0 < length < _LONGEST:
        raise InputError(
            f"An average's length is a part of the run, above 0 and below {_LONGEST:.3f} (the mean of all weights), "
            f"not {length:g}."
        )
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
    return float(roots.real.max())


@dataclass(frozen=True)
class Snapshot:
    """A copy of an average.

    Attributes:
        step: after which it was taken.
        length: the relative length of the average.
    """

    step: int
    length: float


def profile_product(a: Snapshot, b: Snapshot) -> float:
    """∫ p_a p_b of two profiles ``p(τ) = (γ + 1) τ^γ / t^(γ + 1)`` on [0, t]."""
    early, late = sorted((a, b), key=lambda snapshot: snapshot.step)
    gamma, other = gamma_of(early.length), gamma_of(late.length)
    # Both over the earlier one's steps, beyond which its profile is zero; a ratio's power overflows nothing.
    return float((gamma + 1) * (other + 1) / (gamma + other + 1) * (early.step / late.step) ** other / late.step)


def combination(snapshots: Sequence[Snapshot], step: int, length: float) -> tuple[Tensor, float]:
    """What to multiply each snapshot by for the average of this length after this step.

    Args:
        snapshots: what was kept, at least one, none later than `step`.
        step: where the wanted average ends.
        length: its relative length.

    Returns:
        Factors, float64, shape (n,), which sum to about one, and the part of the wanted profile's norm that they miss.

    Raises:
        InputError: there are no snapshots, or the length is none.
    """
    kept = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not kept:
        raise InputError("No copies of the averages were kept: train with training.ema_snapshots above 0.")
    wanted = Snapshot(step, length)
    gram = torch.tensor([[profile_product(a, b) for b in kept] for a in kept], dtype=torch.float64)
    towards = torch.tensor([profile_product(a, wanted) for a in kept], dtype=torch.float64)
    # Scaled, since profiles of few steps are high ones; least squares, since neighbours are nearly alike.
    size = gram.diagonal().sqrt()
    factors = (
        torch.linalg.lstsq(gram / size / size[:, None], towards / size, driver="gelsd", rcond=1e-12).solution / size
    )
    missed = profile_product(wanted, wanted) - 2 * factors @ towards + factors @ gram @ factors
    return factors, math.sqrt(max(float(missed), 0.0) / profile_product(wanted, wanted))


class Snapshots:
    """The copies in a folder: a file a step, in fp16, with all lengths in it.

    Args:
        folder: need not exist until something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, step: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
        """Keeps the averages of these lengths after a step."""
        tensors = {
            f"{length:.3f}/{name}": value.detach().to("cpu", torch.float16).contiguous()
            for length, average in averages.items()
            for name, value in average.items()
        }
        self._folder.mkdir(exist_ok=True)
        write_atomically(self._folder / f"{step:09d}.safetensors", save(tensors))

    def forget_after(self, step: int) -> None:
        """Removes what is of later steps, to which a run that went back will come again."""
        for path in self._paths():
            if int(path.stem) > step:
                path.unlink()

    def average(self, step: int, length: float) -> tuple[dict[str, Tensor], float]:
        """The average of this length after a step, by parameter name, and what part of its profile is missed.

        Raises:
            InputError: nothing was kept, or the length is none.
        """
        kept, files = [], []
        for path in self._paths():
            if int(path.stem) <= step:
                kept += [Snapshot(int(path.stem), known) for known in LENGTHS]
                files.append(path)
        factors, missed = combination(kept, step, length)
        sums: dict[str, Tensor] = {}
        for i, path in enumerate(files):  # one file in memory at a time
            tensors = load_file(path)
            for j, known in enumerate(LENGTHS):
                prefix, factor = f"{known:.3f}/", factors[i * len(LENGTHS) + j]
                for name, value in tensors.items():
                    if name.startswith(prefix):
                        own = name.removeprefix(prefix)
                        sums[own] = sums.get(own, torch.zeros((), dtype=torch.float64)) + factor * value.double()
        return {name: value.float() for name, value in sums.items()}, missed

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*.safetensors") if path.stem.isdecimal())
