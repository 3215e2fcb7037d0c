"""`clearwater report`: how a run went, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clearwater.cli.options import Device, Run, SeenCache
from clearwater.cli.progress import say
from clearwater.errors import InputError

__all__ = ["report"]


def report(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="The file, .html.", show_default="RUN/report.html")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only write the page, of what is in the folder: nothing is measured.")
    ] = False,
    cache: SeenCache = None,
    device: Device = "auto",
) -> None:
    """Write how RUN went: samples, figures, curves, cost and commands, in one .html file that needs nothing else.

    What the page lacks of the newest model is made first, and kept with the run: pictures of the processes, figures of
    2,000 samples, the bound. Ctrl-C goes on to the page without it.
    """
    from clearwater.cli.completing import complete
    from clearwater.evaluation.report import write_report
    from clearwater.training import RunFolder

    folder = RunFolder.open(run)
    if out is not None and out.suffix.lower() != ".html":
        raise InputError(f"The report is written as .html, not as '{out.name}'.")
    whole = quick or complete(folder, device, cache)
    say(f"Wrote '{write_report(folder, out)}': open it in a browser.")
    if not whole:
        raise typer.Exit(130)
