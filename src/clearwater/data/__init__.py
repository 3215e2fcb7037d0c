"""Images of any kind and number: in memory, in a cache on disk, or decoded when they are needed."""

from clearwater.data.batches import Batches
from clearwater.data.cache import default_cache
from clearwater.data.images import BUILT_IN, ImageSet, load_images, pixel_values, stream_images, unseen_split
from clearwater.data.kinds import lasting_name
from clearwater.data.reports import LoadReport
from clearwater.data.sequence import Pictures
from clearwater.data.streamed import StreamedImages

__all__ = [
    "BUILT_IN",
    "Batches",
    "ImageSet",
    "LoadReport",
    "Pictures",
    "StreamedImages",
    "default_cache",
    "lasting_name",
    "load_images",
    "pixel_values",
    "stream_images",
    "unseen_split",
]
