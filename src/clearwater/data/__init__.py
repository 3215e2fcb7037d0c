"""Images in memory: the built-in ones, and any folder."""

from clearwater.data.batches import Batches
from clearwater.data.images import BUILT_IN, ImageSet, load_images, pixel_values

__all__ = ["BUILT_IN", "Batches", "ImageSet", "load_images", "pixel_values"]
