"""`clearwater report`: where the page is written, and that the commands on it are commands."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from reports import parsed, tiles

from clearwater.cli import run
from clearwater.training import RunFolder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that may be changed, in a folder whose name a shell would take apart."""
    return shutil.copytree(trained, tmp_path / "my run's $copy")


def test_the_page_is_written_into_the_run(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "report.html").unlink(missing_ok=True)
    capsys.readouterr()
    assert run(["report", str(copied), "--quick"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"Wrote '{copied / 'report.html'}': open it in a browser.\n")
    page = parsed((copied / "report.html").read_text(encoding="utf-8"))
    assert page.all("h1")[0].text == "my run's $copy"
    assert tiles(page)["Steps"] == "8 of 8"


def test_the_page_is_written_elsewhere_if_asked_for(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.HTML"
    assert run(["report", str(trained), "--out", str(out), "--quick"]) == 0
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_page_with_another_ending_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(trained), "--out", str(tmp_path / "page.pdf")]) == 2
    assert capsys.readouterr().err == "Error: The report is written as .html, not as 'page.pdf'.\n"


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_commands_on_the_page_run(copied: Path) -> None:
    assert run(["report", str(copied), "--quick"]) == 0
    page = parsed((copied / "report.html").read_text(encoding="utf-8"))
    go_on, sample, *_ = (shlex.split(command.text) for command in page.all("dl", "commands")[0].all("pre"))
    assert (go_on[0], sample[0]) == ("clearwater", "clearwater")
    assert run([*go_on[1:], "--device", "cpu"]) == 0
    assert RunFolder.open(copied).model()[1].step == 16  # to twice the length
    assert run([*sample[1:], "--device", "cpu", "--n", "1"]) == 0
    assert (copied / "samples" / "000000.png").is_file()
