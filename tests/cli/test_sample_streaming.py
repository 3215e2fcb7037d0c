"""`clearwater sample` streams its images: interrupted, killed or shared by processes, it writes the same bytes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clearwater.cli import run, writing
from clearwater.cli.making import Making
from clearwater.files import alone_in, write_atomically

Said = pytest.CaptureFixture[str]
Files = dict[str, bytes]

_N, _BATCH = 10, 4  # three batches, the last of two images
_BEGUN_ANEW = "What an interrupted sample left there was made in another way: it is begun anew."


def _command(trained: Path, out: Path, *options: str, n: int = _N, batch: int = _BATCH) -> list[str]:
    sizes = ["--n", str(n), "--batch", str(batch)]
    return ["sample", str(trained), "--out", str(out), "--device", "cpu", "--steps", "2", *sizes, *options]


def _contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.png")}


def _names(numbers: Sequence[int]) -> set[str]:
    return {f"{i:06d}.png" for i in numbers}


@pytest.fixture(scope="module")
def unbroken(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What the command writes that nothing interrupts."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    assert run(_command(trained, out, "--npz")) == 0
    return _contents(out)


@pytest.fixture
def interrupted(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, interrupted by Ctrl-C when it is about to write one image more than `images`."""

    def command(images: int, out: Path, *options: str) -> int:
        written = 0

        def interrupting(path: Path, content: bytes, *, durable: bool = True) -> None:
            nonlocal written
            if path.suffix == ".png":
                if written == images:
                    raise KeyboardInterrupt
                written += 1
            write_atomically(path, content, durable=durable)

        with monkeypatch.context() as patched:
            patched.setattr(writing, "write_atomically", interrupting)
            return run(_command(trained, out, *options))

    return command


# --- interrupted


@pytest.mark.parametrize("images", [0, 1, 4, 6, 9])
def test_an_interrupted_sample_is_kept_and_gone_on_with_to_the_same_bytes(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], unbroken: Files, capsys: Said, images: int
) -> None:
    out, whole = tmp_path / "out", images // _BATCH * _BATCH
    part = out / ".part"
    assert interrupted(images, out, "--npz") == 130
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if not line.startswith("sampling ")] == [
        f"Interrupted: what is finished is kept in '{part}'; repeat the command to go on."
    ]
    kept = _contents(part)
    assert kept.keys() == {"samples.json", *_names(range(images))}
    assert all(kept[name] == unbroken[name] for name in _names(range(images)))
    assert [path.name for path in out.iterdir()] == [".part"]
    times = _times(part)

    assert run(_command(trained, out, "--npz")) == 0
    told = f"Going on: {whole} of {_N} images are there."
    assert capsys.readouterr().err.splitlines().count(told) == (whole > 0)
    assert not part.exists()
    assert _contents(out) == unbroken
    # A batch that was complete is not made again.
    assert all(_times(out)[name] == times[name] for name in _names(range(whole)))


def test_a_sample_that_is_interrupted_again_and_again_gets_there(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], unbroken: Files
) -> None:
    for images in (5, 1, 4):  # of those that are still missing
        assert interrupted(images, tmp_path / "out", "--npz") == 130
    assert run(_command(trained, tmp_path / "out", "--npz")) == 0
    assert _contents(tmp_path / "out") == unbroken


