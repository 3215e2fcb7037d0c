"""The U-Net of Ho et al. 2020, at any width, depth and image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clearwater.errors import InputError
from clearwater.networks.blocks import (
    Attention,
    Downsample,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
    normalization,
    zeroed,
)

__all__ = ["UNet"]


class _Stage(nn.Module):
    """A residual block and the attention that may follow it."""

    def __init__(
        self, inputs: int, outputs: int, features: int, dropout: float, group_size: int | None, heads: int
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs, outputs, features, dropout, group_size)
        self.attention = Attention(outputs, heads, group_size) if heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.attention(self.block(x, embedding))
        return out


class UNet(nn.Module):
    """``(x_t, time[, labels]) → y``: shapes (B, image_channels, H, W), (B,) and (B,) to (B, out_channels, H, W).

    With its defaults it is the network of the CIFAR-10 model of Ho et al. 2020 (35.7 M parameters).
    Images whose sides the levels do not divide are padded with zeros inside and cropped again.

    Args:
        image_channels: channels of the image.
        channels: width of the first level.
        multipliers: width of each level as a multiple of `channels`; each level halves the size.
        blocks: residual blocks a level on the way down (one more on the way up).
        attention: the levels, 0 = the finest, whose blocks are followed by self-attention.
        heads: attention heads.
        dropout: dropout rate inside the residual blocks.
        group_size: channels a group of the normalisations; None for 32 groups, as in the paper.
        patch: pixels are folded ``patch × patch`` into channels at the input and unfolded at the
            output, so that the network works at 1/patch of the size (1: as in the paper).
        out_channels: channels of y; None for the image's. A learned range takes twice as many.
        classes: how many classes `labels` may name; None for a network that knows no classes. The label after the
            last class stands for none.
        augmented: how many numbers say how an image was augmented; 0 for a network that is never told.

    Attributes:
        recompute: whether the backward pass computes the inside of each stage again instead of keeping it.
    """

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        heads: int = 1,
        dropout: float = 0.1,
        group_size: int | None = None,
        patch: int = 1,
        out_channels: int | None = None,
        classes: int | None = None,
        augmented: int = 0,
    ) -> None:
        super().__init__()
        if any(level not in range(len(multipliers)) for level in attention):
            raise InputError(
                f"Attention can stand at levels 0 to {len(multipliers) - 1} of this U-Net, not at {list(attention)}."
            )
        if channels < 4:
            raise InputError(f"A U-Net has at least 4 channels, so that it can tell times apart, not {channels}.")
        if heads < 1 or any(channels * multiplier % heads for multiplier in multipliers):
            raise InputError(f"{channels} channels cannot be divided among {heads} attention heads.")
        features = 4 * channels
        self.patch = patch
        self.recompute = False
        self.group_size = group_size
        self.divisor = patch * 2 ** (len(multipliers) - 1)
        pixels = image_channels * patch**2
        self.time = TimeEmbedding(channels, features)
        self.classes = classes
        self.label = None if classes is None else nn.Embedding(classes + 1, features)
        self.augmented = nn.Linear(augmented, features, bias=False) if augmented else None
        self.first = nn.Conv2d(pixels, channels, 3, padding=1)

        def stage(inputs: int, outputs: int, attends: bool) -> _Stage:
            return _Stage(inputs, outputs, features, dropout, group_size, heads if attends else 0)

        self.down = nn.ModuleList()
        width, skips = channels, [channels]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.down.append(stage(width, channels * multiplier, level in attention))
                width = channels * multiplier
                skips.append(width)
            if level < len(multipliers) - 1:
                self.down.append(Downsample(width))
                skips.append(width)

        self.middle_1 = stage(width, width, True)
        self.middle_2 = stage(width, width, False)

        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(stage(width + skips.pop(), channels * multiplier, level in attention))
                width = channels * multiplier
            if level:
                self.up.append(Upsample(width))

        self.norm = normalization(width, group_size)
        outputs = image_channels if out_channels is None else out_channels
        self.last = zeroed(nn.Conv2d(width, outputs * patch**2, 3, padding=1))

    def place(self, device: torch.device) -> UNet:
        """Moves the network to `device`, in the memory layout that is fastest there.

        Channels-last, except on a processor with groups whose width is no multiple of 16: torch's
        normalisation has a slow backward pass for those (docs/benchmarks.md).
        """
        narrow = self.group_size is None or self.group_size % 16 != 0
        slow = device.type == "cpu" and narrow
        layout = torch.contiguous_format if slow else torch.channels_last
        for parameter in self.to(device).parameters():
            if parameter.ndim == 4:
                # A kernel of one pixel counts as both layouts, and would keep the strides that its gradient lacks.
                parameter.data = torch.empty_like(parameter.data, memory_format=layout).copy_(parameter.data)
        return self

    def _embedded(self, time: Tensor, labels: Tensor | None, augmented: Tensor | None) -> Tensor:
        embedding: Tensor = self.time(time)
        if augmented is not None:
            if self.augmented is None:
                raise InputError("This network is not told of augmentation: train it with data.augment above 0.")
            embedding = embedding + self.augmented(augmented)  # zeros, or nothing told, say as it is
        if self.label is None:
            if labels is not None:
                raise InputError("This network knows no classes: train it with labels, or leave the classes out.")
            return embedding
        if labels is None:
            assert self.classes is not None
            labels = torch.full((len(time),), self.classes, device=time.device)
        of_class: Tensor = self.label(labels)
        return embedding + of_class

    def _through(self, stage: nn.Module, embedding: Tensor, *parts: Tensor) -> Tensor:
        """A stage's output for these parts of its input, side by side."""

        def computed(embedding: Tensor, *parts: Tensor) -> Tensor:
            out: Tensor = stage(torch.cat(parts, 1) if len(parts) > 1 else parts[0], embedding)
            return out

        if self.recompute and torch.is_grad_enabled():
            again: Tensor = checkpoint(computed, embedding, *parts, use_reentrant=False)
            return again
        return computed(embedding, *parts)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, augmented: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.divisor, 0, -height % self.divisor))
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)
        # Every residual block begins with SiLU of the embedding; it is the same for all.
        embedding = F.silu(self._embedded(time, labels, augmented))
        h = self.first(x)
        skips = [h]
        for module in self.down:
            h = self._through(module, embedding, h) if isinstance(module, _Stage) else module(h)
            skips.append(h)
        h = self._through(self.middle_2, embedding, self._through(self.middle_1, embedding, h))
        for module in self.up:
            h = self._through(module, embedding, h, skips.pop()) if isinstance(module, _Stage) else module(h)
        y: Tensor = self.last(F.silu(self.norm(h)))
        if self.patch > 1:
            y = F.pixel_shuffle(y, self.patch)
        # Nothing is cut from what was not padded: a view would be, to who counts on the output's own memory.
        return y if y.shape[-2:] == (height, width) else y[..., :height, :width]
