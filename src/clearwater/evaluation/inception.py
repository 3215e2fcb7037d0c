"""Inception-v3 in the form that the Fréchet inception distance is defined by (Heusel et al. 2017).

It is the network that TensorFlow's inception-2015-12-05 holds, which differs from later ones: averages leave out the
padding, the last block takes a maximum in place of an average, and there are 1008 classes. The weights are those that
pytorch-fid and torch-fidelity publish, converted from that file, and the names in it are theirs.

The rules of preparing an image are the original's too; with others a figure is another (Parmar et al. 2022):

- 8-bit RGB; a grey image is three equal channels;
- scaled to 299 × 299 as TensorFlow 1 does: bilinear between the pixels around i · size / 299, that is with the corners
  of pixels and not their centres laid on one another, and without smoothing first when it gets smaller; not rounded;
- (x - 128) / 128;
- features are the 2048 means of the last block's channels; probabilities, for the inception score, are of the last
  layer without its bias (Salimans et al. 2016).

torch-fidelity does the same. pytorch-fid lays the centres of pixels on one another, and torchmetrics smooths first, by
default, so their figures are of other features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clearwater.evaluation.extractors import Seen, as_colour, check_images, exactly, key_of
from clearwater.evaluation.weights_file import fit, read_tensors, sha256

__all__ = ["STANDARD", "Inception", "InceptionNetwork", "as_tensorflow_scales"]

STANDARD = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""The SHA-256 of pt_inception-2015-12-05-6726825d.pth, which torch-fidelity calls weights-inception-2015-12-05-…"""

_SIDE = 299
_CLASSES = 1008

_Size = int | tuple[int, int]


@dataclass(frozen=True)
class _Convolution:
    name: str
    channels: int
    size: _Size = 1
    stride: int = 1


_Step = tuple[_Convolution, ...]  # side by side, on the same input
_Pool = Callable[[Tensor], Tensor]
_Branch = tuple[_Pool | None, tuple[_Step, ...]]  # what pools first, and one step after another


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


def _chain(name: str, *steps: tuple[int, _Size], stride: int = 1, pool: _Pool | None = None) -> _Branch:
    """Convolutions one after another, named by their number if there are several; the last one with the stride."""
    count = len(steps)
    return pool, tuple(
        (_Convolution(f"{name}_{i}" if count > 1 else name, channels, size, stride if i == count else 1),)
        for i, (channels, size) in enumerate(steps, 1)
    )


def _forked(name: str, *steps: tuple[int, _Size]) -> _Branch:
    """Convolutions one after another, and then one along each axis, side by side."""
    last = len(steps) + 1
    fork = (_Convolution(f"{name}_{last}a", 384, (1, 3)), _Convolution(f"{name}_{last}b", 384, (3, 1)))
    before = ((_Convolution(f"{name}_{i}", channels, size),) for i, (channels, size) in enumerate(steps, 1))
    return None, (*before, fork)


def _a(pooled: int) -> tuple[_Branch, ...]:
    return (
        _chain("branch1x1", (64, 1)),
        _chain("branch5x5", (48, 1), (64, 5)),
        _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3)),
        _chain("branch_pool", (pooled, 1), pool=_average),
    )


def _b() -> tuple[_Branch, ...]:
    return (
        _chain("branch3x3", (384, 3), stride=2),
        _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3), stride=2),
        (_halved, ()),
    )


def _c(c: int) -> tuple[_Branch, ...]:
    return (
        _chain("branch1x1", (192, 1)),
        _chain("branch7x7", (c, 1), (c, (1, 7)), (192, (7, 1))),
        _chain("branch7x7dbl", (c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))),
        _chain("branch_pool", (192, 1), pool=_average),
    )


