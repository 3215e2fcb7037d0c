"""The live line of the long commands, on standard error."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

__all__ = ["Report", "command", "duration", "live_line", "say", "say_skipped"]

_SKIPPED_NAMED = 5
_PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class Report(Protocol):
    """Shows how far a task is."""

    def __call__(self, fraction: float, text: str, /) -> None:
        """`fraction` from 0 to 1, and what else to say in a few words."""


@contextmanager
def live_line(title: str, *, shown: bool = True) -> Iterator[Report]:
    """One line that is kept up to date; without a terminal, a new line every ten seconds; none unless `shown`."""
    if not shown:
        yield lambda fraction, text: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        last = -_PLAIN_SECONDS

        def plain(fraction: float, text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_SECONDS or fraction >= 1:
                last = time.monotonic()
                print(f"{title} {fraction:4.0%}  {text}", file=sys.stderr, flush=True)

        yield plain
        return
    columns = (TextColumn(title), BarColumn(bar_width=24), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=1.0)

        def live(fraction: float, text: str) -> None:
            progress.update(task, completed=fraction, description=text)

        yield live


def say(sentence: str) -> None:
    """A line for the person at the terminal, on standard error: standard output is for results."""
    print(sentence, file=sys.stderr, flush=True)


def say_skipped(skipped: Sequence[str]) -> None:
    """Names broken files, the first few, and counts them."""
    if skipped:
        more = "; …" if len(skipped) > _SKIPPED_NAMED else ""
        named = "; ".join(skipped[:_SKIPPED_NAMED])
        say(f"Skipped {len(skipped)} broken image(s): {named}{more}")


def command(*words: object) -> str:
    """A command line to suggest, with the name by which this program can be called here."""
    if shutil.which("clearwater"):
        program = "clearwater"
    else:
        program = "python -m clearwater" if Path(sys.argv[0]).name == "__main__.py" else sys.argv[0]
    return shlex.join([*program.split(), *map(str, words)])


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 07 min."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
