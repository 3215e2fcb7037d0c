"""What a sampler is given, looked at before it begins: what cannot be is told in a sentence, not by a kernel."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from clearwater.chains import Chain
from clearwater.denoisers import Around, Denoiser, NetworkDenoiser
from clearwater.errors import InputError
from clearwater.guidance import Guided
from clearwater.networks import UNet
from clearwater.sampling.steps import Stepper

__all__ = ["device_of", "fits", "refuse_batch", "refuse_kinds", "refuse_values", "shape_of_image", "whole_number"]


def whole_number(name: str, value: object) -> int:
    """`value` as an int, of whatever kind of integer it is; 1.0 is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} is a whole number, not {value!r}.") from None


def shape_of_image(shape: object) -> tuple[int, ...]:
    """`shape` as whole numbers above zero."""
    try:
        sizes = tuple(operator.index(size) for size in shape)  # type: ignore[attr-defined]
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise InputError(f"The shape of an image is of whole numbers from 1 on, such as (1, 28, 28), not {shape!r}.")
    return sizes


def device_of(device: torch.device | str | None, denoiser: Denoiser) -> torch.device:
    """The device of this name; if None, that of the denoiser's network, or the processor where there is none."""
    if device is None:
        weights = (weight for model in _networks(denoiser) for weight in model.network.parameters())
        return next((weight.device for weight in weights), torch.device("cpu"))
    try:
        return torch.device(device)
    except RuntimeError:
        raise InputError(
            f"There is no device named '{device}': leave it out for that of the network, or give cpu, cuda or mps."
        ) from None


def fits(shape: Sequence[int], onto: Sequence[int]) -> bool:
    """Whether a tensor of one shape is broadcast to another, without making that larger."""
    pairs = zip(reversed(shape), reversed(onto), strict=False)
    return len(shape) <= len(onto) and all(size in (1, wanted) for size, wanted in pairs)


def refuse_kinds(denoiser: object, chain: object, stepper: object) -> None:
    """Refuses what is easily given in the place of a denoiser, a chain or None, a sampler or None: their names."""
    for given, allowed, wanted in (
        (denoiser, isinstance(denoiser, Denoiser), "a denoiser, such as load_denoiser(run)"),
        (chain, chain is None or isinstance(chain, Chain), "a chain, such as denoiser.chain.strided(20)"),
        (stepper, stepper is None or isinstance(stepper, Stepper), "a sampler, such as UniPC() or sampler('unipc')"),
    ):
        if not allowed:
            shown = repr(given) if isinstance(given, str | int | type) else f"an object of {type(given)!r}"
            raise InputError(f"Sampling takes {wanted}, not {shown}.")


def refuse_values(x: object) -> None:
    """Refuses what are no images as a model sees them, such as 8-bit ones."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"an object of {type(x)!r}"
        raise InputError(
            f"Images are a tensor of floating-point values from -1 to 1, such as clearwater.data.pixel_values makes of "
            f"8-bit ones, not {kind}."
        )


def refuse_batch(denoiser: Denoiser, shape: Sequence[int], device: torch.device) -> None:
    """Refuses a batch that a network within the denoiser cannot see, or has not as many labels for.

    Args:
        denoiser: networks of other kinds than this library's are taken to see any image.
        shape: of the batch, (B, ...).
        device: where the batch is.
    """
    for model in _networks(denoiser):
        network = model.network
        where = next((weight.device for weight in network.parameters()), device)
        if _apart(where, device):
            raise InputError(
                f"The network is on {where} and the images are on {device}: have both on one, such as device='{where}'."
            )
        if isinstance(network, UNet):
            channels = network.first.in_channels // network.patch**2
            if len(shape) != 4 or shape[1] != channels or min(shape) < 1:
                raise InputError(
                    f"This network sees batches of shape (B, {channels}, H, W), not {tuple(shape)}: give one image or "
                    f"more, each of shape ({channels}, H, W)."
                )
        if model.labels is not None:
            _refuse_labels(model.labels, shape[0], network.classes if isinstance(network, UNet) else None, where)


def _refuse_labels(labels: Tensor, B: int, classes: int | None, device: torch.device) -> None:
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32):
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(
            f"Labels are the numbers of classes, a tensor of int64 such as torch.tensor([0, 3]), not {kind}."
        )
    if labels.ndim > 1 or labels.numel() not in (1, B):
        raise InputError(
            f"Labels of shape {tuple(labels.shape)} were given for a batch of {B} image(s): give one for each, and all "
            "images in one batch (batch=n), or one for all."
        )
    if _apart(labels.device, device):
        raise InputError(f"The network is on {device} and its labels are on {labels.device}: labels.to('{device}').")
    low, high = int(labels.min()), int(labels.max())
    if classes is not None and (low < 0 or high > classes):
        raise InputError(
            f"Labels from {low} to {high} were given to a network of {classes} classes: give 0 to {classes - 1}, or "
            f"{classes} for no class."
        )


def _apart(a: torch.device, b: torch.device) -> bool:
    """Whether two devices are not one; without a number, cuda is any of them."""
    return a.type != b.type or (None not in (a.index, b.index) and a.index != b.index)


def _networks(denoiser: Denoiser) -> Iterator[NetworkDenoiser]:
    """The networks that are asked, however many denoisers are around them."""
    if isinstance(denoiser, NetworkDenoiser):
        yield denoiser
    if isinstance(denoiser, Around):
        yield from _networks(denoiser.denoiser)
    if isinstance(denoiser, Guided):
        yield from _networks(denoiser.guide)