def test_one_that_is_interrupted_after_its_last_image_makes_none_again(
    trained: Path, tmp_path: Path, unbroken: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupting(paths: Sequence[Path]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_overview", interrupting)
        assert run(_command(trained, tmp_path / "out", "--npz")) == 130
    times = _times(tmp_path / "out" / ".part")
    assert times.keys() == _names(range(_N))
    assert run(_command(trained, tmp_path / "out", "--npz")) == 0
    assert _contents(tmp_path / "out") == unbroken
    assert _times(tmp_path / "out") == times


@pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "earlier sample"])
@pytest.mark.parametrize("moved", [0, 1, _N // 2, _N + 2])
def test_one_that_is_interrupted_while_its_files_are_moved_up_is_gone_on_with(
    trained: Path, tmp_path: Path, unbroken: Files, monkeypatch: pytest.MonkeyPatch, moved: int, earlier: bool
) -> None:
    if earlier:
        assert run(_command(trained, tmp_path / "out", "--seed", "1")) == 0
    done = 0

    def interrupting(move: Callable[[str, str], None]) -> Callable[[str, str], None]:
        def moving(source: str, target: str) -> None:
            nonlocal done
            if Path(target).parent == tmp_path / "out":
                if done == moved:
                    raise KeyboardInterrupt
                done += 1
            move(source, target)

        return moving

    with monkeypatch.context() as patched:
        for name in ("rename", "replace"):
            patched.setattr(os, name, interrupting(getattr(os, name)))
        assert run(_command(trained, tmp_path / "out", "--npz")) == 130
    assert run(_command(trained, tmp_path / "out", "--npz")) == 0
    assert _contents(tmp_path / "out") == unbroken
    assert not (tmp_path / "out" / ".part").exists()


@pytest.mark.parametrize(
    "options",
    [["--seed", "1"], ["--steps", "3"], ["--no-clip"], ["--sampler", "ddim"], ["--batch", "5"]],
    ids=" ".join,
)
def test_one_that_is_repeated_with_another_option_is_begun_anew(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], capsys: Said, options: list[str]
) -> None:
    assert interrupted(6, tmp_path / "out") == 130
    capsys.readouterr()
    assert run(_command(trained, tmp_path / "out", *options)) == 0
    said = capsys.readouterr().err
    assert said.splitlines().count(_BEGUN_ANEW) == 1
    assert "Going on" not in said
    assert run(_command(trained, tmp_path / "fresh", *options)) == 0
    assert _contents(tmp_path / "out") == _contents(tmp_path / "fresh")


@pytest.mark.parametrize("n", [5, 8, 13])
def test_one_that_is_repeated_with_another_number_keeps_what_is_the_same(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], capsys: Said, n: int
) -> None:
    """Of 10 images in batches of 4, 9 were made: two batches are whole."""
    out = tmp_path / "out"
    assert interrupted(9, out, "--npz") == 130
    times = _times(out / ".part")
    capsys.readouterr()
    assert run(_command(trained, out, n=n)) == 0
    assert f"Going on: {min(n, 8)} of {n} images are there." in capsys.readouterr().err
    assert run(_command(trained, tmp_path / "fresh", n=n)) == 0
    assert _contents(out) == _contents(tmp_path / "fresh")
    assert {name: _times(out)[name] for name in _names(range(min(n, 8)))} == {
        name: times[name] for name in _names(range(min(n, 8)))
    }


def test_one_that_is_repeated_by_another_path_of_the_run_is_gone_on_with(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], capsys: Said
) -> None:
    assert interrupted(6, tmp_path / "out") == 130
    assert run(_command(trained / ".." / trained.name, tmp_path / "out")) == 0
    assert "Going on: 4 of 10 images are there." in capsys.readouterr().err


@pytest.mark.parametrize("left", [0, 30], ids=["empty", "cut"])
def test_an_image_that_a_power_cut_left_torn_is_made_again(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], unbroken: Files, left: int
) -> None:
    assert interrupted(6, tmp_path / "out", "--npz") == 130
    torn = tmp_path / "out" / ".part" / "000001.png"
    torn.write_bytes(torn.read_bytes()[:left])
    assert run(_command(trained, tmp_path / "out", "--npz")) == 0
    assert _contents(tmp_path / "out") == unbroken


def test_a_complete_sample_is_not_made_again(trained: Path, tmp_path: Path, unbroken: Files, capsys: Said) -> None:
    out = tmp_path / "out"
    assert run(_command(trained, out, "--npz")) == 0
    times = _times(out)
    capsys.readouterr()
    assert run(_command(trained, out, "--npz")) == 0
    assert capsys.readouterr().err.splitlines() == [f"The sample in '{out}' is complete; look at {out / 'grid.png'}"]
    assert _times(out) == times
    (out / "000003.png").unlink()
    assert run(_command(trained, out, "--npz")) == 0
    assert _contents(out) == unbroken


def test_an_earlier_sample_stays_until_the_new_one_is_complete(
    trained: Path, tmp_path: Path, interrupted: Callable[..., int], unbroken: Files, capsys: Said
) -> None:
    out = tmp_path / "out"
    assert run(_command(trained, out, "--seed", "1", n=13)) == 0
    earlier, times = _contents(out), _times(out)
    assert interrupted(6, out, "--npz") == 130
    assert (_contents(out), _times(out)) == (earlier, times)
    assert {path.name for path in out.iterdir()} == {*earlier, ".part"}
    capsys.readouterr()
    assert run(_command(trained, out, "--npz")) == 0
    assert f"The earlier sample in '{out}' is replaced." in capsys.readouterr().err.splitlines()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == unbroken


