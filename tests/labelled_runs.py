"""What the tests of `clearwater sample` share: runs on small images of three classes, and their samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clearwater import (
    Chain,
    Clipped,
    Denoiser,
    NetworkDenoiser,
    Stepper,
    UniPC,
    load_denoiser,
    sample,
)
from clearwater.cli import run
from clearwater.pictures import to_uint8

Pixels = npt.NDArray[np.uint8]
SHAPE = (1, 8, 8)
CLASSES = ("1", "coat", "hat")  # so that "1" is the name of number 0
LEVELS = 60
N, SEED = 4, 3


def made_by(home: Path, out: Path, *options: str, of: str = "run", n: int = N) -> Pixels:
    """The images that the command writes, (N, H, W)."""
    arguments = ["--out", str(out), "--n", str(n), "--seed", str(SEED), "--device", "cpu"]
    assert run(["sample", str(home / of), *arguments, *options]) == 0
    paths = sorted(out.glob("[0-9]*.png"))
    assert len(paths) == n
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def model_of(home: Path, name: str = "run", labels: Sequence[int] | None = None) -> NetworkDenoiser:
    told = None if labels is None else torch.tensor([labels[i % len(labels)] for i in range(N)])
    return replace(load_denoiser(home / name, "cpu"), labels=told)


def samples_of(model: Denoiser, stepper: Stepper | None = None, chain: Chain | None = None) -> Pixels:
    """The library's samples of a model that is not clipped yet; by default as the command has it."""
    stepper, chain = stepper or UniPC(), chain or model.chain.strided(20)
    return to_uint8(sample(Clipped(model), N, SHAPE, seed=SEED, chain=chain, stepper=stepper))[:, 0].numpy()
