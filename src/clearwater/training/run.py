"""Run folders: a configuration, a log, and checkpoints that are there whole or not at all.

RUN/config.toml           the configuration of the run
RUN/log.jsonl             one line a report (log.py)
RUN/averages/             copies of averages, for one of any length (posthoc.py)
RUN/checkpoints/000001000/  after step 1000 (checkpoint.py)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clearwater.config import Config
from clearwater.errors import ClearwaterError, InputError
from clearwater.files import alone_in, sync, write_atomically
from clearwater.training.checkpoint import (
    Checkpoint,
    Place,
    TornError,
    read_place,
    read_state,
    read_weights,
    write_checkpoint,
)
from clearwater.training.log import append, reports
from clearwater.training.posthoc import Snapshots
from clearwater.world import World

__all__ = ["RunFolder", "newest"]

_KEPT = 2
_ENDS = ("training.steps ", "training.minutes ")
_OF_WEIGHTS = (
    "model.",
    "data.augment",
    "chain.",
    "data.size",
    "data.channels",
    "data.labels",
    "data.classes",
    "objective.target",
)

Read = TypeVar("Read")


class RunFolder:
    """A folder that holds one run.

    Attributes:
        path: the folder.
        warnings: a sentence for each torn checkpoint that was passed over.
        snapshots: the copies of averages that were kept on the way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.snapshots = Snapshots(path / "averages")
        self._accepted: Config | None = None
        self._torn: set[Path] = set()

    @classmethod
    def create(cls, path: Path, config: Config, *, override: bool = False) -> RunFolder:
        """The run folder at `path`: a new one, or the one of an earlier run with the same configuration.

        The end of training alone may differ: the run then goes on to the new end. With `override` all may differ that
        the weights do not depend on, and all may as long as there is no checkpoint.

        Raises:
            InputError: the folder holds something else, or a run with another configuration.
        """
        cls.refuse_other(path)
        run = cls(path)
        differences = run.config().differences(config) if run._config_path.is_file() else []
        of_weights = [name for name in differences if name.startswith(_OF_WEIGHTS)]
        if not run._config_path.is_file():
            path.mkdir(parents=True, exist_ok=True)
            write_atomically(run._config_path, config.to_toml().encode())
        elif not run._folders() or all(name.startswith(_ENDS) for name in differences):
            # Nothing was learned in it yet, or it is the same run to another end.
            if differences:
                with run.held():
                    write_atomically(run._config_path, config.to_toml().encode())
        elif override and not of_weights:
            run._accepted = config
        else:
            remedy = (
                "and what is learned depends on that, so it cannot be overridden: give --out another folder."
                if override
                else "repeat its own command to go on with it, say --override to go on with the new settings, or "
                "give --out another folder."
            )
            raise InputError(
                f"'{path}' holds a run with other settings (there and now: "
                f"{'; '.join(of_weights if override else differences)}): {remedy}"
            )
        return run

    def accept(self) -> None:
        """Writes down settings that override the run's, now that it has been seen that it goes on with them."""
        if self._accepted is not None:
            write_atomically(self._config_path, self._accepted.to_toml().encode())
            self._accepted = None

    @classmethod
    def refuse_other(cls, path: Path) -> None:
        """Refuses, with an `InputError`, a path where something is that is not a run to go on with."""
        if cls._is_checkpoint(path):
            raise InputError(f"'{path}' is one checkpoint of a run: give --out the run's own folder, or another.")
        if path.exists() and not path.is_dir():
            raise InputError(f"'{path}' is a file: give --out a folder that does not exist, is empty or holds a run.")
        if path.is_dir() and not cls(path)._config_path.is_file() and any(path.iterdir()):
            raise InputError(f"'{path}' holds something that is not a run: give --out an empty or a new folder.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at `path`, or the one of which only this checkpoint is left.

        Raises:
            InputError: there is no run.
        """
        run = cls(path)
        if not run._config_path.is_file():
            what = "is not a run folder (it has no config.toml)" if path.exists() else "does not exist"
            raise InputError(f"'{path}' {what}: give the folder that `clearwater train` wrote with --out.")
        return run

    def config(self) -> Config:
        """The configuration of the run."""
        try:
            text = self._config_path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"'{self._config_path}' is not a text file: restore it, or train again.") from None
        return Config.from_toml(text, str(self._config_path))

    def held(self) -> AbstractContextManager[None]:
        """Keeps other processes from training into the folder meanwhile: they would remove each other's checkpoints.

        Raises:
            InputError: another one does.
        """
        refusal = f"Another process trains into '{self.path}': wait until it has ended, or give --out another folder."
        return alone_in(self.path, refusal)

    def save(self, checkpoint: Checkpoint, config: Config) -> Path:
        """Writes a checkpoint beside the earlier ones, then removes all but the last few. Returns its folder."""
        folder = self._checkpoints / f"{checkpoint.place.step:09d}"
        for stray in [*self._checkpoints.glob("*.part"), *self._checkpoints.glob("*.replaced")]:
            shutil.rmtree(stray, ignore_errors=True)
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        try:
            write_checkpoint(part, checkpoint, config)
            if folder.exists():  # torn, perhaps: training came here again from an earlier one
                folder.rename(folder.with_suffix(".replaced"))
            part.rename(folder)
            sync(self._checkpoints)
            shutil.rmtree(folder.with_suffix(".replaced"), ignore_errors=True)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._torn.discard(folder)
        with suppress(OSError):  # the checkpoint is written; what is spent can go the next time
            self._clear(folder)
        return folder

    def _clear(self, newest: Path) -> None:
        """Removes all checkpoints but the newest and the last whole ones before it."""
        # Later ones are torn, or training would not be here: of one that is merely out of reach it would have said so.
        folders = self._folders()
        whole = [other for other in folders if other.name <= newest.name and other not in self._torn]
        for spent in set(folders) - set(whole[-_KEPT:]):
            shutil.rmtree(spent, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None if none was written. Torn ones go to `warnings`.

        Raises:
            ClearwaterError: a newer one is of another version, or cannot be read now and may be whole.
        """
        return self._newest(read_state)

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint after this step, or None if there is none that can be read."""
        return self._newest(read_state, [self._checkpoints / f"{step:09d}"])

    def model(self, weights: Literal["ema", "raw"] = "ema") -> tuple[dict[str, Tensor], Place]:
        """The weights of the newest readable checkpoint, averaged or raw, and its place: step, seconds, images."""

        def read(folder: Path) -> tuple[dict[str, Tensor], Place]:
            return read_state(folder).network if weights == "raw" else read_weights(folder), read_place(folder)

        found = self._newest(read)
        if found is None:
            raise ClearwaterError(f"'{self.path}' has no checkpoint that can be read: train it first, or again.")
        return found

    def keep(self, what: str, tensors: dict[str, Tensor], key: dict[str, str]) -> None:
        """Keeps what was measured of a model; `key` says of what (checkpoint, clipping, weights)."""
        write_atomically(self._kept_path(what, key), save(tensors, metadata=key))

    def kept(self, what: str, key: dict[str, str]) -> dict[str, Tensor] | None:
        """What was measured of this model under this name, or None."""
        try:
            with safe_open(self._kept_path(what, key), framework="pt") as file:
                if file.metadata() != key:
                    return None
                names = file.keys()
                return {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError):  # none yet, or torn: it is measured again
            return None

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a line to the log."""
        append(self._log_path, entry)

    def entries(self) -> list[dict[str, Any]]:
        """The log, in the order of the steps; what an interruption made obsolete is left out, and what is damaged."""
        return reports(self._log_path)

    @staticmethod
    def _is_checkpoint(path: Path) -> bool:
        return (path / "state.json").is_file()

    @property
    def _config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def _log_path(self) -> Path:
        return self.path / "log.jsonl"

    def _kept_path(self, what: str, key: dict[str, str]) -> Path:
        return self.path / f"{what}-{'-'.join(key.values())}.safetensors"

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _folders(self) -> list[Path]:
        if self._is_checkpoint(self.path):
            return [self.path]
        try:  # glob would take a folder out of reach for an empty one, and the run would begin again
            found = list(self._checkpoints.iterdir())
        except FileNotFoundError:
            return []
        return sorted(folder for folder in found if folder.name.isdecimal())

    def _newest(self, read: Callable[[Path], Read], folders: list[Path] | None = None) -> Read | None:
        """What is read of the newest checkpoint of which it can be."""
        for folder in reversed(self._folders() if folders is None else folders):
            try:
                return read(folder)
            except TornError as error:
                self._torn.add(folder)
                self.warnings.append(f"The checkpoint '{folder}' cannot be read ({error}), so it is passed over.")
        return None


def newest(run: RunFolder, world: World) -> Checkpoint | None:
    """The newest checkpoint that the first process can read, in all of them; None if there is none.

    Raises:
        ClearwaterError: another process cannot read it.
    """
    checkpoint = run.latest() if world.first else None
    step = world.told(None if checkpoint is None else checkpoint.place.step)
    if world.first or step is None:
        return checkpoint
    checkpoint = run.at(step)
    if checkpoint is None:
        raise ClearwaterError(
            f"Process {world.rank} cannot read the checkpoint of step {step} in '{run.path}': keep the run in a folder "
            "that all machines share."
        )
    return checkpoint
