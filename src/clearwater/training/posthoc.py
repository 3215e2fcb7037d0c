"""Averages of the weights whose length is chosen after training (Karras et al. 2024, section 3 and appendix C).

Two averages of fixed relative length are kept during training, and copies of both on the way. An average of any length
is then a linear combination of these copies: the one whose profile over the steps is nearest.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clearwater.errors import ClearwaterError, InputError
from clearwater.files import MISSING, write_atomically

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

_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{32})"')
_BLANK = "0" * 32
_CHANGED = "it is not what was written"


class _DamagedError(Exception):
    """A copy is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"The copy of the averages '{path}' cannot be read ({why}), so it is passed over.")
        self.path = path


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
    """The copies in a folder: a file a step, in fp16, with all lengths and a checksum in it.

    Attributes:
        warnings: a sentence for each damaged file that was passed over.

    Args:
        folder: need not exist until something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.warnings: list[str] = []
        self._folder = folder
        self._damaged: set[Path] = set()

    def keep(self, step: int, averages: Mapping[float, Mapping[str, Tensor]]) -> None:
        """Keeps the averages of these lengths after a step."""
        tensors = {
            f"{length:.3f}/{name}": value.detach().to("cpu", torch.float16).contiguous()
            for length, average in averages.items()
            for name, value in average.items()
        }
        path = self._folder / f"{step:09d}.safetensors"
        self._folder.mkdir(exist_ok=True)
        write_atomically(path, _with_checksum(tensors))
        self._damaged.discard(path)

    def steps(self) -> list[int]:
        """After which steps copies were kept, rising."""
        return [int(path.stem) for path in self._paths()]

    def copy(self, step: int, length: float) -> dict[str, Tensor] | None:
        """The average of one of `LENGTHS` as it was kept after a step, by parameter name, float32.

        None, with a word in `warnings`, if the copy is damaged.
        """
        path, prefix = self._folder / f"{step:09d}.safetensors", f"{length:.3f}/"
        try:
            tensors = _read(path)
        except _DamagedError as error:
            self._damaged.add(path)
            self.warnings.append(str(error))
            return None
        return {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}

    def forget_after(self, step: int) -> None:
        """Removes what is of later steps, to which a run that went back will come again, and what was half written."""
        later = [path for path in self._paths() if int(path.stem) > step]
        for path in [*later, *self._folder.glob(".*.part")]:
            path.unlink()

    def average(self, step: int, length: float) -> tuple[dict[str, Tensor], float]:
        """The average of this length after a step, by parameter name, and what part of its profile is missed.

        It is made of the copies that can be read; the others go to `warnings`.

        Raises:
            InputError: nothing was kept, or the length is none.
            ClearwaterError: all that was kept is damaged.
        """
        kept = [path for path in self._paths() if int(path.stem) <= step]
        if not kept:
            raise InputError(
                f"There are no copies of averages in '{self._folder}' up to step {step}: train with "
                "training.ema_snapshots above 0."
            )
        while whole := [path for path in kept if path not in self._damaged]:
            snapshots = [Snapshot(int(path.stem), known) for path in whole for known in LENGTHS]
            factors, missed = combination(snapshots, step, length)
            try:
                return _combined(whole, factors), missed
            except _DamagedError as error:  # other factors make the best of the rest
                self._damaged.add(error.path)
                self.warnings.append(str(error))
        raise ClearwaterError(
            f"All copies of averages in '{self._folder}' up to step {step} are damaged, so none can be made of them: "
            "restore them, or train again."
        )

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*.safetensors") if path.stem.isdecimal())


def _combined(paths: Sequence[Path], factors: Tensor) -> dict[str, Tensor]:
    """The sum of the averages in these files, each times its factor, by parameter name."""
    sums: dict[str, Tensor] = {}
    for path, of_file in zip(paths, factors.view(-1, len(LENGTHS)), strict=True):
        tensors = _read(path)  # one file in memory at a time
        for known, factor in zip(LENGTHS, of_file, strict=True):
            prefix = f"{known:.3f}/"
            for name, value in tensors.items():
                if name.startswith(prefix):
                    own = name.removeprefix(prefix)
                    sums[own] = sums.get(own, torch.zeros((), dtype=torch.float64)) + factor * value.double()
    return {name: value.float() for name, value in sums.items()}


def _with_checksum(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file whose header holds a checksum: that of the whole file with zeros in its place."""
    content = save(tensors, metadata={"checksum": _BLANK})
    digest = hashlib.blake2b(content, digest_size=16).hexdigest().encode()
    found = _found_checksum(content)
    assert found is not None
    return b"".join([memoryview(content)[: found.start(1)], digest, memoryview(content)[found.end(1) :]])


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, if they are those that were written."""
    try:
        content = path.read_bytes()
    except MISSING as error:
        raise _DamagedError(path, str(error.strerror)) from None
    found = _found_checksum(content)
    if found is not None:
        digest = hashlib.blake2b(memoryview(content)[: found.start(1)], digest_size=16)
        digest.update(_BLANK.encode())
        digest.update(memoryview(content)[found.end(1) :])
        if digest.hexdigest().encode() != found[1]:
            raise _DamagedError(path, _CHANGED)
    elif b'"__metadata__"' in content[: _end_of_header(content)]:  # files had neither before there were checksums
        raise _DamagedError(path, _CHANGED)
    try:
        return load(content)
    except SafetensorError:
        raise _DamagedError(path, _CHANGED) from None


def _found_checksum(content: bytes) -> re.Match[bytes] | None:
    return _CHECKSUM.search(content, 0, _end_of_header(content))


def _end_of_header(content: bytes) -> int:
    return min(8 + int.from_bytes(content[:8], "little"), len(content))
