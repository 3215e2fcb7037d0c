"""Processes as one program: one that is alone, and two that torch's gloo connects."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from clearwater.world import World, world

# What each of two processes does; it writes down what it saw. They come of one that has loaded torch for both, and the
# clock is the machine's, the same for both.
_PROGRAM = """
import json, os, pathlib, sys, time
import torch.distributed
from clearwater.world import world

second = os.fork()
os.environ["RANK"] = "0" if second else "1"
here = pathlib.Path("here")
with world() as processes:
    rank = processes.rank
    seen = {"rank": rank, "size": processes.size, "first": processes.first}
    seen["told"] = [processes.told(value) for value in ([rank, "of", rank], {"rank": rank}, None if rank else "first")]
    if rank == 1:  # the second comes only when the first is about to wait, and later still
        while not here.exists():
            time.sleep(0.001)
        time.sleep(0.2)
    seen["came"] = time.monotonic()
    if rank == 0:
        here.touch()
    processes.wait()
    seen["went"] = time.monotonic()
    seen["connected"] = torch.distributed.get_backend()
seen["connected afterwards"] = torch.distributed.is_initialized()
pathlib.Path(f"{rank}.json").write_text(json.dumps(seen))
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
"""


def _as_two() -> dict[str, str]:
    """An environment as `torchrun` makes it for two processes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    return {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw, started with what `torchrun` puts into the environment."""
    folder = tmp_path_factory.mktemp("world")
    subprocess.run([sys.executable, "-c", _PROGRAM], cwd=folder, env=_as_two(), timeout=120, check=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_one_process_is_alone_and_connects_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (None, "1"):
        if size is None:
            monkeypatch.delenv("WORLD_SIZE", raising=False)
        else:
            monkeypatch.setenv("WORLD_SIZE", size)
        value = object()
        with world() as alone:
            assert alone == World(rank=0, size=1)
            assert alone.first
            assert alone.told(value) is value
            alone.wait()  # for nobody
            assert not torch.distributed.is_initialized()


def test_each_process_knows_its_rank_and_how_many_there_are(two: list[dict[str, Any]]) -> None:
    assert [(seen["rank"], seen["size"], seen["first"]) for seen in two] == [(0, 2, True), (1, 2, False)]


def test_all_are_told_what_the_first_has(two: list[dict[str, Any]]) -> None:
    for seen in two:
        assert seen["told"] == [[0, "of", 0], {"rank": 0}, "first"]


def test_the_first_waits_for_the_second(two: list[dict[str, Any]]) -> None:
    first, second = two
    assert first["came"] < second["came"] <= first["went"]


def test_they_are_connected_until_the_end_and_no_longer(two: list[dict[str, Any]]) -> None:
    # gloo needs no GPU, and the first speaks for all of them, so that is all that is needed.
    assert [(seen["connected"], seen["connected afterwards"]) for seen in two] == [("gloo", False)] * 2


@pytest.mark.parametrize("waits", ["processes.wait()", "processes.told(1)", "torch.distributed.barrier()"])
def test_a_process_whose_first_is_gone_says_so_in_a_sentence(tmp_path: Path, waits: str) -> None:
    program = f"""
import os
import torch
from clearwater.errors import ClearwaterError
from clearwater.world import world

second = os.fork()
os.environ["RANK"] = "0" if second else "1"
try:
    with world() as processes:
        processes.wait()
        if second:
            os._exit(0)
        {waits}
except ClearwaterError as error:
    open("said", "w").write(str(error))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=_as_two(), timeout=120, check=True)
    for _ in range(600):  # the second may be a moment later than the first, which ended
        if (tmp_path / "said").exists() and (tmp_path / "said").read_text():
            break
        time.sleep(0.1)
    assert (tmp_path / "said").read_text().startswith("Another of the processes has ended")
