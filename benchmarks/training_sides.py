"""The sides of training.py: each trains as its users do, and is timed by the calls of its network alone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SIDES", "Clock", "EnoughError", "Side", "importable"]

_BATCHES = {"small": 32, "ddpm": 16}
_SIDE = 32
_WORKERS = 2


class EnoughError(Exception):
    """Training has been timed for long enough."""


@dataclass
class Clock:
    """Counts the steps of a network that is called once in each.

    Attributes:
        began: when the process was started, on the monotonic clock.
        warm_up, seconds: from the first step to the time that counts, and how long that is.
        of_side: what the side says of itself.
    """

    began: float
    warm_up: float
    seconds: float
    of_side: dict[str, str] = field(default_factory=dict)
    _batch: int = 0
    _ticks: list[float] = field(default_factory=list)

    def watch(self, network: nn.Module, batch: int, enough: Callable[[], None]) -> None:
        """Counts this network's calls from now on; `enough` ends training."""
        self._batch = batch

        def tick(*_: object) -> None:
            if torch.is_grad_enabled():  # a call of a step
                self._ticks.append(time.monotonic())
                if self._ticks[-1] > self._ticks[0] + self.warm_up + self.seconds and len(self._ticks) > 3:
                    enough()

        network.register_forward_pre_hook(tick)

    def told(self) -> dict[str, Any]:
        """Images a second after the warm-up, seconds to the end of the first step, steps that were timed."""
        after = self._ticks[0] + self.warm_up
        counted = [tick for tick in self._ticks if tick >= after]
        steps = len(counted) - 1
        return {
            "speed": self._batch * steps / (counted[-1] - counted[0]),
            "first_step": self._ticks[1] - self.began,
            "steps": steps,
            "of_side": self.of_side,
        }


@dataclass(frozen=True)
class Side:
    """A way to train.

    Attributes:
        package: what has to be importable.
        train: trains a network of this name on this folder, writes into another, and is ended by the clock.
    """

    package: str
    train: Callable[[str, Path, Path, Clock], None]


def importable(python: str, side: str) -> bool:
    """Whether this Python has what the side needs."""
    return not subprocess.run([python, "-c", f"import {SIDES[side].package}"], capture_output=True).returncode


def _enough() -> None:
    raise EnoughError


def _describe(clock: Clock, network: nn.Module, *inputs: Tensor) -> None:
    """Says how large a network is, and what one image costs in its forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(*inputs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    clock.of_side |= {
        "torch": torch.__version__,
        "parameters": f"{parameters / 1e6:.2f} M",
        "gflop": f"{counter.get_total_flops() / 1e9:.3f}",
    }


# --- clearwater


def _clearwater(precision: str, name: str, folder: Path, out: Path, clock: Clock) -> None:
    """The library's trainer with what `clearwater train` sets, averages, copies of averages, log and checkpoints."""
    from clearwater.cli.process import keep_freed_memory
    from clearwater.data import default_cache, load_images
    from clearwater.settings import resolve
    from clearwater.training import Progress, RunFolder, Trainer
    from clearwater.world import world

    keep_freed_memory()
    settings = {
        "data.size": _SIDE,
        "data.channels": 3,
        "data.flip": True,
        "training.batch": _BATCHES[name],
        "training.minutes": 60,
        "training.precision": precision,
        "training.ema_snapshots": 16,
    }
    config = resolve(recipe="small-grey" if name == "small" else "ddpm-cifar10", options=settings)
    with world() as processes:
        with processes.after_the_first():
            images = load_images(folder, size=(_SIDE, _SIDE), cache=default_cache())
        with processes.after_the_first():
            run = RunFolder.create(out / "run", config)
        trainer = Trainer(config, images, torch.device("cpu"), run, world=processes)
        network = trainer.denoiser.network
        _describe(clock, network, torch.zeros(1, 3, _SIDE, _SIDE), torch.zeros(1))
        clock.watch(network, config.training.batch, trainer.stop)
        for event in trainer:
            if isinstance(event, Progress) and processes.first:
                run.log({"step": event.step, "seconds": event.seconds, "loss": event.loss})


# --- diffusers


