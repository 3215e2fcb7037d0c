"""denoising-diffusion-pytorch in the race: as its README trains, and with the best that its own options offer.

Documented is the README's Trainer: learning rate 8e-5, batch 32, gradients of two batches a step, an average of decay
0.995, v on the sigmoid chain, DDIM. The README asks for mixed precision, fp16 there, which needs a GPU: without it, it
is fp32. Its mirroring is off, as it is for all in the race.

The network is its own Unet at the size of the images, 32 channels in three levels; the README's has 64 in four, for 128
pixels, and makes a few dozen steps in minutes on a processor. The best has two heads of attention instead of four,
which take much of its time there, and half the channels below five minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from machine import bf16_is_faster
from peers import Clock, Images, Rate, Trained, answers_in_float32
from torch import Tensor, nn

__all__ = ["PEERS"]

_theirs: Any = import_module("denoising_diffusion_pytorch.denoising_diffusion_pytorch")  # its types are not given
_CHANNELS, _LEVELS = 32, (1, 2, 4)
_NEVER = 10**9
_DOCUMENTED_RATE = Rate(8e-5, warm_up=1, annealed=False)


class _EnoughError(Exception):
    """The time is over."""


class _Dataset(torch.utils.data.Dataset[Tensor]):
    """In the place of its folder of files: images of the race, in [0, 1]."""

    def __init__(self, images: Images) -> None:
        self._stored = images.stored

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(self._stored[i].copy()).float() / 255


@dataclass(frozen=True)
class DenoisingDiffusion:
    """One way to use it.

    Attributes:
        objective: pred_v, pred_x0 or pred_noise.
        schedule: of the chain: sigmoid, cosine, linear.
        min_snr: whether the loss is weighted so.
        accumulated: batches of 32 a step.
        averaged_every: steps between two looks of the average at the weights.
        rate: of learning.
        bf16: whether the network computes in it.
        heads: of attention.
        thins: whether the network has half the channels in short budgets.
    """

    objective: str = "pred_v"
    schedule: str = "sigmoid"
    min_snr: bool = False
    accumulated: int = 2
    averaged_every: int = 10
    rate: Rate = _DOCUMENTED_RATE
    bf16: bool = False
    heads: int = 4
    thins: bool = False

    def _diffusion(self, network: nn.Module, shape: tuple[int, int, int], evaluations: int) -> Any:
        return _theirs.GaussianDiffusion(
            network,
            image_size=shape[1:],
            timesteps=1000,
            sampling_timesteps=evaluations,
            objective=self.objective,
            beta_schedule=self.schedule,
            min_snr_loss_weight=self.min_snr,
        )

    def _network(self, shape: tuple[int, int, int], channels: int) -> nn.Module:
        network: nn.Module = _theirs.Unet(dim=channels, dim_mults=_LEVELS, channels=shape[0], attn_heads=self.heads)
        return network

    def train(self, images: Images, clock: Clock, out: Path) -> Trained:
        """Its own trainer, ended by the clock."""
        channels = _CHANNELS // 2 if self.thins and clock.short else _CHANNELS
        network = self._network(images.shape, channels)
        with mock.patch.object(_theirs, "Dataset", return_value=_Dataset(images)):
            trainer = _theirs.Trainer(
                self._diffusion(network, images.shape, 250),
                str(out),
                train_batch_size=32,
                gradient_accumulate_every=self.accumulated,
                train_lr=self.rate.value,
                train_num_steps=_NEVER,
                ema_decay=0.995,
                ema_update_every=self.averaged_every,
                amp=self.bf16,
                mixed_precision_type="bf16",
                calculate_fid=False,
                save_and_sample_every=_NEVER,
                results_folder=str(out / "results"),
            )

        def before(*_: object) -> None:
            if clock.part >= 1:
                raise _EnoughError
            self.rate.give(trainer.opt, trainer.step, clock)

        network.register_forward_pre_hook(before)
        with suppress(_EnoughError):
            trainer.train()
        torch.save({"channels": channels, "weights": trainer.ema.ema_model.model.state_dict()}, out / "network.pt")
        seen = trainer.step * self.accumulated * 32
        return Trained(trainer.step, seen, sum(each.numel() for each in network.parameters()))

    def load(self, out: Path, shape: tuple[int, int, int]) -> nn.Module:
        """The average."""
        saved = torch.load(out / "network.pt", weights_only=True)
        network = self._network(shape, saved["channels"])
        network.load_state_dict(saved["weights"])
        return answers_in_float32(network)

    def sampler(self, network: nn.Module, shape: tuple[int, int, int], evaluations: int) -> Callable[[int], Tensor]:
        """Its own: DDIM, clipped."""
        diffusion = self._diffusion(network, shape, evaluations)

        def make(n: int) -> Tensor:
            x: Tensor = diffusion.sample(batch_size=n)
            return x * 2 - 1

        return make


def _best(objective: str) -> DenoisingDiffusion:
    return DenoisingDiffusion(
        objective,
        "cosine",
        min_snr=True,
        accumulated=1,
        averaged_every=1,
        rate=Rate(1e-3),
        bf16=bf16_is_faster(),
        heads=2,
        thins=True,
    )


PEERS = {
    "denoising-diffusion-documented": DenoisingDiffusion(),
    "denoising-diffusion-best": _best("pred_x0"),
    "denoising-diffusion-best-v": _best("pred_v"),
}
"""Its sides. That the image itself is predicted is the choice which docs/experiments.md found best in minutes."""
