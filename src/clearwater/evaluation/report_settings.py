"""Of a run's report: its settings as tables, and the commands that go on with it."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path

from clearwater.config import Config
from clearwater.errors import InputError
from clearwater.settings import recipe_names, resolve

__all__ = ["commands", "settings_tables"]

_LONGEST = 200  # letters of a value, of which a list of classes can have many


def settings_tables(config: Config) -> str:
    """All settings, a table a section; those that differ from the schema's defaults are marked and say the default."""
    return "".join(_table(section, config) for section in Config.model_fields)


def commands(folder: Path, config: Config, *, finished: bool, averages: bool) -> str:
    """What to do next, as commands that can be copied.

    Args:
        folder: of the run.
        config: of the run.
        finished: whether training came to its end.
        averages: whether copies of averages were kept.
    """
    run, source, training = str(folder), config.data.source, config.training
    go_on = ["train", source, "--out", run, "--config", str(folder / "config.toml")]
    go_on += ["--from", training.start] if training.start is not None else _recipe(folder, config)
    if finished and training.steps is not None:
        go_on += ["--steps", str(2 * training.steps)]
    elif finished and training.minutes is not None:
        go_on += ["--minutes", f"{2 * training.minutes:g}"]
    shown = [
        ("Train on, to twice the length" if finished else "Go on with training", go_on),
        ("Sample", ["sample", run, "--out", str(folder / "samples")]),
        ("Measure the bound on images", ["bound", run, source, "--variance", "optimal"]),
    ]
    if averages:
        shown.append(("Compare averages of the weights", ["ema", run]))
    rows = (f"<dt>{escape(what)}</dt><dd><pre>{_command(words)}</pre></dd>" for what, words in shown)
    return f'<dl class="commands">{"".join(rows)}</dl>'


def _command(words: list[str]) -> str:
    return escape(shlex.join(["clearwater", *words]))


def _recipe(folder: Path, config: Config) -> list[str]:
    """The recipe over which the run's file is the run: it decides on what the file leaves unset."""
    for name in sorted(recipe_names(), key=lambda name: name != "small"):  # which is the default
        try:
            if resolve(recipe=name, file=folder / "config.toml") == config:
                return [] if name == "small" else ["--recipe", name]
        except InputError:
            continue
    return []


def _table(section: str, config: Config) -> str:
    kind = Config.model_fields[section].default.__class__
    values = getattr(config, section).model_dump(mode="json")
    defaults = kind().model_dump(mode="json")
    rows = (_row(name, values[name], defaults[name], kind.model_fields[name].description or "") for name in values)
    return f"<table><caption>{escape(section)}</caption><tbody>{''.join(rows)}</tbody></table>"


def _row(name: str, value: object, default: object, description: str) -> str:
    changed = value != default
    style = ' class="changed"' if changed else ""
    note = f"<small>default: {escape(_text(default))}</small>" if changed else ""
    head = f'<tr{style}><th scope="row">{escape(name)}</th><td>{escape(_text(value))}{note}</td>'
    return f"{head}<td>{escape(description)}</td></tr>"


def _text(value: object) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and len(text) > _LONGEST:
        return f"{text[:_LONGEST]} … ({len(value):,} in all)"
    return text
