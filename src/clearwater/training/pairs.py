"""Images with the noise that each was made of: a folder that `clearwater sample` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from clearwater.errors import InputError
from clearwater.sampling import SamplerOptions, sampler

__all__ = ["seed_of_pairs"]

_SAMPLES = "samples.json"


def seed_of_pairs(source: str | Path, n: int, shape: tuple[int, ...]) -> int:
    """The seed of which the noise of image i is the first draw (`ImageNoise`).

    Args:
        source: the folder.
        n: how many images were loaded from it.
        shape: (C, H, W) of each, as it was loaded.

    Raises:
        InputError: it is no sample, or one whose images were not made of their noise alone or have another shape.
    """
    try:
        made = json.loads((Path(source) / _SAMPLES).read_text(encoding="utf-8"))
        seed, count = int(made["seed"]), int(made["n"])
        options = SamplerOptions(made["eta"], made["churn"], made["tolerance"])
        noisy = sampler(made["sampler"], options).stochastic
        changed = made.get("from") is not None
        with Image.open(Path(source) / "000000.png") as first:
            there = (len(first.getbands()), first.height, first.width)
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"'{source}' is no sample whose noise is known: make one with `clearwater sample RUN --out FOLDER`, and "
            "train on that folder."
        ) from None
    if noisy or changed:
        how = "changed from another image" if changed else "made with new noise on the way"
        raise InputError(
            f"The images in '{source}' were {how}, so they are not made of their first noise alone: sample with a "
            "sampler without noise, such as unipc or rk4."
        )
    if count != n:
        raise InputError(f"'{source}' has {n:,} images and should have {count:,}: make the sample again.")
    if there != shape:
        raise InputError(
            f"The images in '{source}' are {there} (C, H, W), and were loaded as {shape}, for which their noise is not "
            "theirs: leave out data.size and data.channels."
        )
    return seed
