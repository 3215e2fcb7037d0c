"""Real images as an extractor sees them, which the commands that measure samples compare these with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clearwater.cli.loading import Keeping
from clearwater.cli.progress import live_line, say

if TYPE_CHECKING:
    from clearwater.config import DataConfig
    from clearwater.data.batches import Images
    from clearwater.evaluation import Extractor, Material
    from clearwater.world import World

__all__ = ["Real", "real_images", "see"]


@dataclass(frozen=True)
class Real:
    """Real images, and what looks at them and at samples.

    Attributes:
        seeing: the extractor.
        data: images that the model was trained on.
        held_out: others, if there are any.
    """

    seeing: Extractor
    data: Material
    held_out: Material | None

    @property
    def needed(self) -> int:
        """How many images the Fréchet distance takes to say something."""
        from clearwater.evaluation import images_needed

        return images_needed(self.seeing.dimensions)

    def say_if_few(self, samples: int) -> None:
        """Warns of fewer samples, or images that are held out, than the Fréchet distance takes to say something."""
        few = f"for {self.seeing.dimensions} features: below {self.needed} the Fréchet distance"
        if samples < self.needed:
            say(f"{samples} samples are few {few} says little; take --n {self.needed} or more.")
        if self.held_out is not None and len(self.held_out) < self.needed:
            say(f"{len(self.held_out)} held-out images are few {few} says little, and so does its floor.")


def real_images(
    of: DataConfig, held_out: str | None, *, features: str | None, device: str, cache: Path | None, processes: World
) -> Real:
    """The images that samples of a model are measured against, which many processes look at together.

    Args:
        of: what it was trained on, with the size and the channels of the samples.
        held_out: real images that it was not trained on; None for the data's own, if some are held out.
        features: what sees them, as `extractor` takes it.
        device: where to put that.
        cache: where decoded images and features are kept; None for the usual place.
        processes: that see them.
    """
    from clearwater.assembly import pick_device
    from clearwater.data import unseen_split
    from clearwater.data.images import first_size
    from clearwater.evaluation import extractor

    assert of.size is not None
    keeping, quiet = Keeping(cache), not processes.first
    with processes.after_the_first():  # who keeps what is decoded
        data, unseen = keeping.load(of, quiet=quiet), None
        if held_out is not None:
            unseen = keeping.load(of.model_copy(update={"source": held_out, "held_out": 0}), quiet=quiet)
        elif unseen_split(of.source, of.held_out) == "held_out":
            unseen = keeping.load(of, "held_out", quiet=quiet)
        for source in (of.source, *([held_out] if held_out is not None else [])) if processes.first else ():
            if first_size(source) != of.size:
                say(f"The images of '{source}' are scaled to {of.size[0]} × {of.size[1]}, as the samples are.")
    seeing = extractor(features, data.shape, pick_device(device))
    seen = see("data", data, seeing, cache, processes)
    return Real(seeing, seen, None if unseen is None else see("held-out", unseen, seeing, cache, processes))


def see(name: str, images: Images, seeing: Extractor, cache: Path | None, processes: World) -> Material:
    """What an extractor sees in a set of images, and the images."""
    from clearwater.data import default_cache
    from clearwater.evaluation import Material, features_of

    with live_line(f"seeing {name}", shown=processes.first) as line:
        seen = features_of(
            images,
            seeing,
            cache=(cache or default_cache()) / "features",
            world=processes,
            report=lambda fraction: line(fraction, f"{len(images):,} images"),
            warn=say if processes.first else lambda sentence: None,
        )
    return Material(seen.features, seen.probabilities, images)
