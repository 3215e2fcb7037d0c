"""What the tests share: the smallest useful configuration, and a run that was trained with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from clearwater.cli import run
from clearwater.config import Config
from clearwater.settings import resolve

# Before torch is loaded, here and in the processes that tests start: networks this small are no work for
# two threads, which on a busy machine spend most of their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("clearwater", deadline=None)  # no test is timed
settings.load_profile("clearwater")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep of decoded images goes where tests keep theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARWATER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


_TINY = (
    "data.flip=false",
    "model.channels=16",
    "model.multipliers=[1]",
    "model.blocks=1",
    "model.attention=[]",
    "model.group_size=16",
    "model.patch=4",
    "chain.name=cosine",
    "chain.levels=10",
    "training.batch=4",
    "training.steps=8",
    "training.learning_rate=1e-3",
    "training.warmup=2",
    "training.anneal=cosine",
    "training.ema_decay=0.9",
    "training.precision=fp32",
)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Config]:
    """A configuration that trains in milliseconds: ``tiny("training.steps=3", …)`` changes some of it."""

    def configuration(*sets: str) -> Config:
        return resolve(recipe="ddpm-cifar10", sets=("data.size=8", "data.channels=1", *_TINY, *sets))

    return configuration


@pytest.fixture(scope="session")
def trained(tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on the built-in images; read it, don't change it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(tiny("data.size=28").to_toml())
    options = ["--out", str(folder / "run"), "--config", str(folder / "tiny.toml"), "--device", "cpu"]
    assert run(["train", "fashion-mini", *options]) == 0
    return folder / "run"
