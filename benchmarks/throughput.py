"""Training and sampling throughput of the CIFAR-10 U-Net beside diffusers' model of the same shape.

Every side has a process of its own, set up as its users have it, and the processes take turns, one step at a
time; every figure is a median, and what counts is the ratio of two figures of one run. "default" is what a
user gets who changes nothing: diffusers in float32, clearwater with the precision, layout and allocator that
`clearwater train` sets. "best" is the fastest setting that was found for each; the last row lends diffusers
clearwater's setting of the allocator. On a processor that is slower in bf16 than in float32 nothing runs in it, as
`clearwater train` would not. A training step is forward, backward, clipping and Adam, without data
and averaging; a sampling step is one evaluation of the network.

    python benchmarks/throughput.py [--batch 16] [--rounds 7] [--device cpu|cuda]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from machine import bf16_is_faster
from torch import Tensor, nn
from torch.nn import functional as F

from clearwater.cli.process import keep_freed_memory
from clearwater.networks import UNet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Setting:
    """One network, and how it is run."""

    ours: bool
    bf16: bool
    channels_last: bool = False
    fused_adam: bool = True
    keeps_memory: bool = False


SIDES = {
    "clearwater fp32": Setting(ours=True, bf16=False, keeps_memory=True),
    "clearwater (its default, and best)": Setting(ours=True, bf16=True, keeps_memory=True),
    "diffusers fp32 (its default)": Setting(ours=False, bf16=False, fused_adam=False),
    "diffusers bf16": Setting(ours=False, bf16=True),
    "diffusers bf16 channels-last": Setting(ours=False, bf16=True, channels_last=True),
    "diffusers bf16, our allocator": Setting(ours=False, bf16=True, keeps_memory=True),
}
IN_FLOAT32 = {
    "clearwater (its default, and best)": Setting(ours=True, bf16=False, keeps_memory=True),
    "clearwater, channels-last": Setting(ours=True, bf16=False, channels_last=True, keeps_memory=True),
    "diffusers fp32 (its default)": Setting(ours=False, bf16=False, fused_adam=False),
    "diffusers fp32, fused Adam": Setting(ours=False, bf16=False),
    "diffusers fp32 channels-last": Setting(ours=False, bf16=False, channels_last=True),
    "diffusers fp32, our allocator": Setting(ours=False, bf16=False, keeps_memory=True),
}


def serve(setting: Setting, device_name: str, batch: int, connection: Connection) -> None:
    """Runs in a process of its own: makes a step of the kind that it is asked for, and answers with its seconds."""
    if setting.keeps_memory:
        keep_freed_memory()
    device = torch.device(device_name)
    network: nn.Module = UNet().place(device) if setting.ours else diffusers_network().to(device)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    if setting.channels_last:
        network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=True if setting.fused_adam else None)
    x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=layout)
    time_ = torch.rand(batch, device=device)

    def forward() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.bf16):
            y: Tensor = network(x, time_) if setting.ours else network(x, time_ * 1000).sample
        return y.float()

    def train() -> None:
        network.train()
        torch.autograd.backward(F.mse_loss(forward(), x))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def sample() -> None:
        network.eval()
        with torch.inference_mode():
            forward()

    step = {"training": train, "sampling": sample}
    repeats = 20 if device.type == "cuda" else 1
    while mode := connection.recv():
        _wait(device)
        began = time.perf_counter()
        for _ in range(repeats):
            step[mode]()
        _wait(device)
        connection.send((time.perf_counter() - began) / repeats)


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


def measure(connections: dict[str, Connection], batch: int, rounds: int, mode: str) -> dict[str, float]:
    """Images per second of each side, the median of the rounds, the sides in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in connections}
    for round_ in range(rounds + 2):  # the first two warm up
        for name, connection in connections.items():
            connection.send(mode)
            seconds = connection.recv()
            if round_ >= 2:
                speeds[name].append(batch / seconds)
    return {name: statistics.median(values) for name, values in speeds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Measures and prints a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {name}, batch {options.batch}")
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    for side, setting in (SIDES if options.device == "cuda" or bf16_is_faster() else IN_FLOAT32).items():
        connections[side], theirs = context.Pipe()
        context.Process(target=serve, args=(setting, options.device, options.batch, theirs), daemon=True).start()
    result: dict[str, dict[str, float]] = {}
    for mode in ("training", "sampling"):
        speeds = measure(connections, options.batch, options.rounds, mode)
        default = speeds["diffusers fp32 (its default)"]
        best = max(speed for side, speed in speeds.items() if side.startswith("diffusers") and "our" not in side)
        print(f"\n{mode:36} images/s   / their default   / their best")
        for side, speed in speeds.items():
            print(f"{side:36} {speed:8.2f}   {speed / default:15.2f}   {speed / best:12.2f}")
        result[mode] = speeds
    for connection in connections.values():
        connection.send(None)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
