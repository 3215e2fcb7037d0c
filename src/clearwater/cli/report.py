"""`clearwater report`: how a run went, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearwater.cli.options import Run
from clearwater.cli.progress import say
from clearwater.errors import InputError

__all__ = ["report"]


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="The file, .html.", show_default="RUN/report.html")] = None,
) -> None:
    """Write how RUN went: samples, curves, settings and commands, in one .html file that needs nothing else."""
    from clearwater.evaluation.report import write_report
    from clearwater.training import RunFolder

    folder = RunFolder.open(run)
    if out is not None and out.suffix.lower() != ".html":
        raise InputError(f"The report is written as .html, not as '{out.name}'.")
    say(f"Wrote '{write_report(folder, out)}': open it in a browser.")
