"""Networks: ``(x_t, time) → y``."""

from clearwater.networks.unet import UNet

__all__ = ["UNet"]
