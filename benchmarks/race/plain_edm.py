"""A loop such as one writes in an afternoon: EDM (Karras et al. 2022, arXiv:2206.00364) in torch alone.

The network sees pixels folded 2 × 2 into channels; it is a U-Net of two levels, 48 channels and 2.2 M parameters. Its
preconditioning, its weight and its noise levels are the paper's (Table 1), and so is Heun's sampler without churn
(Algorithm 1). bf16 where it is fast, batch 64, Adam annealed to the budget, an average of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from machine import bf16_is_faster
from peers import Clock, Images, Rate, Trained
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["PEERS"]

_DATA = 0.5  # σ_data
_LOWEST, _HIGHEST, _RHO = 0.002, 80.0, 7.0


class _Block(nn.Module):
    """A residual block that is told the level of noise."""

    def __init__(self, before: int, after: int, told: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(before // 16, before), nn.Conv2d(before, after, 3, padding=1)
        self.tell = nn.Linear(told, 2 * after)
        self.norm_again, self.conv_again = nn.GroupNorm(after // 16, after), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.conv_again.weight)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv(F.silu(self.norm(x)))
        scale, shift = self.tell(level)[..., None, None].chunk(2, dim=1)
        h = self.conv_again(F.silu(self.norm_again(h) * (1 + scale) + shift))
        return self.skip(x) + h  # type: ignore[no-any-return]


class _UNet(nn.Module):
    """F(x; c_noise) of the paper."""

    def __init__(self, colours: int, width: int = 48, told: int = 192) -> None:
        super().__init__()
        wide = 2 * width
        self.first = nn.Conv2d(4 * colours, width, 3, padding=1)
        self.level = nn.Sequential(nn.Linear(64, told), nn.SiLU(), nn.Linear(told, told), nn.SiLU())
        self.fine = nn.ModuleList(_Block(width, width, told) for _ in range(2))
        self.down = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(_Block(wide, wide, told) for _ in range(7))
        self.join = _Block(2 * wide, wide, told)
        self.up = nn.Conv2d(wide, width, 3, padding=1)
        self.last = nn.ModuleList(_Block(2 * width, width, told) for _ in range(3))
        self.out = nn.Sequential(nn.GroupNorm(3, width), nn.SiLU(), nn.Conv2d(width, 4 * colours, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * torch.exp(torch.linspace(math.log(0.3), math.log(30.0), 32))
        level = self.level(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.first(F.pixel_unshuffle(x, 2))
        kept = [h]
        for block in self.fine:
            h = block(h, level)
            kept.append(h)
        h = low = self.down(h)
        for block in self.coarse:
            h = block(h, level)
        h = self.join(torch.cat([h, low], dim=1), level)
        h = self.up(F.interpolate(h, kept[0].shape[-2:]))
        for block in self.last:
            h = block(torch.cat([h, kept.pop()], dim=1), level)
        return F.pixel_shuffle(self.out(h), 2)


class _Denoiser(nn.Module):
    """D(x; σ), equation 7, in float32 around the network."""

    def __init__(self, colours: int) -> None:
        super().__init__()
        self.network = _UNet(colours)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None, None, None]
        total = (s**2 + _DATA**2).sqrt()
        answer: Tensor = self.network(x / total, sigma.log() / 4).float()
        return _DATA**2 / total**2 * x + s * _DATA / total * answer


@dataclass(frozen=True)
class PlainEDM:
    """The loop and its settings."""

    batch: int = 64
    rate: Rate = field(default_factory=lambda: Rate(2e-3))
    bf16: bool = field(default_factory=bf16_is_faster)

    def train(self, images: Images, clock: Clock, out: Path) -> Trained:
        """The loss of equation 8 with the paper's weight, on log-normal levels."""
        denoiser = _Denoiser(images.shape[0])
        average = {name: value.clone() for name, value in denoiser.state_dict().items()}
        optimizer = torch.optim.Adam(denoiser.parameters(), lr=self.rate.value, betas=(0.9, 0.99))
        step = 0
        while clock.part < 1:
            self.rate.give(optimizer, step, clock)
            x = images.batch(self.batch)
            sigma = torch.exp(1.2 * torch.randn(len(x)) - 1.2)
            noisy = x + sigma[:, None, None, None] * torch.randn(x.shape)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                estimate = denoiser(noisy, sigma)
            weight = (sigma**2 + _DATA**2) / (sigma * _DATA) ** 2
            torch.autograd.backward((weight * (estimate - x).square().mean(dim=(1, 2, 3))).mean())
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            decay = min(0.999, 1 - 1 / (1 + 0.1 * step))  # the last tenth of the steps, while these are few
            now = denoiser.state_dict()
            torch._foreach_lerp_([average[name] for name in now], list(now.values()), 1 - decay)
        torch.save(average, out / "network.pt")
        return Trained(step, step * self.batch, sum(each.numel() for each in denoiser.parameters()))

    def load(self, out: Path, shape: tuple[int, int, int]) -> nn.Module:
        """The average."""
        denoiser = _Denoiser(shape[0])
        denoiser.load_state_dict(torch.load(out / "network.pt", weights_only=True))
        return denoiser

    def sampler(self, network: nn.Module, shape: tuple[int, int, int], evaluations: int) -> Callable[[int], Tensor]:
        """Heun's method in as many steps as the evaluations are enough for: two each, one at the last."""
        steps = (evaluations + 1) // 2
        low, high = _LOWEST ** (1 / _RHO), _HIGHEST ** (1 / _RHO)
        sigmas = [float(s) for s in torch.linspace(high, low, steps, dtype=torch.float64) ** _RHO] + [0.0]

        def slope(x: Tensor, sigma: float) -> Tensor:
            denoised: Tensor = network(x, torch.full((len(x),), sigma))
            return (x - denoised.clamp(-1, 1)) / sigma

        def make(n: int) -> Tensor:
            x = sigmas[0] * torch.randn(n, *shape)
            for now, then in pairwise(sigmas):
                first = slope(x, now)
                ahead = x + (then - now) * first
                x = ahead if then == 0 else x + (then - now) * (first + slope(ahead, then)) / 2
            return x

        return make


PEERS = {"plain-edm": PlainEDM()}
"""Its side."""