# --- killed


def test_a_process_that_is_killed_loses_no_batch_that_was_complete(trained: Path, tmp_path: Path, capsys: Said) -> None:
    out, n = tmp_path / "out", 160
    part, command = out / ".part", _command(trained, out, "--sampler", "heun", n=n)
    process = subprocess.Popen([sys.executable, "-m", "clearwater", *command], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and len(_times(part)) < 3 * _BATCH:
            time.sleep(0.002)
    finally:
        process.kill()  # SIGKILL: it cannot tidy up
        process.wait()
    times = _times(part)
    assert 3 * _BATCH <= len(times) < n, "it was not killed half-way"
    whole = len(times) // _BATCH * _BATCH
    assert run(command) == 0
    assert f"Going on: {whole} of {n} images are there." in capsys.readouterr().err.splitlines()
    assert all(_times(out)[name] == times[name] for name in _names(range(whole)))
    assert run(_command(trained, tmp_path / "whole", "--sampler", "heun", n=n)) == 0
    assert _contents(out) == _contents(tmp_path / "whole")
    assert not part.exists()


# --- shared


def test_two_processes_write_the_bytes_of_one(trained: Path, tmp_path: Path, unbroken: Files) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = str(listening.getsockname()[1])
    # After "--", for the launcher's own parser would take our --n for a short form of its --nnodes (Python 3.11).
    launch = ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port, "-m", "--", "clearwater"]
    command = ["-m", "torch.distributed.run", *launch, *_command(trained, tmp_path / "out", "--npz")]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len([line for line in said if "image(s) in" in line]) == 1
    # The first makes the first batch and the last; only it tells how far it is.
    told = [line.split("  ")[-1] for line in said if line.startswith("sampling ")]
    assert set(told) == {f"{_BATCH + _N % _BATCH} images in this process of 2"}
    assert _contents(tmp_path / "out") == unbroken
    assert not (tmp_path / "out" / ".part").exists()


# --- what is written


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_files_hold_the_images_that_are_made_each_under_its_number(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (_N, channels, 5, 7), np.uint8))

    def known(self: Making, indices: Sequence[int], report: Callable[[float], None]) -> Tensor:
        return images[list(indices)]

    monkeypatch.setattr(Making, "images", known)
    assert run(_command(trained, tmp_path, "--npz")) == 0
    expected = images.permute(0, 2, 3, 1).numpy()
    with np.load(tmp_path / "samples.npz") as stored:
        assert stored.files == ["images"]
        assert stored["images"].dtype == np.uint8
        np.testing.assert_array_equal(stored["images"], expected)
    for i in range(_N):
        with Image.open(tmp_path / f"{i:06d}.png") as image:
            assert image.mode == {1: "L", 3: "RGB"}[channels]
            np.testing.assert_array_equal(np.asarray(image).reshape(5, 7, channels), expected[i])


# Peak memory after each of two samples. VmHWM, for what getrusage tells has the parent's peak in it.
_WATCHED = """
import pathlib, sys
from clearwater.cli import run
from clearwater.files import alone_in
for n in sys.argv[1:3]:
    assert run([*sys.argv[3:], "--n", n]) == 0
    status = pathlib.Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    # The network takes images of any size: 960 more of this one are 6 MB as bytes and 24 MB as floats.
    config = (folder / "config.toml").read_text()
    assert config.count("[28, 28]") == 1
    (folder / "config.toml").write_text(config.replace("[28, 28]", "[224, 28]"))
    command = ["sample", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu", "--batch", "8", "--steps", "1"]
    watched = [sys.executable, "-c", _WATCHED, "64", "1024", *command, "--npz"]
    done = subprocess.run(watched, stdout=subprocess.PIPE, env=os.environ, text=True, timeout=120, check=True)
    few, many = (int(kibibytes) / 1024 for kibibytes in done.stdout.split())
    assert many - few < 5


def test_two_commands_do_not_write_one_sample(trained: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "samples"
    out.mkdir()
    with alone_in(out, "told to nobody"):
        assert run(["sample", str(trained), "--out", str(out), "--n", "2", "--steps", "2", "--device", "cpu"]) == 2
    assert f"Another command writes into '{out}'" in capsys.readouterr().err
    assert not any(out.iterdir())
