"""The energy that a machine says it has used: from the counters of its processors, its memory and its GPU.

Linux shows the counters of processors and memory (RAPL) as files, which on most machines only root may read. NVIDIA's
driver counts what each of its GPUs has used. A machine without any of these tells nobody, and nothing is made up.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

__all__ = ["POWERCAP", "Counter", "EnergyMeter", "NvidiaCounter", "RaplCounter", "counters_of"]

POWERCAP = Path("/sys/class/powercap")
_MICROJOULES, _MILLIJOULES = 1e6, 1e3  # in one
_NVML = "libnvidia-ml.so.1"


class Counter(Protocol):
    """Counts joules from some moment on.

    Attributes:
        of: what they are of, in a word.
        most: joules after which it begins at zero again.
    """

    of: str
    most: float

    def joules(self) -> float:
        """What it has counted so far. Raises OSError or ValueError if it does not say."""


class RaplCounter:
    """A package of processor cores, or the memory beside it: a folder of /sys/class/powercap."""

    def __init__(self, folder: Path, of: str) -> None:
        self.of, self._path = of, folder / "energy_uj"
        self.most = float((folder / "max_energy_range_uj").read_text()) / _MICROJOULES

    def joules(self) -> float:
        return float(self._path.read_text()) / _MICROJOULES


class NvidiaCounter:
    """A GPU of NVIDIA's, all of it, whoever uses it.

    Args:
        uuid: of the GPU, as the driver calls it.
        library: the driver's.

    Raises:
        OSError: there is no such GPU.
    """

    of, most = "GPU", math.inf

    def __init__(self, uuid: str, library: ctypes.CDLL) -> None:
        self._library, self._device = library, ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(self._device))

    def joules(self) -> float:
        counted = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(counted))
        return counted.value / _MILLIJOULES

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} gave {code}")


class EnergyMeter:
    """Adds up what counters count from the moment it is made.

    It has to be asked more often than a counter begins anew, which takes some minutes at the least.

    Attributes:
        of: what is counted, a word for each kind of counter; empty if the machine tells nothing.

    Args:
        counters: what to add up; one that cannot be read is left out.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._joules: float | None = 0.0
        self._last: list[tuple[Counter, float]] = []
        for counter in counters:
            try:
                self._last.append((counter, counter.joules()))
            except (OSError, ValueError):
                continue
        self.of = tuple(dict.fromkeys(counter.of for counter, _ in self._last))

    def joules(self) -> float | None:
        """Joules since the meter was made; None if no counter can be read, or one no longer."""
        if not self._last or self._joules is None:
            return None
        try:
            now = [(counter, counter.joules()) for counter, _ in self._last]
        except (OSError, ValueError):  # what it would have counted is not known
            self._joules = None
            return None
        for (counter, joules), (_, before) in zip(now, self._last, strict=True):
            self._joules += joules - before + (counter.most if joules < before else 0.0)
        self._last = now
        return self._joules


def counters_of(device: torch.device, powercap: Path = POWERCAP) -> list[Counter]:
    """The counters of this machine's processors and memory, and of the GPU if `device` is one.

    Args:
        device: where the work is done.
        powercap: the folder in which Linux shows the counters of processors.
    """
    return [*_of_processors(powercap), *_of_gpu(device)]


def _of_processors(powercap: Path) -> list[Counter]:
    """The packages and their memory, which they do not count; what else is shown are parts of these, or all again."""
    found: list[Counter] = []
    for folder in sorted(powercap.glob("intel-rapl:*")):  # AMD's are called so too
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package-") or name == "dram":
                found.append(RaplCounter(folder, "memory" if name == "dram" else "processors"))
        except (OSError, ValueError):
            continue
    return found


def _of_gpu(device: torch.device) -> list[Counter]:
    if device.type != "cuda":
        return []
    try:
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        return [NvidiaCounter(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}", ctypes.CDLL(_NVML))]
    except (OSError, AttributeError):  # no driver of NVIDIA's, or too old a one
        return []
