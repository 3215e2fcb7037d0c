"""What a sampler costs beside its network, and the whole loop beside diffusers' loop.

50 steps of the CIFAR-10 U-Net. First the share of the time that is spent outside the network, by a clock around each
call of it; then whole loops in turn: ours, diffusers' scheduler around the same network with the same settings, and
diffusers as its user has it who changes nothing (its own network of the same shape, in float32).

    python benchmarks/sampling_loop.py [--batch 16] [--steps 50] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable

import torch
from throughput import diffusers_network
from torch import Tensor, nn

from clearwater import Clipped, Eps, FixedSmall, NetworkDenoiser, UNet, chain
from clearwater.cli.process import keep_freed_memory
from clearwater.randomness import ImageNoise
from clearwater.sampling import sampler, sampling_states, trailing

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

SAMPLERS = {
    "ancestral": lambda: DDPMScheduler(timestep_spacing="trailing"),
    "ddim": lambda: DDIMScheduler(timestep_spacing="trailing"),
    "dpm++2m": lambda: DPMSolverMultistepScheduler(timestep_spacing="trailing"),
}


class Timed(nn.Module):
    """A network, and the seconds that were spent in it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, x: Tensor, time_: Tensor) -> Tensor:
        began = time.perf_counter()
        y: Tensor = self.network(x, time_)
        self.seconds += time.perf_counter() - began
        return y


def ours(network: nn.Module, name: str, batch: int, steps: int) -> Tensor:
    """Our loop: clipped predictions, noise of its own for each image."""
    levels = chain("linear", 1000)
    denoiser = Clipped(NetworkDenoiser(network, levels, Eps(), FixedSmall(), autocast=torch.bfloat16))
    noise = ImageNoise(0, range(batch), (3, 32, 32), "cpu")
    return deque(sampling_states(denoiser, noise, trailing(levels, steps), sampler(name)), maxlen=1).pop().x


@torch.inference_mode()
def theirs(network: Callable[[Tensor, Tensor], Tensor], name: str, batch: int, steps: int) -> Tensor:
    """The loop that diffusers' own pipelines have."""
    scheduler = SAMPLERS[name]()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        y = network(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(y, t, x, generator=generator, return_dict=False)[0]
    return x


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, {options.steps} steps")
    network = UNet().place(torch.device("cpu")).eval()
    default = diffusers_network().eval()

    def same(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = network(x, (t.float() / 1000).expand(len(x)))
        return y.float()

    def untouched(x: Tensor, t: Tensor) -> Tensor:
        y: Tensor = default(x, t).sample
        return y

    for name in SAMPLERS:
        shares, seconds = [], {"ours": [], "theirs": [], "default": []}
        for _ in range(options.rounds):
            timed = Timed(network)
            began = time.perf_counter()
            ours(timed, name, options.batch, options.steps)
            seconds["ours"].append(time.perf_counter() - began)
            shares.append(1 - timed.seconds / seconds["ours"][-1])
            for side, function in (("theirs", same), ("default", untouched)):
                began = time.perf_counter()
                theirs(function, name, options.batch, options.steps)
                seconds[side].append(time.perf_counter() - began)
        median = {side: statistics.median(values) for side, values in seconds.items()}
        print(
            f"{name:10} outside the network {statistics.median(shares):.2%}; {median['ours']:.1f} s; "
            f"diffusers' loop, same network and settings / ours {median['theirs'] / median['ours']:.3f}; "
            f"its defaults / ours {median['default'] / median['ours']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
