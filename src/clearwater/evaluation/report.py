"""The report of a run: one HTML page that needs nothing else, made of the run folder alone.

It is made again and again during training, so it costs little: charts are thinned and drawn as SVG (report_svg.py),
no weights are read, and of the pictures all but the newest are made small.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from clearwater import __version__
from clearwater.config import Config
from clearwater.evaluation.report_bound import bound
from clearwater.evaluation.report_bound import headline as bounded
from clearwater.evaluation.report_charts import charts, of_which_images, window
from clearwater.evaluation.report_commands import next_steps, train_again
from clearwater.evaluation.report_cost import cost, duration
from clearwater.evaluation.report_fidelity import fidelity, headline
from clearwater.evaluation.report_pictures import nearest, processes, samples
from clearwater.evaluation.report_progress import Progress
from clearwater.evaluation.report_series import Log, running_mean
from clearwater.evaluation.report_settings import settings_tables
from clearwater.evaluation.report_svg import figures
from clearwater.files import write_atomically
from clearwater.training.run import RunFolder

__all__ = ["report_page", "write_report"]

_NAMED = 50  # skipped files


def write_report(run: RunFolder, out: Path | None = None) -> Path:
    """Writes the report of a run, whole or not at all. Returns where.

    Args:
        run: the run, of which config.toml is all that has to be there.
        out: the file; report.html in the run folder if None.
    """
    path = run.path / "report.html" if out is None else out
    # A name may be bytes that are no text; and what the next report replaces need not outlive a machine.
    write_atomically(path, report_page(run).encode(errors="replace"), durable=False)
    return path


def report_page(run: RunFolder) -> str:
    """The report of a run as HTML without any reference to another file or address."""
    config, log = run.config(), Log.of(run.entries())
    progress = Progress.of(run.path, config, log)
    folder, step = run.path.resolve(), progress.kept_step
    averages = sum(path.stem.isdecimal() for path in (folder / "averages").glob("*.safetensors"))
    drawn = charts(log, config)
    curves = f'<div class="charts">{drawn}</div>{train_again(folder, config)}'
    body = (
        _head(folder, config, log, progress),
        _section("Samples", samples(folder, config)),
        _section("Fidelity", fidelity(folder, config.data.source, step)),
        _section("Nearest training images", nearest(folder, step)),
        _section("Into noise and out of it", processes(folder, config, step)),
        _section("The bound by level", bound(folder, config.data.source, step)),
        _section("Training", curves if drawn else "<p>Nothing was logged yet.</p>"),
        _section("Cost", cost(log, progress.seconds, progress.images, progress.checkpoint)),
        _section("What next", next_steps(folder, config, finished=progress.finished, averages=averages > 0)),
        _section(
            "Settings",
            "<p class=\"soft\">Marked: what differs from the schema's default, which is Ho's model of CIFAR-10.</p>"
            + settings_tables(config),
        ),
        _section("Skipped files", _skipped(folder)),
        f"<footer>Written by clearwater {escape(__version__)} from the run folder alone; it refers to nothing outside "
        f"this file. {averages:,} copies of averages are kept.</footer>",
    )
    style, script = ((files("clearwater.evaluation") / name).read_text("utf-8") for name in ("report.css", "report.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Whatever a hostile name might bring in, the browser asks for nothing.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(folder.name)} · clearwater</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>{''.join(body)}</main>\n<script>\n{script}</script></body></html>\n"
    )


def _head(folder: Path, config: Config, log: Log, progress: Progress) -> str:
    data = config.data
    kinds = {1: "grey", 3: "RGB", None: "images"}[data.channels]
    size = "" if data.size is None else f"{data.size[0]} × {data.size[1]}, "
    classes = f", {len(data.classes):,} classes" if data.labels and data.classes else ""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}<small>{escape(more)}</small></dd></div>"
        for name, value, more in _tiles(folder, config, log, progress)
    )
    return (
        f'<header><h1>{escape(folder.name)}</h1><p class="soft">Trained on {escape(data.source)}: '
        f'{size}{kinds}{classes}.</p>{_state(folder, progress)}<dl class="tiles">{shown}</dl></header>'
    )


def _tiles(folder: Path, config: Config, log: Log, progress: Progress) -> Iterator[tuple[str, str, str]]:
    """The figures that matter first: what each is, the number, and what follows it in small print."""
    training = config.training
    yield "Steps", f"{progress.step:,}", "" if training.steps is None else f" of {training.steps:,}"
    yield "Images seen", f"{progress.images:,}", ""
    time, unit = duration(progress.seconds)
    if training.minutes is not None:
        whole, of_unit = duration(60 * training.minutes)
        unit = f"of {whole} {of_unit}" if unit == of_unit else f"{unit} of {whole} {of_unit}"
    yield "Training time", time, f" {unit}"
    speed, unseen, bits = (log.last(name) for name in ("images_per_second", "unseen_loss", "bits_per_dim"))
    if speed is not None:
        yield "Speed, last report", figures(speed), " images/s"
    means = running_mean(log.column("loss"), window(log))
    means = means[np.isfinite(means)]
    if len(means):
        yield "Loss", figures(means[-1]), f" mean of {window(log):,}"
    if unseen is not None:
        yield f"Loss of {of_which_images(log)}", figures(unseen), ""
    measured = None if progress.kept is None else bounded(folder, config.data.source, progress.kept.step)
    if measured is not None:
        yield measured
    elif bits is not None:
        error = log.column("bits_per_dim_error")[np.isfinite(log.column("bits_per_dim"))][-1]
        yield (
            f"Bound, {of_which_images(log)}",
            figures(bits),
            f" ±\N{NO-BREAK SPACE}{error:.2g}" if np.isfinite(error) else "",
        )
    near = None if progress.kept is None else headline(folder, config.data.source, progress.kept.step)
    if near is not None:
        yield near


def _state(folder: Path, progress: Progress) -> str:
    """Whether training is finished, and when it was last heard of."""
    percent = 100 * (progress.fraction or 0.0)
    state = "Finished." if progress.finished else f"{percent:.0f}% of the way."
    if progress.fraction is None:
        state = "The settings name no end."
    log = folder / "log.jsonl"
    heard = (
        f" Last report {datetime.fromtimestamp(log.stat().st_mtime).astimezone():%Y-%m-%d %H:%M %Z}."
        if log.is_file()
        else ""
    )
    kept = "No checkpoint yet." if progress.kept is None else f"Last checkpoint after step {progress.kept.step:,}."
    bar = (
        f'<div class="bar-of-progress" role="progressbar" aria-label="Training" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent:.0f}"><i style="width:{percent:.1f}%"></i></div>'
    )
    return f"{bar}<p>{state}{heard} {kept}</p>"


def _skipped(folder: Path) -> str:
    path = folder / "skipped.txt"
    names = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    if not names:
        return ""
    more = f"<li>… and {len(names) - _NAMED:,} more, in skipped.txt</li>" if len(names) > _NAMED else ""
    listed = "".join(f"<li>{escape(name)}</li>" for name in names[:_NAMED])
    return f"<p>{len(names):,} broken files were not trained on:</p><ul>{listed}{more}</ul>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>\n" if content else ""