class _Folded(nn.Module):
    """UNet2DModel on images whose pixels are folded 2 × 2 into channels, as the recipe small-grey has it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        (y,) = self.network(F.pixel_unshuffle(x, 2), t, return_dict=False)
        return (F.pixel_shuffle(y, 2),)


class _Pictures(torch.utils.data.Dataset[Tensor]):
    """The images of a folder, mirrored half of the time, in [-1, 1]: what torchvision's transforms do, and faster."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> Tensor:
        import numpy as np
        from PIL import Image

        with Image.open(self._paths[i]) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32)
        x = torch.from_numpy(pixels).permute(2, 0, 1).div(127.5).sub(1)
        return x.flip(-1) if torch.rand(()) < 0.5 else x


def _unet_2d(name: str) -> nn.Module:
    from diffusers import UNet2DModel

    shared = {"attention_head_dim": None, "norm_eps": 1e-6, "downsample_padding": 0}
    if name == "ddpm":
        return UNet2DModel(
            sample_size=_SIDE,
            layers_per_block=2,
            block_out_channels=(128, 256, 256, 256),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            dropout=0.1,
            **shared,
        )
    network = UNet2DModel(
        sample_size=_SIDE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=2,
        **shared,
    )
    return _Folded(network)


def _diffusers(bf16: bool, name: str, folder: Path, out: Path, clock: Clock) -> None:
    """The loop of the documentation's training example, with the average of the weights that its script has."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel

    batch = _BATCHES[name]
    loader = torch.utils.data.DataLoader(
        _Pictures(folder), batch_size=batch, shuffle=True, drop_last=True, num_workers=_WORKERS
    )
    network = _unet_2d(name)
    _describe(clock, network, torch.zeros(1, 3, _SIDE, _SIDE), torch.zeros(1))
    clock.watch(network, batch, _enough)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rate = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=500, num_training_steps=100_000)
    ema = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    network.train()
    try:
        while True:
            for x_0 in loader:
                noise = torch.randn(x_0.shape)
                timesteps = torch.randint(0, 1000, (len(x_0),), dtype=torch.int64)
                x_t = scheduler.add_noise(x_0, noise, timesteps)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    predicted = network(x_t, timesteps, return_dict=False)[0]
                loss = F.mse_loss(predicted.float(), noise)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
                ema.step(network.parameters())
                loss.detach().item()  # for its progress bar
    except EnoughError:
        return


# --- denoising-diffusion-pytorch


def _denoising_diffusion(bf16: bool, name: str, folder: Path, out: Path, clock: Clock) -> None:
    """Its trainer, as its README shows it; without its samples and its Fréchet distance on the way."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    network = Unet(dim=28, dim_mults=(1, 2)) if name == "small" else Unet(dim=64, dim_mults=(1, 2, 4, 8))
    diffusion = GaussianDiffusion(network, image_size=_SIDE, timesteps=1000, sampling_timesteps=250)
    trainer = Trainer(
        diffusion,
        str(folder),
        train_batch_size=_BATCHES[name],
        train_lr=8e-5,
        train_num_steps=10**9,
        gradient_accumulate_every=1,
        ema_decay=0.995,
        amp=bf16,
        mixed_precision_type="bf16",
        calculate_fid=False,
        save_and_sample_every=10**9,
        results_folder=str(out / "results"),
    )
    _describe(clock, network, torch.zeros(1, 3, _SIDE, _SIDE), torch.zeros(1))
    clock.watch(network, _BATCHES[name], _enough)
    try:
        trainer.train()
    except EnoughError:
        return


SIDES = {
    "clearwater (its default: bf16 where it is fast)": Side("clearwater", partial(_clearwater, "auto")),
    "clearwater, fp32": Side("clearwater", partial(_clearwater, "fp32")),
    "diffusers' loop, fp32 (its default)": Side("diffusers", partial(_diffusers, False)),
    "diffusers' loop, bf16": Side("diffusers", partial(_diffusers, True)),
    "denoising-diffusion-pytorch, fp32 (its default)": Side(
        "denoising_diffusion_pytorch", partial(_denoising_diffusion, False)
    ),
    "denoising-diffusion-pytorch, bf16": Side("denoising_diffusion_pytorch", partial(_denoising_diffusion, True)),
}
"""All sides by name; clearwater as its users have it comes first."""
