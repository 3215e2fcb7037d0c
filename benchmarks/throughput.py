"""Training and sampling throughput of the CIFAR-10 U-Net beside diffusers' model of the same shape.

Both sides run in this one process, alternating; every figure is a median of rounds, and what counts is
the ratio of two figures of one row. "default" is what a user gets who changes nothing: diffusers in
float32, clearwater as `clearwater train` runs it. "best" is the fastest setting that was found for each.

    python benchmarks/throughput.py [--batch 16] [--rounds 5] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearwater.assembly import pick_autocast
from clearwater.cli.process import keep_freed_memory
from clearwater.networks import UNet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import UNet2DModel


@dataclass
class Side:
    """One network in one setting."""

    name: str
    network: nn.Module
    call: Callable[[nn.Module, Tensor, Tensor], Tensor]
    autocast: torch.dtype | None
    fused: bool
    channels_last_input: bool = False

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=2e-4, fused=True if self.fused else None)

    def forward(self, x: Tensor, time_: Tensor) -> Tensor:
        if self.channels_last_input:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            return self.call(self.network, x, time_)

    def train_step(self, x: Tensor, time_: Tensor) -> None:
        self.network.train()
        loss = F.mse_loss(self.forward(x, time_).float(), x)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sample_step(self, x: Tensor, time_: Tensor) -> None:
        self.network.eval()
        with torch.inference_mode():
            self.forward(x, time_)


def diffusers_network() -> UNet2DModel:
    """The network of google/ddpm-cifar10-32, by its published configuration."""
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        dropout=0.1,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


def sides(device: torch.device) -> list[Side]:
    """The settings to compare, on `device`."""

    def ours(network: nn.Module, x: Tensor, time_: Tensor) -> Tensor:
        return network(x, time_)

    def theirs(network: nn.Module, x: Tensor, time_: Tensor) -> Tensor:
        return network(x, time_ * 1000).sample

    last = torch.channels_last
    return [
        Side("clearwater fp32", UNet().place(device), ours, None, True),
        Side("clearwater best (its default)", UNet().place(device), ours, pick_autocast("auto", device), True),
        Side("diffusers fp32 (its default)", diffusers_network().to(device), theirs, None, False),
        Side("diffusers bf16", diffusers_network().to(device), theirs, torch.bfloat16, True),
        Side(
            "diffusers bf16 channels-last",
            diffusers_network().to(device, memory_format=last),
            theirs,
            torch.bfloat16,
            True,
            channels_last_input=True,
        ),
    ]


def measure(every: list[Side], batch: int, rounds: int, device: torch.device, mode: str) -> dict[str, list[float]]:
    """Images per second of each side, one figure a round, the sides in turn."""
    x, time_ = torch.randn(batch, 3, 32, 32, device=device), torch.rand(batch, device=device)
    repeats = 20 if device.type == "cuda" else 1
    speeds: dict[str, list[float]] = {side.name: [] for side in every}
    for round_ in range(rounds + 2):  # the first two warm up
        for side in every:
            step = side.train_step if mode == "training" else side.sample_step
            _wait(device)
            began = time.perf_counter()
            for _ in range(repeats):
                step(x, time_)
            _wait(device)
            if round_ >= 2:
                speeds[side.name].append(batch * repeats / (time.perf_counter() - began))
    return speeds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    keep_freed_memory()  # as `clearwater train` does; both sides have it here, so it favours neither
    every = sides(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {name}, batch {options.batch}")
    result: dict[str, dict[str, float]] = {}
    for mode in ("training", "sampling"):
        speeds = {
            k: statistics.median(v) for k, v in measure(every, options.batch, options.rounds, device, mode).items()
        }
        default = speeds["diffusers fp32 (its default)"]
        best = max(speed for side, speed in speeds.items() if side.startswith("diffusers"))
        print(f"\n{mode:34} images/s   / their default   / their best")
        for side, speed in speeds.items():
            print(f"{side:34} {speed:8.2f}   {speed / default:15.2f}   {speed / best:12.2f}")
        result[mode] = speeds
    print(json.dumps(result))


if __name__ == "__main__":
    main()
