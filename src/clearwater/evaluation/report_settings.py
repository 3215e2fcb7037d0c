"""Of a run's report: its settings as tables."""

from __future__ import annotations

import json
from html import escape

from clearwater.config import Config

__all__ = ["settings_tables"]

_LONGEST = 200  # letters of a value, of which a list of classes can have many


def settings_tables(config: Config) -> str:
    """All settings, a table a section; those that differ from the schema's defaults are marked and say the default."""
    return "".join(_table(section, config) for section in Config.model_fields)


def _table(section: str, config: Config) -> str:
    kind = Config.model_fields[section].default.__class__
    values = getattr(config, section).model_dump(mode="json")
    defaults = kind().model_dump(mode="json")
    rows = (_row(name, values[name], defaults[name], kind.model_fields[name].description or "") for name in values)
    return f'<table class="settings"><caption>{escape(section)}</caption><tbody>{"".join(rows)}</tbody></table>'


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
