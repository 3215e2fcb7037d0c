"""Where the time of a training step and of an evaluation goes, and what fraction of the machine's peak it reaches.

For the network of the CIFAR-10 recipe (batch 16) and for the recipe small-grey (batch 32), as `clearwater train` sets
them up: precision, layout, optimiser, allocator. The peak is the fastest of a few large products of matrices and
convolutions in the same precision, before and after the rest. The work is that of the network's matrix products and
convolutions, as torch counts it (a multiplication and an addition are two); it is divided by the time that a step takes
without the profiler. Shares are of the time with it, whose own cost falls on small operations.

    python benchmarks/inner_loop.py [--steps 20] [--recipes small-grey ddpm-cifar10]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from machine import Busy, described
from torch.autograd.profiler_util import FunctionEvent
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from clearwater.assembly import pick_autocast
from clearwater.cli.process import keep_freed_memory
from clearwater.data import ImageSet
from clearwater.settings import resolve
from clearwater.training import Trainer

_CPU = torch.device("cpu")
_BATCHES = {"small-grey": 32, "ddpm-cifar10": 16}
_SHAPES = {"small-grey": (1, 28, 28), "ddpm-cifar10": (3, 32, 32)}
_KINDS = {  # by parts of the names of operations; the first that fits an operation or one that it is made by
    "optimiser": ("Optimizer", "linalg_vector_norm", "_foreach_norm", "_foreach_mul_", "_fused_adam"),
    "averages": ("_foreach_lerp",),
    "convolutions": ("convolution",),
    "matrix products": ("aten::mm", "addmm", "bmm", "aten::linear", "scaled_dot_product"),
    "normalisation": ("group_norm",),
    "activation": ("silu", "softmax"),
    "dropout": ("random_", "aten::ge", "as_strided"),
    "copies": ("copy_", "aten::cat", "constant_pad", "pixel_", "upsample", "fill_"),
}
_REST = "the rest: sums, losses, data, Python"
_WARM = 3  # steps


def peak(dtype: torch.dtype) -> float:
    """The most operations a second that were reached."""
    best = 0.0
    for n in (512, 1024, 2048):
        a, b = torch.ones(n, n, dtype=dtype), torch.ones(n, n, dtype=dtype)
        best = max(best, 2 * n**3 / min(_seconds(lambda a=a, b=b: a @ b, 5)))
    for channels in (64, 128, 256):
        x = torch.ones(16, channels, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        w = torch.ones(channels, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        work = 2 * 9 * channels**2 * 16 * 32 * 32
        best = max(best, work / min(_seconds(lambda x=x, w=w: F.conv2d(x, w, padding=1), 5)))
    return best


def _seconds(step: Callable[[], object], n: int) -> Iterator[float]:
    for _ in range(n):
        began = time.perf_counter()
        step()
        yield time.perf_counter() - began


def shares(step: Callable[[], object], n: int) -> dict[str, float]:
    """What part of the time each kind of operation takes, the largest first."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        for _ in range(n):
            step()
        whole = time.perf_counter() - began
    taken: Counter[str] = Counter()
    for event in profiler.events() or ():
        taken[_kind(event)] += event.self_cpu_time_total / 1e6
    taken[_REST] += whole - taken.total()
    return {kind: seconds / whole for kind, seconds in taken.most_common()}


def _kind(event: FunctionEvent) -> str:
    chain: list[str] = []
    above: FunctionEvent | None = event
    while above is not None:
        chain.append(above.name)
        above = above.cpu_parent
    for kind, parts in _KINDS.items():
        if any(part in name for name in chain for part in parts):
            return kind
    return _REST


def account(recipe: str, n: int) -> tuple[torch.dtype, dict[str, tuple[float, float, dict[str, float]]]]:
    """The precision, and of a training step and an evaluation: seconds, operations of the network, shares."""
    batch, shape = _BATCHES[recipe], _SHAPES[recipe]
    endless = {"training.batch": batch, "training.steps": 10**9, "data.channels": shape[0], "data.size": shape[1]}
    config = resolve(recipe=recipe, options=endless)
    dtype = pick_autocast(config.training.precision, _CPU) or torch.float32
    images = torch.randint(256, (256, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(config, ImageSet(images), _CPU)

    def train() -> None:
        """So many steps that the trainer reports."""
        next(events)

    denoiser = trainer.denoiser
    x, level = torch.randn(batch, *shape), denoiser.chain.levels[500]

    def evaluate() -> None:
        denoiser.network.eval()
        with torch.inference_mode():
            denoiser(x, level)
        denoiser.network.train()

    with FlopCounterMode(display=False) as forward:
        denoiser(x, level)
    with FlopCounterMode(display=False) as whole:
        torch.autograd.backward(denoiser(x, level).x_0.mean())
    denoiser.network.zero_grad()
    for _ in range(_WARM):
        evaluate()
    found = {"evaluation": (statistics.median(_seconds(evaluate, n)), forward.get_total_flops(), shares(evaluate, n))}
    events = iter(trainer)
    while trainer.step < _WARM:
        train()
    before, began = trainer.step, time.perf_counter()
    while trainer.step < before + n:
        train()
    seconds = (time.perf_counter() - began) / (trainer.step - before)
    found["training step"] = seconds, whole.get_total_flops(), shares(train, 3)
    return dtype, found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--recipes", nargs="+", choices=list(_BATCHES), default=list(_BATCHES))
    options = parser.parse_args()
    keep_freed_memory()
    busy = Busy()
    kinds = [*_KINDS, _REST]
    print(f"| | ms | GFLOP | GFLOP/s | of the peak | {' | '.join(kinds)} |")
    print("|---" * (len(kinds) + 5) + "|")
    peaks: dict[torch.dtype, float] = {}
    for recipe in options.recipes:
        dtype, found = account(recipe, options.steps)
        peaks[dtype] = max(peaks.get(dtype, 0.0), peak(dtype))
        for name, (seconds, work, parts) in found.items():
            speed = work / seconds
            figures = f"{1e3 * seconds:.1f} | {work / 1e9:.2f} | {speed / 1e9:.0f} | {speed / peaks[dtype]:.0%}"
            print(f"| {recipe}, {name} | {figures} | {' | '.join(f'{parts.get(kind, 0):.1%}' for kind in kinds)} |")
    for dtype, best in peaks.items():
        print(f"\npeak in {str(dtype).removeprefix('torch.')}: {best / 1e9:.0f} GFLOP/s")
    print(f"{described()}; other programs took {busy.share():.0%} of the processors' time")


if __name__ == "__main__":
    main()
