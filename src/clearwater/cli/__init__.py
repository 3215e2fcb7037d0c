"""The command line. One file a command; torch is imported by the commands that need it, when they run."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clearwater import __version__
from clearwater.cli import (
    bound,
    compare,
    demo,
    demonstrations,
    ema,
    info,
    interpolate,
    measure,
    report,
    restore,
    sample,
    show,
    train,
    variance,
)
from clearwater.errors import ClearwaterError, InputError

__all__ = ["app", "main", "run"]

_IMPORTED = time.monotonic()
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class _Commands(TyperGroup):
    """Commands of which an interrupted one ends with a word, where it has none of its own."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="clearwater",
    cls=_Commands,
    help="Denoising diffusion models: train on your images, sample, look.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("sample")(sample.sample)
app.command("restore")(restore.restore)
app.command("interpolate")(interpolate.interpolate)
show.app.command("reverse-steps")(demonstrations.reverse_steps)
show.app.command("one-shot")(demonstrations.one_shot)
show.app.command("gradients")(demonstrations.gradients)
show.app.command("weights")(demonstrations.weights)
app.add_typer(show.app, name="show")
app.command("info")(info.info)
app.command("measure")(measure.measure)
app.command("compare")(compare.compare)
app.command("bound")(bound.bound)
app.command("variance")(variance.variance)
app.command("ema")(ema.ema)
app.command("report")(report.report)


def _version(asked: bool) -> None:
    if asked:
        print(f"clearwater {__version__}")
        raise typer.Exit


_FOR_MANY = ("train", "sample", "restore", "measure", "bound")


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Denoising diffusion models: train on your images, sample, look."""
    if context.invoked_subcommand not in _FOR_MANY and os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError(
            f"`clearwater {context.invoked_subcommand}` is for one process, and WORLD_SIZE is "
            f"{os.environ['WORLD_SIZE']}: start it without torchrun (of many are: {', '.join(_FOR_MANY)})."
        )


def run(arguments: Sequence[str], began: float | None = None) -> int:
    """Runs a command; what the user can act on is told in one sentence. Returns the exit code.

    Args:
        arguments: without the program's name.
        began: when the person has started it, on the monotonic clock; now if None. A budget of time counts from there.
    """
    try:
        started = time.monotonic() if began is None else began
        code = app(args=list(arguments), prog_name="clearwater", standalone_mode=False, obj=started)
    except ClearwaterError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "")
        return _fail(message, error.exit_code) if message else error.exit_code
    except typer.Abort:
        return _fail("Interrupted.", 130)
    except BrokenPipeError:
        # What reads our output has gone (`| head`): say nothing more, also not when Python flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(_of_system(error), 1)
    except (MemoryError, RuntimeError) as error:
        # torch says it in words where the processor's memory is meant, and with a class of its own for a GPU's.
        if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
            return _fail("There is not enough memory for this: ask for less (batch, size, levels, model).", 1)
        raise
    return code if isinstance(code, int) else 0


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:], _IMPORTED))


def _fail(sentence: str, code: int) -> int:
    # What all processes find, all of them say: so it is seen that it is one thing, and not several.
    process = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    print(f"Error{'' if process == '0' else f' (process {process})'}: {sentence}", file=sys.stderr)
    return code


def _of_system(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f" ('{error.filename}')" if error.filename else ""
    full = error.errno == errno.ENOSPC or "No space" in str(error)
    remedy = "free some space and repeat the command" if full else "check the path and its permissions"
    return f"{what}{where}: {remedy}; what was saved before is kept."
