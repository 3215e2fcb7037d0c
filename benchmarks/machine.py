"""What the machine is, and how busy others kept it while something was measured."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import torch

__all__ = ["Busy", "bf16_is_faster", "described", "memory"]

_IDLE = (3, 4)  # idle and waiting for the disk, in the first line of /proc/stat


def described() -> str:
    """The versions, the processor's threads, the system."""
    threads = torch.get_num_threads()
    return f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {threads} thread(s)"


def bf16_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in bf16 than in float32; without instructions for it, it is a
    hundred times slower.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        for _ in range(3):  # the first is of a processor that is warming up
            began = time.perf_counter()
            a @ a
            seconds[dtype] = time.perf_counter() - began
    return seconds[torch.bfloat16] < seconds[torch.float32]


def memory() -> dict[str, float]:
    """RssAnon and RssFile of this process in MB: its own memory, and what it has mapped of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    return {name: int(found[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


class Busy:
    """The share of the processors' time that other programs took since this was made.

    The time of this process and of its children that have ended is its own.
    """

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """0 for a quiet machine, 1 for one that had nothing left."""
        taken = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(taken, 0.0) / ((time.monotonic() - self._began) * (os.cpu_count() or 1))


def _busy_seconds() -> float:
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]  # user … steal; guests are in user already
    return sum(int(ticks) for i, ticks in enumerate(first) if i not in _IDLE) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
