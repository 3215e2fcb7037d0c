"""Wrong input gets one sentence and an exit code; never a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clearwater import ClearwaterError, InputError
from clearwater.cli import run

# command, what the sentence names; RUN is a finished run, TMP a folder with the file `file` and the folder `folder`
WRONG = [
    ("sample TMP/none --out TMP/out", "none"),
    ("sample TMP/folder --out TMP/out", "folder"),
    ("sample TMP/file --out TMP/out", "file"),
    ("sample RUN", "--out"),
    ("sample --out TMP/out", "run"),
    ("sample RUN --out TMP/out --n 0", "--n"),
    ("sample RUN --out TMP/out --n many", "--n"),
    ("sample RUN --out TMP/out --steps 0", "--steps"),
    ("sample RUN --out TMP/out --steps 11", "11"),
    ("sample RUN --out TMP/out --steps 100000", "100000"),
    ("sample RUN --out TMP/out --batch 0", "--batch"),
    ("sample RUN --out TMP/out --seed -1", "--seed"),
    ("sample RUN --out TMP/out --sampler magic", "magic"),
    ("sample RUN --out TMP/out --variance huge", "huge"),
    ("sample RUN --out TMP/out --variance fixed_small", "ancestral"),
    ("train fashion-mini --out RUN/checkpoints/000000008", "one checkpoint"),
    ("sample RUN --out TMP/out --device tpu", "tpu"),
    ("sample RUN --out TMP/out --speed 9", "--speed"),
    ("sample RUN --out TMP/file", "file"),
    ("train", "data"),
    ("train fashion-mini", "--out"),
    ("train TMP/none --out TMP/out", "none"),
    ("train TMP/file --out TMP/out", "file"),
    ("train TMP/folder --out TMP/out", "folder"),
    ("train fashion-mini --out TMP/file", "file"),
    ("train fashion-mini --out TMP/out --recipe big", "big"),
    ("train fashion-mini --out TMP/out --config TMP/none.toml", "none.toml"),
    ("train fashion-mini --out TMP/out --config TMP/file", "file"),
    ("train fashion-mini --out TMP/out --set model.width=3", "model.width"),
    ("train fashion-mini --out TMP/out --set model.channels", "model.channels"),
    ("train fashion-mini --out TMP/out --set chain.name=spiral", "chain.name"),
    ("train fashion-mini --out TMP/out --set training=3 --steps 3", "training"),
    ("train fashion-mini --out TMP/out --size 0", "--size"),
    ("train fashion-mini --out TMP/out --set data.size=0", "data.size"),
    ("train fashion-mini --out TMP/out --steps 0", "--steps"),
    ("train fashion-mini --out TMP/out --minutes -1", "minutes"),
    ("train fashion-mini --out TMP/out --minutes 0", "minutes"),
    ("train fashion-mini --out TMP/out --minutes nan", "minutes"),
    ("train fashion-mini --out TMP/out --batch 0", "--batch"),
    ("train fashion-mini --out TMP/out --seed -1", "--seed"),
    ("train fashion-mini --out TMP/out --steps 3 --minutes 0.001", "steps"),
    ("train fashion-mini --out TMP/out --device tpu", "tpu"),
    ("train fashion-mini --out TMP/out --steps 1 --set model.heads=3", "heads"),
    ("train fashion-mini --out TMP/out --steps 1 --set model.attention=[5]", "[5]"),
    ("train TMP/none --out TMP/out --log tensorboard,tensorbord", "tensorbord"),  # before images are looked for
    ("demo --out TMP/out --minutes -1", "minutes"),
    ("demo --out TMP/file --minutes 0.001", "file"),
    ("demo --out TMP/folder --minutes 0.001 --device tpu", "tpu"),
    ("info", "run"),
    ("info TMP/none", "none"),
    ("info TMP/folder", "folder"),
    ("info RUN --yaml", "--yaml"),
    ("show forward TMP/none --out TMP/a.png", "none"),
    ("show forward fashion-mini", "--out"),
    ("show forward fashion-mini --out TMP/a.bmp", "a.bmp"),
    ("show forward fashion-mini --out TMP/a", "'a'"),
    ("show forward fashion-mini --out TMP/none/a.png", "none"),
    ("show forward fashion-mini --out TMP/a.png --chain spiral", "spiral"),
    ("show reverse TMP/none --out TMP/a.png", "none"),
    ("show reverse RUN --out TMP/a.jpg", "a.jpg"),
    ("show reverse RUN --out TMP/a.png --levels 11", "11"),
    ("show chain spiral --out TMP/a.png", "spiral"),
    ("show chain linear --out TMP/a.gif", "a.gif"),
    ("show chain linear --out TMP/a.bmp", "a.bmp"),
    ("show chain linear --out TMP/a.png --levels 0", "--levels"),
    ("show chain linear --out TMP/a.png --levels 5", "beta"),
    ("show sideways RUN", "sideways"),
    ("fly", "fly"),
    ("show chain linear --out TMP/folder.png", "folder.png"),
    ("show weights --out TMP/a.gif", "a.gif"),
    ("show reverse-steps --out TMP/none/a.png", "none"),
    ("--fast", "--fast"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("= not TOML, not an image, not a run\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("content")
    return tmp_path


def _sentence(command: str, code: int, capsys: pytest.CaptureFixture[str], tmp: Path, trained: Path) -> str:
    """The only sentence that a refused command says."""
    arguments = [part.replace("TMP", str(tmp)).replace("RUN", str(trained)) for part in command.split()]
    capsys.readouterr()
    assert run(arguments) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert errors == lines[-1:]
    assert said.out == ""
    return lines[-1].removeprefix("Error: ")


@pytest.mark.parametrize(("command", "named"), WRONG, ids=[command for command, _ in WRONG])
def test_wrong_input_is_one_sentence_that_names_it_and_exit_code_2(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str], command: str, named: str
) -> None:
    sentence = _sentence(command, 2, capsys, folder, trained)
    assert named in sentence.replace(str(folder), "").replace(str(trained), "")
    assert (folder / "file").read_text() == "= not TOML, not an image, not a run\n"
    assert [path.name for path in (folder / "folder").iterdir()] == ["notes.txt"]
    assert not (folder / "a.png").exists()


@pytest.mark.parametrize("command", ["info RUN", "show chain linear --out TMP/a.png"])
def test_a_command_for_one_process_refuses_to_be_one_of_many(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    sentence = _sentence(command, 2, capsys, folder, trained)
    assert "WORLD_SIZE is 2" in sentence
    assert not (folder / "a.png").exists()


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize(
    "command", ["train fashion-mini --out TMP/out", "sample RUN --out TMP/out", "show reverse RUN --out TMP/a.png"]
)
def test_a_device_that_the_machine_lacks_is_one_sentence(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str], command: str, device: str
) -> None:
    if torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available():
        pytest.skip(f"this machine has {device}")
    sentence = _sentence(f"{command} --device {device}", 2, capsys, folder, trained)
    assert f"no {device} device" in sentence
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("sample TMP/untrained --out TMP/out", "untrained"),
        ("info TMP/untrained", "untrained"),
        ("show reverse TMP/untrained --out TMP/a.png", "untrained"),
        ("train fashion-mini --out TMP/file/run --steps 1", "file"),
        ("sample RUN --out TMP/file/samples", "file"),
    ],
)
def test_what_the_system_or_the_run_lacks_is_one_sentence_and_exit_code_1(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str], command: str, named: str
) -> None:
    (folder / "untrained").mkdir()
    (folder / "untrained" / "config.toml").write_bytes((trained / "config.toml").read_bytes())
    sentence = _sentence(command, 1, capsys, folder, trained)
    assert named in sentence.replace(str(trained), "")


@pytest.mark.parametrize("content", [b"[model", b"[model]\nwidth = 3", b"\xff\xfe\x00\x01"])
@pytest.mark.parametrize(
    "command", ["info TMP/bad", "sample TMP/bad --out TMP/out", "train fashion-mini --out TMP/bad"]
)
def test_a_configuration_that_cannot_be_read_is_one_sentence(
    folder: Path, trained: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes
) -> None:
    shutil.copytree(trained, folder / "bad")
    (folder / "bad" / "config.toml").write_bytes(content)
    assert "config.toml" in _sentence(command, 2, capsys, folder, trained)
    assert (folder / "bad" / "config.toml").read_bytes() == content


def test_errors_of_the_input_are_value_errors_with_exit_code_2_and_others_have_1() -> None:
    assert issubclass(InputError, ClearwaterError)
    assert issubclass(InputError, ValueError)
    assert (InputError.exit_code, ClearwaterError.exit_code) == (2, 1)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    def mistaken(path: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("clearwater.training.RunFolder.open", mistaken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(["info", str(trained)])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_too_little_memory_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, trained: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def exhausted(path: object) -> None:
        raise error

    monkeypatch.setattr("clearwater.training.RunFolder.open", exhausted)
    assert "not enough memory" in _sentence("info RUN", 1, capsys, Path(), trained)


def test_the_process_ends_with_the_code_and_the_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clearwater", "info", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")


def test_a_reader_that_has_gone_away_is_no_error(trained: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "clearwater", "info", str(trained)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""


@pytest.mark.parametrize(("rank", "begins"), [("0", "Error: "), ("3", "Error (process 3): ")])
def test_of_many_processes_all_but_the_first_say_which_they_are(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rank: str, begins: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", rank)
    assert run(["info", str(trained)]) == 2
    assert capsys.readouterr().err.startswith(f"{begins}`clearwater info` is for one process")
