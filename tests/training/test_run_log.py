"""The log of a run: what was logged is what is read, whatever happened to the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clearwater.cli import run as command
from clearwater.config import Config
from clearwater.evaluation.report import report_page
from clearwater.training import RunFolder


def _entry(step: int, loss: float = 1.0) -> dict[str, float]:
    return {"step": step, "loss": loss}


def test_the_log_is_what_was_logged(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, tiny())
    assert run.entries() == []
    for step in (10, 20, 30):
        run.log(_entry(step, 1 / step))
    assert RunFolder.open(tmp_path).entries() == [_entry(step, 1 / step) for step in (10, 20, 30)]


def test_what_a_resumed_run_logs_again_replaces_what_came_after(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, tiny())
    for step in (10, 20, 30, 40):
        run.log(_entry(step, loss=1))
    for step in (25, 35):
        run.log(_entry(step, loss=2))
    assert run.entries() == [_entry(10, 1), _entry(20, 1), _entry(25, 2), _entry(35, 2)]


def test_a_torn_last_line_is_ignored_and_costs_no_later_one(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, tiny())
    run.log(_entry(10))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 20, "lo')
    assert run.entries() == [_entry(10)]
    run.log(_entry(30))
    run.log(_entry(40))
    assert run.entries() == [_entry(10), _entry(30), _entry(40)]


_NO_REPORTS = [
    "7",
    "null",
    '"step"',
    "[]",
    '[{"step": 15, "loss": 1.0}]',
    "{}",
    '{"step": 15}',
    '{"loss": 1.0}',
    '{"step": "15", "loss": 1.0}',
    '{"step": null, "loss": 1.0}',
    '{"step": true, "loss": 1.0}',
    '{"step": 15.5, "loss": 1.0}',
    '{"step": NaN, "loss": 1.0}',
    '{"step": -1, "loss": 1.0}',
    '{"step": 1e400, "loss": 1.0}',
    f'{{"step": {10**30}, "loss": 1.0}}',
    '{"step": [15], "loss": 1.0}',
    '{"step": 15, "loss": "1.0"}',
    '{"step": 15, "loss": null}',
    '{"step": 15, "loss": false}',
    '{"step": 15, "loss": NaN}',
    '{"step": 15, "loss": -Infinity}',
    f'{{"step": 15, "loss": {10**400}}}',
    f'{{"step": {"1" * 5000}, "loss": 1.0}}',
    '{"step": 15, "loss": {}}',
    "[" * 100_000,
]


def _with_lines(run: RunFolder, lines: list[str]) -> None:
    with (run.path / "log.jsonl").open("a") as log:
        log.write("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize("line", _NO_REPORTS, ids=lambda line: line[:30])
def test_a_line_that_is_no_report_is_left_out(tiny: Callable[..., Config], tmp_path: Path, line: str) -> None:
    run = RunFolder.create(tmp_path, tiny())
    run.log(_entry(10))
    _with_lines(run, [line])
    run.log(_entry(20))
    assert run.entries() == [_entry(10), _entry(20)]


_NO_NUMBERS = ["x", None, True, 3, -1e308, [], [1], ["x"] * 10, [None] * 10, [[1]] * 10, {"a": 1}, 10**400]


@pytest.mark.parametrize("value", _NO_NUMBERS, ids=lambda value: str(value)[:20])
def test_whatever_else_is_in_a_report_the_page_is_made(
    tiny: Callable[..., Config], tmp_path: Path, value: object
) -> None:
    run = RunFolder.create(tmp_path, tiny())
    names = (
        "seconds fraction learning_rate images_per_second gradient_norm level_losses memory_mb "
        "unseen_loss unseen_images bits_per_dim bits_per_dim_error preview"
    )
    for step in (10, 20, 30):
        run.log(_entry(step) | dict.fromkeys(names.split(), value))
    assert len(run.entries()) == 3
    assert "No checkpoint yet" in report_page(run)


def test_training_and_the_page_are_not_in_the_way_of_a_damaged_log(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    _with_lines(RunFolder.open(folder), _NO_REPORTS)
    before = (folder / "log.jsonl").read_bytes()
    assert command(["report", str(folder), "--quick"]) == 0
    options = ["--out", str(folder), "--config", str(folder / "config.toml"), "--steps", "12", "--device", "cpu"]
    assert command(["train", "fashion-mini", *options]) == 0
    assert (folder / "log.jsonl").read_bytes().startswith(before)
    assert [entry["step"] for entry in RunFolder.open(folder).entries()][-1] == 12
    assert "Error" not in capsys.readouterr().err
