"""Images in memory: the built-in ones, any folder, IDX files."""

from clearwater.data.batches import Batches
from clearwater.data.images import BUILT_IN, ImageSet, load_images, pixel_values, unseen_split

__all__ = ["BUILT_IN", "Batches", "ImageSet", "load_images", "pixel_values", "unseen_split"]
