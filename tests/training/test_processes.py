"""Training by several processes, which gloo connects: the same run as by one, whatever their number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clearwater.config import Config
from clearwater.training import Checkpoint, RunFolder

# What each process does: trains to the end, or is killed after a step; rank 0 writes down the first step's gradients.
_PROGRAM = """
import os, signal, sys
import numpy as np, torch
from pathlib import Path
from safetensors.torch import save_file
from clearwater.config import Config
from clearwater.data import ImageSet
from clearwater.training import Progress, RunFolder, Trainer
from clearwater.training import trainer as trainer_module
from clearwater.training.parameters import whole
from clearwater.world import world

folder, size, stop, dies = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rank = 0
for other in range(1, size):  # all of one process that has loaded torch
    if rank == 0 and os.fork() == 0:
        rank = other
os.environ["RANK"] = str(rank)
trainer_module._REPORT_SECONDS = 0.0
torch.set_num_threads(1)
config = Config.from_toml((folder / "settings.toml").read_text(), "settings")
images = ImageSet(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), np.uint8)))
with world() as processes:
    processes.told(None)
    run = RunFolder.create(folder / "run", config) if processes.first else None
    processes.wait()
    run = run or RunFolder.open(folder / "run")
    trainer = Trainer(config, images, torch.device("cpu"), run, world=processes)
    update = trainer._optimization._update

    def watched(rate):
        gradients = whole({name: value.grad for name, value in trainer._parameters.items()})
        if processes.first and trainer.step == 0:
            save_file({name: value.contiguous() for name, value in gradients.items()}, folder / "gradients.safetensors")
        update(rate)

    trainer._optimization._update = watched
    losses = []
    for event in trainer:
        if isinstance(event, Progress):
            losses.append(event.loss)
            if event.step == stop and rank == size - 1:
                trainer.stop()
            if event.step == dies and rank == size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
    if processes.first:
        (folder / "losses.json").write_text(str(losses))
if rank:
    os._exit(0)
for _ in range(1, size):
    os.wait()
