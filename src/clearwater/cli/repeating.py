"""The command that is running, as words that do the same again, and what it has found, kept beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clearwater.cli.progress import say

if TYPE_CHECKING:
    from clearwater.training import RunFolder

__all__ = ["if_it_can_be_kept", "keep_with", "repeating"]

_OF_THE_FORM = ("as_json", "per_image", "plot")  # how what is found is shown
_PLACES = ("subject", "data", "held_out")  # words that may be paths, besides what can be nothing else


def repeating(context: typer.Context) -> tuple[str, ...]:
    """The words after `clearwater` that do what is being done again, from any folder."""
    words = [context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        value = context.params.get(name)
        if given is None or given.name != "COMMANDLINE" or value is None or name in _OF_THE_FORM:
            continue
        several = [_lasting(name, each) for each in (value if isinstance(value, tuple | list) else [value])]
        if parameter.param_type_name == "argument":
            words += several
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [max(parameter.opts, key=len), *several]
    return tuple(words)


def _lasting(name: str, value: object) -> str:
    """The value with paths that do not depend on the folder one is in."""
    from clearwater.data import lasting_name

    if isinstance(value, Path) or (name in _PLACES and Path(str(value)).exists()):
        return lasting_name(str(value))
    before, colon, path = str(value).rpartition(":")
    if name == "features" and colon and Path(path).exists():
        return f"{before}:{Path(path).resolve()}"
    return str(value)


def keep_with(folder: RunFolder, kind: str, context: typer.Context, found: dict[str, Any]) -> None:
    """Keeps what the command has found with the run that it is of, or says that it could not."""
    from clearwater.evaluation.results import Result, keep

    with if_it_can_be_kept(folder):
        keep(folder.path, Result(kind, folder.model()[1].step, repeating(context), found))


@contextmanager
def if_it_can_be_kept(folder: RunFolder) -> Iterator[None]:
    """What is found is told all the same where it cannot be kept: the run may be somebody else's."""
    try:
        yield
    except OSError as error:
        _say_once(f"What was found could not be kept with the run '{folder.path}' ({error.strerror}).")


@cache
def _say_once(sentence: str) -> None:
    say(sentence)
