"""What training takes of the machine, for the log: memory, energy, and which machine it is."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Cost"]

_ENERGY = "energy_joules"


class Cost:
    """What this process takes, and with the energy what the run took before.

    Args:
        device: where the model is trained.
        before: the log of the run so far. If that trained without its energy being counted, no figure of the rest is
            given: it would be taken for that of the run.
        powercap: where Linux shows the counters of processors.
    """

    def __init__(
        self, device: torch.device, before: Sequence[Mapping[str, Any]] = (), *, powercap: Path | None = None
    ) -> None:
        from clearwater.training.energy import POWERCAP, EnergyMeter, counters_of

        self._device, self._name = device, _named(device)
        said = before[-1].get(_ENERGY) if before else 0.0
        self._before = float(said) if isinstance(said, int | float) and math.isfinite(said) else None
        self._meter = EnergyMeter([] if self._before is None else counters_of(device, powercap or POWERCAP))

    def so_far(self) -> dict[str, Any]:
        """For a line of the log: the most memory in MB, the machine, and the joules if it tells them."""
        entry: dict[str, Any] = {"memory_mb": round(_memory_mb(self._device), 1), "device": self._name}
        joules = self._meter.joules()
        if joules is not None and self._before is not None:
            entry |= {_ENERGY: round(self._before + joules, 1), "energy_of": ", ".join(self._meter.of)}
        return entry


def _named(device: torch.device) -> str:
    """What it is called and how much of it is used, as far as that is known."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "mps":
        name = "Apple GPU"
    else:
        threads = torch.get_num_threads()
        name = f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return name if processes == 1 else f"{processes} processes, the first on {name}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or "processor"


def _memory_mb(device: torch.device) -> float:
    """The most memory that was used at once: of the GPU if that is where the model is, else of the process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
