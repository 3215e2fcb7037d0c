"""Settings of the whole process, which are the program's to make and not the library's."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory", "set_float32"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep large blocks for the next tensor instead of returning them at once.

    By default every tensor of more than 32 MB is mapped anew, and each of its pages faulted in, at
    every step: 8% of a training step of the CIFAR-10 network on a processor (docs/benchmarks.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def set_float32(precision: str) -> None:
    """Whether NVIDIA's GPUs may round float32 to TF32: not with fp32, although their convolutions would by default."""
    import torch

    if precision in ("fp32", "tf32"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
