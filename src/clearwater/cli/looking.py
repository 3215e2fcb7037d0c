"""Pictures of a model for its run's page: samples, how they come out of noise, what training images are nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from clearwater.chains import Chain
    from clearwater.config import DataConfig
    from clearwater.data import ImageSet
    from clearwater.data.batches import Images
    from clearwater.denoisers import NetworkDenoiser
    from clearwater.sampling import StepState

__all__ = ["PREVIEWED", "STEPS", "Previews", "drawing_seconds", "forward_images", "forward_picture", "nearest_picture"]

PREVIEWED, STEPS = 16, 20
_ROWS = 4  # of a strip on the page
_DRAWN = 4e6  # pixel values a second, of a strip
_AT_ONCE = 4096  # training images


@dataclass(frozen=True)
class Previews:
    """Samples out of the same noise each time, one of each class in turn if the model is told classes.

    They are the first images of `clearwater sample`, with `--classes all` if there are classes.

    Attributes:
        images: uint8, shape (16, C, H, W).
        strip: how some of them come out of noise, if that was asked for.
    """

    images: Tensor
    strip: Image.Image | None = None

    @classmethod
    def of(
        cls,
        model: NetworkDenoiser,
        data: DataConfig,
        shape: tuple[int, int, int],
        device: torch.device,
        *,
        strip: bool = False,
    ) -> Previews:
        """Makes them.

        Args:
            model: with the averaged weights.
            data: of the run.
            shape: (C, H, W) of an image.
            device: where the model is.
            strip: whether to draw how they come out of noise, which takes no more evaluations of the network.
        """
        import torch

        from clearwater.denoisers import Clipped
        from clearwater.pictures import reverse_strip, to_uint8
        from clearwater.randomness import ImageNoise
        from clearwater.sampling import UniPC, sampling_states

        if data.labels and data.classes:
            model = replace(model, labels=torch.arange(PREVIEWED, device=device) % len(data.classes))
        chain = model.chain.strided(min(STEPS, model.chain.T))
        last: list[Tensor] = []

        def states() -> Iterator[StepState]:
            noise = ImageNoise(0, range(PREVIEWED), shape, device)
            for state in sampling_states(Clipped(model), noise, chain, UniPC()):
                last[:] = [state.x]
                yield state

        picture = None
        if strip:
            picture = reverse_strip(states(), chain.T, images=_ROWS)
        else:
            for _ in states():
                pass
        return cls(to_uint8(last[0]), picture)


def forward_images(images: Images, seed: int, n: int) -> tuple[Tensor, Tensor]:
    """Some of the images in [-1, 1], and the noise that they are to sink into, both of shape (n, C, H, W)."""
    import torch

    from clearwater.data import pixel_values
    from clearwater.randomness import generator

    of_seed = generator(seed, "forward")
    x_0 = pixel_values(images.take(torch.randperm(len(images), generator=of_seed)[:n]))
    return x_0, torch.randn(x_0.shape, generator=of_seed)


def forward_picture(images: Images, chain: Chain) -> Image.Image:
    """Some of the images of a run sinking into noise, level by level of its chain."""
    from clearwater.pictures import forward_strip

    return forward_strip(*forward_images(images, 0, _ROWS), chain)


def nearest_picture(samples: Tensor, data: ImageSet) -> Image.Image:
    """Samples, and under each the training image that is nearest."""
    import torch

    from clearwater.evaluation.nearest import nearest
    from clearwater.pictures import enlarged, grid

    best, found = torch.full((len(samples),), torch.inf), torch.zeros_like(samples)
    for first in range(0, len(data), _AT_ONCE):  # all at once may be more than the memory holds
        part = data.take(torch.arange(first, min(first + _AT_ONCE, len(data))))
        index, distance = nearest(samples, part)
        nearer = distance < best
        best, found[nearer] = torch.where(nearer, distance, best), part[index[nearer]]
    half = len(samples) // 2
    return enlarged(grid(torch.cat([samples[:half], found[:half], samples[half:], found[half:]]), half))


def drawing_seconds(shape: tuple[int, int, int]) -> float:
    """About how long it takes to draw and write the strips of both processes, of images of this (C, H, W)."""
    from clearwater.pictures import columns_of

    channels, height, width = shape
    return 3 * _ROWS * columns_of(width) * channels * height * width / _DRAWN  # of the reverse process two rows each
