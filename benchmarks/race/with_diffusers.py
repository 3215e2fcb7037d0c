"""diffusers in the race: as its documentation trains, and with the best that its own options offer.

Documented is the tutorial "Train a diffusion model": UNet2DModel, the linear chain of DDPMScheduler, noise as the
target, AdamW at 1e-4 with 500 steps of warm-up, batch 16, no average of the weights. Its sampler takes 1,000
evaluations, so DDIMScheduler, with its defaults, takes its place. The tutorial asks for fp16, which needs a GPU:
without it, it is fp32. Its mirroring is off, as it is for all in the race.

Its network is the tutorial's (two blocks a level, attention in the last level but one) at the size of the images: three
levels of 32, 64 and 64 channels. The tutorial's own has six, up to 512 wide, for 128 pixels. The best has one block a
level and no attention, which makes three times as many steps on a processor, and half the channels below five minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from machine import bf16_is_faster
from peers import Clock, Images, Rate, Trained
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PEERS"]

_library: Any = import_module("diffusers")  # its types are not given
_training: Any = import_module("diffusers.training_utils")
_DOCUMENTED_RATE = Rate(1e-4, warm_up=500, annealed=False)  # falls with a cosine over 50 epochs: not in minutes


@dataclass(frozen=True)
class Diffusers:
    """One way to use it.

    Attributes:
        prediction: epsilon, v_prediction or sample.
        schedule: of the chain.
        batch: images a step.
        rate: of learning.
        bf16: whether the network computes in it.
        averaged: whether EMAModel averages the weights.
        fast: whether the network is the one that makes more steps.
        gamma: of min-SNR, which the error in x_0 is weighted with; None for no weight.
        unipc: whether UniPC samples, on trailing steps and clipped; else DDIM as it is.
    """

    prediction: str = "epsilon"
    schedule: str = "linear"
    batch: int = 16
    rate: Rate = _DOCUMENTED_RATE
    bf16: bool = False
    averaged: bool = False
    fast: bool = False
    gamma: float | None = None
    unipc: bool = False

    @property
    def _chain(self) -> dict[str, str]:
        return {"beta_schedule": self.schedule, "prediction_type": self.prediction}

    def train(self, images: Images, clock: Clock, out: Path) -> Trained:
        """The loop of the tutorial."""
        network = _fast_network(images.shape, thin=clock.short) if self.fast else _network(images.shape)
        scheduler = _library.DDPMScheduler(num_train_timesteps=1000, **self._chain)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.rate.value)
        average = _training.EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
        network.train()
        step = 0
        while clock.part < 1:
            self.rate.give(optimizer, step, clock)
            x_0 = images.batch(self.batch)
            noise = torch.randn(x_0.shape)
            timesteps = torch.randint(0, 1000, (len(x_0),))
            x_t = scheduler.add_noise(x_0, noise, timesteps)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                predicted = network(x_t, timesteps, return_dict=False)[0]
            torch.autograd.backward(self._loss(scheduler, predicted.float(), x_0, noise, timesteps))
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if self.averaged:
                average.step(network.parameters())
            step += 1
        if self.averaged:
            average.copy_to(network.parameters())
        network.save_pretrained(out / "network")
        return Trained(step, step * self.batch, sum(each.numel() for each in network.parameters()))

    def _loss(self, scheduler: Any, predicted: Tensor, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        target = {"epsilon": noise, "sample": x_0}.get(self.prediction)
        if target is None:
            target = scheduler.get_velocity(x_0, noise, timesteps)
        if self.gamma is None:
            return F.mse_loss(predicted, target)
        snr: Tensor = _training.compute_snr(scheduler, timesteps)
        of_x_0 = {"epsilon": 1 / snr, "sample": torch.ones_like(snr), "v_prediction": 1 / (snr + 1)}[self.prediction]
        errors = F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
        return (errors * of_x_0 * snr.clamp(max=self.gamma)).mean()

    def load(self, out: Path, shape: tuple[int, int, int]) -> nn.Module:
        """As it was saved."""
        network: nn.Module = _library.UNet2DModel.from_pretrained(out / "network")
        return network

    def sampler(self, network: nn.Module, shape: tuple[int, int, int], evaluations: int) -> Callable[[int], Tensor]:
        """The loop of its pipelines."""
        scheduler = _library.DDIMScheduler(num_train_timesteps=1000, **self._chain)
        if self.unipc:
            clipped = {"thresholding": True, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0}
            scheduler = _library.UniPCMultistepScheduler(**self._chain, **clipped, timestep_spacing="trailing")

        def make(n: int) -> Tensor:
            scheduler.set_timesteps(evaluations)
            x = torch.randn(n, *shape)
            for t in scheduler.timesteps:
                predicted = network(x, t, return_dict=False)[0].float()
                x = scheduler.step(predicted, t, x, return_dict=False)[0]
            return x

        return make


def _network(shape: tuple[int, int, int]) -> Any:
    return _library.UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


def _fast_network(shape: tuple[int, int, int], *, thin: bool) -> Any:
    return _library.UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=1,
        block_out_channels=(16, 32, 64) if thin else (32, 64, 64),
        norm_num_groups=16 if thin else 32,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
    )


def _best(prediction: str) -> Diffusers:
    return Diffusers(
        prediction,
        "squaredcos_cap_v2",
        batch=32,
        rate=Rate(1e-3),
        bf16=bf16_is_faster(),
        averaged=True,
        fast=True,
        gamma=5.0,
        unipc=True,
    )


PEERS = {
    "diffusers-documented": Diffusers(),
    "diffusers-best": _best("sample"),
    "diffusers-best-v": _best("v_prediction"),
    "diffusers-best-epsilon": _best("epsilon"),
}
"""Its sides. That the image itself is predicted is the choice which docs/experiments.md found best in minutes."""
