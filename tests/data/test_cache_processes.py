"""The cache when processes are killed, run at once, or have little memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clearwater.data import LoadReport, load_images

_START = """
import os, signal, sys, time
from pathlib import Path
from clearwater.data import LoadReport, decoding, default_cache, load_images

decoding._BLOCK_ITEMS = 4
folder = Path(sys.argv[1])
"""


def _run(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _START + script, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_a_process_that_is_killed_the_finished_blocks_are_kept(folder: Path, cache: Any, decoded: list[int]) -> None:
    killed = _run(
        """
class Killed(LoadReport):
    def progress(self, fraction):
        if fraction == 0.6:
            os.kill(os.getpid(), signal.SIGKILL)

load_images(folder, size=(5, 6), channels=3, cache=default_cache(), report=Killed())
""",
        folder,
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    found = cache.load(folder)
    assert len(decoded) == 8
    assert torch.equal(found.images, load_images(folder).images)
    assert found.digest() == load_images(folder).digest()


def test_of_two_processes_one_makes_it_and_the_other_waits(
    folder: Path, cache: Any, decoded: list[int], tmp_path: Path
) -> None:
    begun, waited = tmp_path / "begun", tmp_path / "waited"
    other = _run(
        """
class Slow(LoadReport):
    def progress(self, fraction):
        Path(sys.argv[2]).touch()
        while not Path(sys.argv[3]).exists():
            time.sleep(0.01)

print(load_images(folder, size=(5, 6), channels=3, cache=default_cache(), report=Slow()).digest())
""",
        folder,
        begun,
        waited,
    )

    class Waiting(LoadReport):
        def waiting(self, folder: Path) -> None:
            waited.touch()

    while not begun.exists():
        assert other.poll() is None, other.communicate()
    found = cache.load(folder, report=Waiting())
    said, wrong = other.communicate()
    assert other.returncode == 0, wrong
    assert waited.exists()
    assert decoded == []
    assert said.strip() == found.digest() == load_images(folder).digest()


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="only Linux tells how much memory is a process's own"
)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    # 98 MB of images, of which a block is 12.6 MB; whatever held all of them would show.
    done = _run(
        """
import numpy as np, torch
from PIL import Image

def own():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024

class Many:
    def __len__(self):
        return 8000

    def __getitem__(self, i):
        return Image.fromarray(np.full((64, 64, 3), i % 256, np.uint8))

class Watch(LoadReport):
    seen = []

    def progress(self, fraction):
        self.seen.append(own())

decoding._BLOCK_ITEMS = 1024
torch.empty(64, 3, 64, 64).clone()
images = load_images(Many(), size=(64, 64), channels=3, cache=default_cache(), report=Watch())
for _ in range(200):
    x = images.take(torch.randint(0, 8000, (64,)))
print(len(images), max(Watch.seen) - Watch.seen[0], own() - Watch.seen[0])
""",
        tmp_path,
    )
    said, wrong = done.communicate()
    assert done.returncode == 0, wrong
    n, while_made, while_read = map(int, said.split())
    assert n == 8000
    assert while_made < 50e6
    assert while_read < 50e6