def _d() -> tuple[_Branch, ...]:
    return (
        _chain("branch3x3", (192, 1), (320, 3), stride=2),
        _chain("branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2),
        (_halved, ()),
    )


def _e(pool: _Pool) -> tuple[_Branch, ...]:
    return (
        _chain("branch1x1", (320, 1)),
        _forked("branch3x3", (384, 1)),
        _forked("branch3x3dbl", (448, 1), (384, 3)),
        _chain("branch_pool", (192, 1), pool=pool),
    )


_BLOCKS: dict[str, tuple[_Branch, ...]] = {
    "Mixed_5b": _a(32),
    "Mixed_5c": _a(64),
    "Mixed_5d": _a(64),
    "Mixed_6a": _b(),
    "Mixed_6b": _c(128),
    "Mixed_6c": _c(160),
    "Mixed_6d": _c(160),
    "Mixed_6e": _c(192),
    "Mixed_7a": _d(),
    "Mixed_7b": _e(_average),
    "Mixed_7c": _e(_maximum),
}


class _Rectified(nn.Module):
    """A convolution, its normalization, and a rectifier."""

    def __init__(self, channels: int, out: int, size: _Size, stride: int = 1, padding: _Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Block(nn.Module):
    """Branches side by side, whose outputs are one after another in the channels."""

    def __init__(self, channels: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches, self.channels = branches, 0
        for _, steps in branches:
            width = channels
            for step in steps:
                for of in step:
                    height, across = of.size if isinstance(of.size, tuple) else (of.size, of.size)
                    padding = (height // 2, across // 2) if of.stride == 1 else 0
                    self.add_module(of.name, _Rectified(width, of.channels, of.size, of.stride, padding))
                width = sum(of.channels for of in step)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for pool, steps in self.branches:
            y = x if pool is None else pool(x)
            for step in steps:
                y = torch.cat([self.get_submodule(of.name)(y) for of in step], 1)
            outputs.append(y)
        return torch.cat(outputs, 1)


class InceptionNetwork(nn.Module):
    """The network, from 8-bit images to features and to its last layer's output without the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Rectified(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Rectified(32, 32, 3)
        self.Conv2d_2b_3x3 = _Rectified(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Rectified(64, 80, 1)
        self.Conv2d_4a_3x3 = _Rectified(80, 192, 3)
        channels = 192
        for name, branches in _BLOCKS.items():
            block = _Block(channels, branches)
            self.add_module(name, block)
            channels = block.channels
        self.fc = nn.Linear(channels, _CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, shape (B, 2048), and outputs, shape (B, 1008), of RGB images, 0 … 255, shape (B, 3, H, W)."""
        x = (as_tensorflow_scales(images.float(), _SIDE) - 128) / 128
        x = _halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        features = x.mean((2, 3))
        return features, features @ self.fc.weight.T


def as_tensorflow_scales(x: Tensor, side: int) -> Tensor:
    """Images scaled to a square as TensorFlow 1's resize_bilinear does: shape (B, C, H, W) to (B, C, side, side)."""
    for dim in (3, 2):
        n = x.shape[dim]
        at = torch.arange(side, dtype=torch.float32, device=x.device) * torch.tensor(n / side, dtype=torch.float32)
        low = at.long()
        part = (at - low).view(-1, 1) if dim == 2 else at - low
        before = x.index_select(dim, low)
        x = before + (x.index_select(dim, (low + 1).clamp(max=n - 1)) - before) * part
    return x


@dataclass(frozen=True)
class Inception:
    """Inception-v3 with weights that the user names.

    Attributes:
        network: with the weights, on a device.
        name: inception-v3-fid with the standard weights, otherwise with the first digits of the file's SHA-256.
        key: of the weights and the rules.
        is_fid: whether the weights are the standard ones, by the SHA-256 of their file.
    """

    network: InceptionNetwork
    name: str
    key: str
    is_fid: bool
    dimensions: int = 2048
    classes: int = _CLASSES
    batch: int = 64

    @classmethod
    def load(cls, path: Path, device: torch.device, *, grey: bool = False) -> Inception:
        """The network with the weights in a file, `pt_inception-2015-12-05-6726825d.pth` for the FID.

        Args:
            path: of a file of tensors, .pth or .safetensors.
            device: where to put it.
            grey: whether it will see grey images, which its name then says.

        Raises:
            InputError: the file is missing, or its weights are not those of this network.
        """
        content, network = sha256(path), InceptionNetwork()
        fit(network, read_tensors(path), path, "Inception-v3 in the FID's form")
        is_fid = content == STANDARD
        said = "inception-v3-fid (pt_inception-2015-12-05" if is_fid else f"inception-v3 (weights {content[:8]}"
        name = said + ("; grey as RGB)" if grey else ")")
        return cls(network.to(device), name, key_of(("inception", 1), network.state_dict()), is_fid)

    def __call__(self, images: Tensor) -> Seen:
        """What it sees in images of 1 or 3 channels and of any size."""
        check_images(images, self.name)
        with exactly():
            features, outputs = self.network(as_colour(images.to(self.network.fc.weight.device)))
        return Seen(features.cpu(), outputs.double().softmax(1).float().cpu())
