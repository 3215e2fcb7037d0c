"""The command that is running, as words that do the same again."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["repeating"]

_OF_THE_FORM = ("as_json", "per_image", "plot")  # how what is found is shown


def repeating(context: typer.Context) -> tuple[str, ...]:
    """The words after `clearwater` that do what is being done again, from any folder."""
    from clearwater.data import lasting_name

    def lasting(value: object) -> str:
        there = isinstance(value, str | Path) and Path(value).exists()
        return lasting_name(str(value)) if there else str(value)

    words = [context.info_name or ""]
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "")
        value = context.params.get(parameter.name or "")
        if given is None or given.name != "COMMANDLINE" or value is None or parameter.name in _OF_THE_FORM:
            continue
        several = value if isinstance(value, tuple | list) else [value]
        if parameter.param_type_name == "argument":
            words += map(lasting, several)
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [max(parameter.opts, key=len), *map(lasting, several)]
    return tuple(words)
