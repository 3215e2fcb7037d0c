"""Where the course of a run is also shown, if asked for: TensorBoard, Weights & Biases, trackio.

Each library is imported when it is asked for, and what goes wrong in it later does not end training.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from clearwater.config import Config
from clearwater.errors import ClearwaterError, InputError
from clearwater.files import write_atomically
from clearwater.training.run import RunFolder

__all__ = ["MONITORS", "Monitor", "libraries", "open_monitors"]

_PROJECT = "clearwater"
_SAMPLES = "samples"


class Monitor(Protocol):
    """Shows the course of training somewhere."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values after a step, by name."""

    def picture(self, step: int, path: Path) -> None:
        """Samples drawn after a step, a PNG."""

    def close(self) -> None:
        """Nothing more will come."""


class _TensorBoard:
    """Writes RUN/tensorboard, for ``tensorboard --logdir RUN``.

    Args:
        library: torch.utils.tensorboard.
        run: the run.
        config: of the run.
    """

    def __init__(self, library: Any, run: RunFolder, config: Config) -> None:
        self._library, self._folder, self._config = library, run.path / "tensorboard", config
        self._writer: Any = None
        self._step = -1

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        writer = self._writer_at(step)
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self._writer_at(step).add_image(_SAMPLES, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _writer_at(self, step: int) -> Any:
        """A writer whose file goes on after the steps before this one.

        At the first step since training began or went back, whatever an earlier file has of it and of later ones is
        declared void: the steps come again.
        """
        if self._writer is None or step < self._step:
            self.close()
            self._writer = self._library.SummaryWriter(str(self._folder), purge_step=step, flush_secs=30)
            self._writer.add_text("configuration", f"```toml\n{self._config.to_toml()}```", step)
        self._step = step
        return self._writer


class _Sent:
    """Sends to a library of W&B's interface. Its steps only rise, so those that come again are not sent again.

    Args:
        library: for its `Image`.
        session: what its `init` returned.
        run: the run, whose log says what was sent before.
    """

    def __init__(self, library: Any, session: Any, run: RunFolder) -> None:
        self._library, self._session = library, session
        entries = run.entries()
        self._step = int(entries[-1]["step"]) + 1 if entries else 0  # the first that is new

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._step:
            self._step = step
            self._session.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        if step >= self._step:
            self._step = step
            self._session.log({_SAMPLES: self._library.Image(str(path))}, step=step)

    def close(self) -> None:
        self._session.finish()


def _wandb(library: Any, run: RunFolder, config: Config) -> Monitor:
    """Weights & Biases, or RUN/wandb with WANDB_MODE=offline; a run that goes on is the same one there."""
    session = library.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT),
        name=run.path.resolve().name,
        id=_identity(run),
        resume="allow",
        dir=str(run.path),
        config=config.model_dump(mode="json"),
        settings=library.Settings(console="off"),  # the live line is no log
    )
    return _Sent(library, session, run)


def _trackio(library: Any, run: RunFolder, config: Config) -> Monitor:
    """trackio's own folder (TRACKIO_DIR), for ``trackio show``; a run that goes on is the same one there."""
    session = library.init(
        project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
        name=f"{run.path.resolve().name}-{_identity(run)}",  # by which it knows a run
        resume="allow",
        config=config.model_dump(mode="json"),
        embed=False,
    )
    return _Sent(library, session, run)


class _Forgiving:
    """A monitor whose failure is told once, and ends the monitor alone."""

    def __init__(self, name: str, inner: Monitor, tell: Callable[[str], None]) -> None:
        self._name, self._inner, self._tell = name, inner, tell
        self._works = True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._inner.scalars(step, values))

    def picture(self, step: int, path: Path) -> None:
        self._try(lambda: self._inner.picture(step, path))

    def close(self) -> None:
        self._try(self._inner.close)

    def _try(self, action: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # a full disk, a network, whatever the library has of its own
            self._works = False
            self._tell(f"{self._name} failed ({_told(error)}) and is shown nothing more; training goes on.")


MONITORS: dict[str, tuple[str, Callable[[Any, RunFolder, Config], Monitor]]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "trackio": ("trackio", _trackio),
    "wandb": ("wandb", _wandb),
}
"""By the name of the extra: the module, and what is made with it."""


def open_monitors(
    names: Sequence[str], run: RunFolder, config: Config, tell: Callable[[str], None] | None = None
) -> list[Monitor]:
    """The monitors with these names, each once, which go on with what they were shown of the run before.

    Args:
        names: of `MONITORS`.
        run: the run.
        config: of the run.
        tell: is told, in a sentence, of a monitor that fails later; a line on standard error if None.

    Raises:
        InputError: there is no such monitor, or its library is not installed.
        ClearwaterError: a library does not begin.
    """
    opened: list[Monitor] = []
    for name, library in libraries(names).items():  # all of them, before any begins
        try:
            monitor = MONITORS[name][1](library, run, config)
        except Exception as error:
            for other in opened:
                other.close()
            raise ClearwaterError(
                f"{name} does not begin ({_told(error)}): set it up as its own manual says, or leave out --log {name}."
            ) from error
        opened.append(_Forgiving(name, monitor, _to_standard_error if tell is None else tell))
    return opened


def libraries(names: Sequence[str]) -> dict[str, Any]:
    """The modules of the monitors with these names, each once.

    Raises:
        InputError: there is no such monitor, or its library is not installed.
    """
    unknown = [name for name in names if name not in MONITORS]
    if unknown:
        raise InputError(f"There is no monitor '{unknown[0]}': --log takes {', '.join(MONITORS)}.")
    return {name: _library(name) for name in names}


def _library(name: str) -> Any:
    try:
        return import_module(MONITORS[name][0])
    except ImportError:
        raise InputError(f"--log {name} needs {name}: pip install 'clearwater[{name}]'.") from None


def _identity(run: RunFolder) -> str:
    """What the run is called where names have to be unique: made once, and kept in its folder."""
    path = run.path / "monitor-id.txt"
    if not path.is_file():
        write_atomically(path, secrets.token_hex(4).encode())
    return path.read_text().strip()


def _told(error: Exception) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _to_standard_error(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