"""


def _train(folder: Path, config: Config, size: int, *, stop: int = 0, dies: int = 0) -> str:
    """What the processes said on standard error."""
    folder.mkdir(exist_ok=True)
    (folder / "settings.toml").write_text(config.to_toml())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    told = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [str(folder), str(size), str(stop), str(dies)]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], env=told, timeout=240, capture_output=True, text=True
    )
    assert (done.returncode == 0) == (dies == 0), done.stderr
    return done.stderr


def _latest(folder: Path) -> Checkpoint:
    checkpoint = RunFolder.open(folder / "run").latest()
    assert checkpoint is not None
    return checkpoint


SETS = {
    "simple": ("model.dropout=0", "data.flip=true"),
    "importance": ("model.dropout=0", "objective=vlb", "chain.levels=5"),
    "divided weights": ("model.dropout=0", "training.shard=true", "training.microbatch=4"),
    "learned chain": (
        "model.dropout=0",
        "objective=vlb",
        "chain.name=learned",
        "chain.levels=5",
        "chain.variance=fixed_small",
    ),
}


@pytest.fixture(
    params=[("simple", 2), ("simple", 4), ("importance", 2), ("learned chain", 3), ("divided weights", 2)], ids=str
)
def alone(
    request: pytest.FixtureRequest, tiny: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Path, int]:
    """A run of one process, and by how many it is to be done again."""
    name, size = request.param
    config = tiny(*SETS[name], "training.batch=20", "training.steps=4", "data.source=none")
    folder = tmp_path_factory.mktemp("alone")
    _train(folder, config, 1)
    return config, folder, size


def test_the_gradients_are_those_of_one_process_to_rounding(alone: tuple[Config, Path, int], tmp_path: Path) -> None:
    config, one, size = alone
    _train(tmp_path, config, size)
    ours, theirs = (load_file(folder / "gradients.safetensors") for folder in (tmp_path, one))
    assert ours.keys() == theirs.keys()
    largest = max(float(value.abs().max()) for value in theirs.values())
    for name, value in theirs.items():
        assert float((ours[name] - value).abs().max()) < 1e-5 * largest, name
    for step, (mine, other) in enumerate(
        zip(*(json.loads((f / "losses.json").read_text()) for f in (tmp_path, one)), strict=True)
    ):
        assert mine == pytest.approx(other, rel=1e-2 if step else 1e-5)  # Adam makes much of small roundings
    assert _latest(tmp_path).place.images == _latest(one).place.images == 80
    for name, value in _latest(one).times.items():
        torch.testing.assert_close(_latest(tmp_path).times[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("size", [2, 3])
def test_a_run_of_many_that_was_stopped_ends_with_the_bits_of_an_unbroken_one(
    tiny: Callable[..., Config], tmp_path: Path, size: int
) -> None:
    config = tiny("model.dropout=0.1", "data.flip=true", "training.batch=20", "training.steps=6", "data.source=none")
    _train(tmp_path / "unbroken", config, size)
    _train(tmp_path / "broken", config, size, stop=2)  # the second process is asked, and both stop
    assert _latest(tmp_path / "broken").place.step == 3
    _train(tmp_path / "broken", config, size)
    ours, theirs = (_latest(tmp_path / name) for name in ("broken", "unbroken"))
    assert ours.place.step == 6
    for kind in ("network", "averaged", "optimizer"):
        for name, value in getattr(theirs, kind).items():
            assert torch.equal(getattr(ours, kind)[name], value)


def test_divided_weights_are_kept_whole_and_go_on_undivided(tiny: Callable[..., Config], tmp_path: Path) -> None:
    sets = ("model.dropout=0", "training.batch=20", "training.steps=6", "training.ema_snapshots=2", "data.source=none")
    for name, more in (("divided", ("training.shard=true",)), ("plain", ())):
        _train(tmp_path / name, tiny(*sets, *more), 2)
    ours, theirs = (_latest(tmp_path / name) for name in ("divided", "plain"))
    for kind in ("network", "averaged", "optimizer", "lengths"):
        left, right = getattr(ours, kind), getattr(theirs, kind)
        assert left.keys() == right.keys()
        for name, value in right.items():
            assert left[name].shape == value.shape
            assert float((left[name] - value).abs().max()) < 5e-3 * max(float(value.abs().max()), 1e-3), (kind, name)
    averages = [path.name for path in sorted((tmp_path / "divided" / "run" / "averages").iterdir())]
    assert averages == ["000000003.safetensors", "000000006.safetensors"]
    longer = tiny(*sets, "training.steps=9")
    (tmp_path / "divided" / "run" / "config.toml").write_text(longer.to_toml())
    _train(tmp_path / "divided", longer, 1)  # by one, which has all of it
    _train(tmp_path / "plain", longer, 1)
    after = [json.loads((tmp_path / name / "losses.json").read_text()) for name in ("divided", "plain")]
    assert len(after[0]) == 3
    assert after[0] == pytest.approx(after[1], rel=2e-2)


def test_a_run_goes_on_with_another_number_of_processes(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("model.dropout=0", "training.batch=20", "training.steps=6", "data.source=none")
    _train(tmp_path / "alone", config, 1)
    _train(tmp_path / "changing", config, 2, stop=2)  # the other hears of it after the next step
    _train(tmp_path / "changing", config, 1)
    ours, theirs = (json.loads((tmp_path / name / "losses.json").read_text()) for name in ("changing", "alone"))
    assert ours == pytest.approx(theirs[3:], rel=2e-2)
    assert _latest(tmp_path / "changing").place.step == 6


def test_a_lost_process_ends_the_others_with_a_sentence_and_the_run_goes_on(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("training.save_minutes=1e-9", "training.batch=20", "training.steps=6", "data.source=none")
    said = _train(tmp_path, config, 2, dies=3)
    assert "Another of the processes has ended" in said
    assert 2 <= _latest(tmp_path).place.step <= 3
    _train(tmp_path, config, 2)
    assert _latest(tmp_path).place.step == 6
